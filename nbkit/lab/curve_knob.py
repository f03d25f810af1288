"""A knob whose value is a curve: drawn with the mouse, or written as a name or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkit.base.numbers import read_real
from nbkit.lab.knobs import Knob, KnobError, Value

POINTS = 21  # of a drawn curve, equally far apart: one every 5 % of the way


def _list_presets() -> dict[str, list[float]]:
    """List the curves that have a name: heights from 0 to 1, one every 5 % of the way."""
    shares = [place / (POINTS - 1) for place in range(POINTS)]
    flat = [1.0] * POINTS
    linear, hill, late = [], [], []
    for share in shares:
        linear.append(round(1.0 - share, 2))
        # Up in the first 30 %, and down in the rest.
        hill.append(round(min(0.05 + share / 0.3, 1.0 - (share - 0.3) / 0.7, 1.0), 2))
        # Flat, and down in the last 20 %.
        late.append(round(min(1.0, (1.0 - share) / 0.2), 2))
    return {"constant": flat, "linear": linear, "hill": hill, "late": late}


PRESETS = _list_presets()


def read_curve(text: str) -> list[float] | None:
    """Read a curve: the name of a preset, or at least two numbers from 0 to 1; else None.

    >>> read_curve("1 0.5 0"), read_curve("1 2"), read_curve("constant") == [1.0] * POINTS
    ([1.0, 0.5, 0.0], None, True)
    """
    if text in PRESETS:
        return list(PRESETS[text])
    heights = []
    for word in text.split():
        try:
            height = read_real(float(word))
        except ValueError:
            return None
        # Written so that NaN is refused, too.
        if height is None or not 0 <= height <= 1:
            return None
        heights.append(height)
    return heights if len(heights) >= 2 else None


@dataclass(frozen=True)
class CurveKnob(Knob):
    """A knob of type str that holds a curve."""

    def describe_values(self) -> str:
        """Describe in words which values the knob takes."""
        return f"one of {', '.join(PRESETS)}, or at least two numbers from 0 to 1 with spaces"

    def _allows_value(self, value: Value) -> bool:
        return isinstance(value, str) and read_curve(value) is not None

    def _check_type(self, name: str, kind: type) -> None:
        if kind is not str:
            raise KnobError(f"{name} is a curve, so it must be declared str, got {kind.__name__}.")


def curve(*, stops: Sequence[str] = ("constant", "linear")) -> Knob:
    """Declare a curve over a training, heights from 0 to 1; a headless run visits the stops.

    Raises:
        KnobError: if the stops are not a list.
    """
    if not isinstance(stops, list | tuple):
        raise KnobError(f"stops of curve(...) must be a list, stops=[...], got {stops!r}.")
    return CurveKnob(stops=tuple(stops))
