"""A curve is read, refused and declared in a guard like any other knob."""

import pytest

from nbkit.lab import KnobError, curve
from nbkit.lab.curve_knob import POINTS, PRESETS, read_curve
from nbkit.lab.knob_cells import read_ranges
from nbkit.lab.knobs import Knob, with_ranges


def test_presets_have_all_points_and_reach_the_top():
    for heights in PRESETS.values():
        assert len(heights) == POINTS and max(heights) == 1 and min(heights) >= 0
    assert PRESETS["linear"][0] == 1 and PRESETS["linear"][-1] == 0
    assert PRESETS["late"][16] == 1 and PRESETS["late"][18] == 0.5
    assert PRESETS["hill"][6] == 1 and PRESETS["hill"][0] < 0.1


@pytest.mark.parametrize(
    ("text", "heights"),
    [
        ("1 0.5 0", [1.0, 0.5, 0.0]),
        ("linear", PRESETS["linear"]),
        ("1", None),
        ("", None),
        ("1 1.5", None),
        ("1 nan", None),
        ("1 x", None),
    ],
)
def test_a_text_is_a_name_or_numbers_from_0_to_1(text, heights):
    assert read_curve(text) == heights


def test_a_preset_is_not_changed_by_its_reader():
    read_curve("linear")[0] = 7.0
    assert PRESETS["linear"][0] == 1.0


def test_a_guard_may_declare_a_curve():
    knob = read_ranges('lesson.knobs(shape=curve(stops=["late", "1 0"]))')["shape"]
    named = with_ranges({"shape": Knob("shape", str, "constant")}, {"shape": knob})["shape"]
    assert named.stops == ("late", "1 0") and named.default == "constant"
    assert named.read_value("0.5 1") == "0.5 1"
    with pytest.raises(KnobError, match="shape must be one of constant, linear, .*got '2 1'"):
        named.read_value("2 1")


def test_a_curve_is_a_text():
    with pytest.raises(KnobError, match="shape is a curve, so it must be declared str"):
        curve().with_name("shape", float)
    with pytest.raises(KnobError, match="must be a list"):
        curve(stops="late")
    with pytest.raises(KnobError, match="shape must be one of constant"):
        curve(stops=["early"]).with_name("shape", str)
