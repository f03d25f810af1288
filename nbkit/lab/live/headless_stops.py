"""The sliders' headless twin: each declared stop of each knob, run and shown in a row."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbkit.lab.knobs import Knob, Value
from nbkit.lab.live.fitting import Fit, Fitting, Picture, knobs_of

_HEAD = 42  # pixels above each picture, for two lines of text


@dataclass(frozen=True)
class Stop:
    """One stop of one knob, the others where they start."""

    knob: str
    value: Value
    result: str
    printed: str
    png: bytes

    @property
    def label(self) -> str:
        """What differs: `lr = 0.1`."""
        return f"{self.knob} = {format_value(self.value)}"


@dataclass(frozen=True)
class Stops:
    """All stops of all knobs; in a notebook one picture, a row for each knob.

    The visible text names the stops only; what fit returned, which may differ between machines, is
    in the output's metadata.
    """

    stops: tuple[Stop, ...]

    @property
    def caption(self) -> str:
        """One line: `Stops: lr 0.01, 0.1; momentum 0, 0.9. Run the notebook to move them.`"""
        rows = [
            f"{row[0].knob} {', '.join(format_value(stop.value) for stop in row)}"
            for row in self.rows()
        ]
        return f"Stops: {'; '.join(rows)}. Run the notebook in JupyterLab to move sliders."

    def rows(self) -> list[list[Stop]]:
        """The stops of each knob."""
        names = dict.fromkeys(stop.knob for stop in self.stops)
        return [[stop for stop in self.stops if stop.knob == name] for name in names]

    def to_dict(self) -> dict[str, object]:
        """What each stop gave, as JSON."""
        fields = ("knob", "value", "result", "printed")
        stops = [{name: getattr(stop, name) for name in fields} for stop in self.stops]
        return {"kind": "stops", "stops": stops}

    def png(self) -> bytes:
        """A row of pictures for each knob."""
        return _mosaic(self.rows())

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, object], dict[str, object]]:
        png = base64.b64encode(self.png()).decode()
        data: dict[str, object] = {"image/png": png, "text/plain": self.caption}
        return data, {"nbkit": self.to_dict(), "image/png": {"alt": self.caption}}


def static(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (3.6, 2.7),
    dpi: int = 100,
    seed: int = 0,
) -> Stops:
    """Run `fit` at every stop of every knob that it names, as a slider there would.

    Args:
        fit: a generator function `fit(fig, *, lr, ...)`; see `nbkit.lab.live.fitting`.
        knobs: what each parameter may be, and its stops.
        start: where the other knobs stand meanwhile, by name.
        figsize: inches of one picture of the row.
        dpi: dots per inch.
        seed: of each run.
    Raises:
        TypeError, KnobError, ValueError: if fit, a value or the stops do not fit; nothing has been
            trained.

    What fit raises is raised, with a note that says at which stop. A point that several knobs share
    is run once.
    """
    named = knobs_of(fit, knobs)
    values = {name: knob.read_value(start.get(name, knob.default)) for name, knob in named.items()}
    if not any(knob.stops for knob in named.values()):
        raise ValueError(
            f"none of fit's knobs ({', '.join(named)}) declares stops to run headless: "
            f"say `{next(iter(named), 'lr')}=log(0.01, 1, stops=[0.1, 1])`."
        )

    picture = Picture(figsize, dpi)
    done: dict[tuple[Value, ...], tuple[str, str, bytes]] = {}
    stops = []
    for name, knob in named.items():
        for value in knob.stops:
            point = {**values, name: value}
            key = tuple(point.values())
            if key not in done:
                done[key] = _run(fit, point, picture, seed, f"{name} = {format_value(value)}")
            stops.append(Stop(name, value, *done[key]))
    return Stops(tuple(stops))


def format_value(value: Value) -> str:
    """A knob's value for a reader: three digits of a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _run(
    fit: Fit, point: Mapping[str, Value], picture: Picture, seed: int, label: str
) -> tuple[str, str, bytes]:
    fitting = Fitting(fit, point, picture, seed=seed)
    try:
        fitting.advance()
    except Exception as error:
        error.add_note(f"The live lab's fit raised this at the stop {label}.")
        raise
    return fitting.result, fitting.printed.getvalue(), picture.png()


def _mosaic(rows: Sequence[Sequence[Stop]]) -> bytes:
    """The pictures, all of one size, side by side; above each its stop and its result."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    width, height = Image.open(io.BytesIO(rows[0][0].png)).size
    height += _HEAD
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * width, len(rows) * height), "white")
    write = ImageDraw.Draw(sheet).text
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
    for i, row in enumerate(rows):
        for j, stop in enumerate(row):
            left, top = j * width, i * height
            write((left + 8, top + 6), stop.label, fill="black", font=font)
            write((left + 8, top + 23), stop.result, fill="#666666", font=font)
            sheet.paste(Image.open(io.BytesIO(stop.png)), (left, top + _HEAD))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
