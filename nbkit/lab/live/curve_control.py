"""A curve to draw with the mouse, a finger or the arrow keys, with buttons for the named ones."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from nbkit.lab.curve_knob import POINTS, PRESETS, read_curve
from nbkit.lab.knobs import Knob, Value


class CurveControl(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore] # it has no types
    """Show a curve to draw; `value` is the name of a preset or numbers from 0 to 1.

    A drag draws; the value changes when the button is let go. With the keyboard, left and right
    choose a point and up and down move it; with Shift they move all later points, too.
    """

    _esm = Path(__file__).with_name("curve_control.js")

    value = traitlets.Unicode().tag(sync=True)
    heights = traitlets.List(traitlets.CFloat()).tag(sync=True)  # what `value` looks like
    presets = traitlets.Dict().tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    tooltip = traitlets.Unicode().tag(sync=True)

    def __init__(self, knob: Knob, value: Value) -> None:
        super().__init__(
            value=str(value),
            heights=resample_heights(read_curve(str(value)) or [0.0, 0.0]),
            presets=PRESETS,
            description=knob.name,
            tooltip=knob.help or knob.describe_values(),
        )

    @traitlets.validate("value")
    def _check_value(self, proposal: traitlets.Bunch) -> str:
        text = str(proposal["value"])
        if read_curve(text) is None:
            raise traitlets.TraitError(f"expected a curve, got {text!r}.")
        return text

    @traitlets.observe("value")
    def _show_heights(self, _change: object) -> None:
        # The page draws these, so that only one place reads the text.
        self.heights = resample_heights(read_curve(self.value) or [0.0, 0.0])


def resample_heights(heights: list[float]) -> list[float]:
    """Return the curve at POINTS places, straight between the points that are given.

    >>> resample_heights([1.0, 0.0])[:3]
    [1.0, 0.95, 0.9]
    """
    found = []
    for place in range(POINTS):
        share = place / (POINTS - 1) * (len(heights) - 1)
        before = min(int(share), len(heights) - 2)
        height = heights[before] + (heights[before + 1] - heights[before]) * (share - before)
        found.append(round(height, 4))
    return found
