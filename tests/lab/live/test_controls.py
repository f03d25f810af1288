import math

import ipywidgets as widgets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit.lab.knobs import KnobError, between, choice, flag, log
from nbkit.lab.live.controls import PageLabels, make_control, read_control

LR = log(1e-4, 10).with_name("lr", float)


@pytest.mark.parametrize(
    "knob, value, kind",
    [
        (LR, 0.1, widgets.FloatLogSlider),
        (log(8, 256).with_name("batch_size", int), 64, widgets.FloatLogSlider),
        (between(0, 1).with_name("momentum", float), 0.9, widgets.FloatSlider),
        (between(1, 8).with_name("depth", int), 3, widgets.IntSlider),
        (choice("SGD", "Adam").with_name("optimizer", str), "Adam", widgets.Dropdown),
        (choice(16, 64).with_name("width", int), 64, widgets.Dropdown),
        (flag().with_name("nesterov", bool), True, widgets.Checkbox),
    ],
)
def test_a_knob_becomes_the_widget_of_its_kind_with_its_name_and_value(knob, value, kind):
    widget = make_control(knob, value)
    assert type(widget) is kind
    assert widget.description == knob.name
    assert widget.tooltip == knob.describe_values()
    assert read_control(knob, widget) == value
    assert type(read_control(knob, widget)) is knob.type


@given(low=st.floats(1e-9, 1.0), factor=st.floats(2, 1e9), at=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_every_position_of_a_logarithmic_slider_is_a_value_that_its_knob_allows(low, factor, at):
    knob = log(low, low * factor).with_name("lr", float)
    widget = make_control(knob, low)
    widget.value = 10 ** (widget.min + at * (widget.max - widget.min))
    value = read_control(knob, widget)
    assert knob.read_value(value) == value
    assert math.isclose(value, widget.value, rel_tol=0.01)


def test_a_logarithmic_slider_gives_the_digits_that_it_shows():
    widget = make_control(LR, 0.1)
    widget.value = 0.0316227766
    assert read_control(LR, widget) == 0.0316


def test_a_logarithmic_slider_of_ints_gives_all_digits():
    knob = log(1, 5000).with_name("width", int)
    widget = make_control(knob, 1)
    widget.value = 1234.4
    assert read_control(knob, widget) == 1234
    assert widget.readout_format == "d"


def test_a_linear_slider_gives_no_rounding_noise():
    knob = between(0, 1, step=0.1).with_name("momentum", float)
    widget = make_control(knob, 0.0)
    widget.value = 0.1 + 0.2
    assert read_control(knob, widget) == 0.3
    assert widget.readout_format == ".1f"


def test_a_knob_without_anything_to_choose_from_is_refused():
    from nbkit.lab.knobs import Knob

    with pytest.raises(KnobError, match="path has neither a range nor options"):
        make_control(Knob(name="path", type=str), "data.npz")


def test_names_is_a_widget_without_a_value_of_its_own():
    assert "aria-label" in PageLabels()._esm
