"""The curve that a reader draws reaches the fit, and is read as its knob reads it."""

import pytest
import traitlets

from nbkit.lab import curve, explore
from nbkit.lab.curve_knob import POINTS, PRESETS
from nbkit.lab.live.controls import make_control, read_control
from nbkit.lab.live.curve_control import CurveControl, resample_heights

KNOB = curve().with_name("shape", str)


def test_a_curve_knob_has_a_curve_to_draw():
    control = make_control(KNOB, "linear")
    assert isinstance(control, CurveControl)
    assert control.heights == pytest.approx(PRESETS["linear"], abs=1e-4)
    assert read_control(KNOB, control) == "linear"


def test_what_is_drawn_becomes_the_value_and_the_picture_follows():
    control = make_control(KNOB, "constant")
    control.value = "1 0"
    assert read_control(KNOB, control) == "1 0"
    assert len(control.heights) == POINTS and control.heights[POINTS // 2] == 0.5


def test_no_curve_is_refused():
    control = make_control(KNOB, "constant")
    with pytest.raises(traitlets.TraitError, match="expected a curve, got '3 1'"):
        control.value = "3 1"
    assert control.value == "constant" and control.heights == [1.0] * POINTS


def test_a_curve_of_all_points_is_drawn_as_it_is():
    for heights in PRESETS.values():
        assert resample_heights(heights) == pytest.approx(heights, abs=1e-4)


def test_the_fit_gets_what_was_drawn():
    seen = []

    def fit(fig, *, shape):
        seen.append(shape)
        fig.subplots().plot([0, 1])
        yield
        return "done"

    lab = explore(fit, {"shape": KNOB}, {"shape": "constant"})
    lab.controls["shape"].value = "1 0.5 0"
    assert seen == ["constant", "1 0.5 0"]
    lab.close()
