import math

import ipywidgets as widgets
import pytest

from nbkit.lab.knobs import KnobError, between, choice, flag, log
from nbkit.lab.live.controls import PageLabels, make_control, read_control
from nbkit.lab.live.number_control import NumberControl

LR = log(1e-4, 10).with_name("lr", float)


@pytest.mark.parametrize(
    "knob, value, kind",
    [
        (LR, 0.1, NumberControl),
        (log(8, 256).with_name("batch_size", int), 64, NumberControl),
        (between(0, 1).with_name("momentum", float), 0.9, NumberControl),
        (between(1, 8).with_name("depth", int), 3, NumberControl),
        (choice("SGD", "Adam").with_name("optimizer", str), "Adam", widgets.Dropdown),
        (choice(16, 64).with_name("width", int), 64, widgets.Dropdown),
        (flag().with_name("nesterov", bool), True, widgets.Checkbox),
    ],
)
def test_a_knob_becomes_the_widget_of_its_kind_with_its_name_and_value(knob, value, kind):
    widget = make_control(knob, value)
    assert isinstance(widget, kind)  # anywidget makes a class for each of its widgets
    assert widget.description == knob.name
    assert widget.tooltip == knob.describe_values()
    assert read_control(knob, widget) == value
    assert type(read_control(knob, widget)) is knob.type


def test_a_typed_value_stays_as_it_is():
    widget = make_control(LR, 0.1)
    for typed in (0.25, 0.12345, 3e-4):
        widget.value = typed
        assert read_control(LR, widget) == typed


def test_an_int_comes_back_as_one():
    knob = log(1, 5000).with_name("width", int)
    widget = make_control(knob, 1)
    widget.value = 1234.0
    assert read_control(knob, widget) == 1234
    assert type(read_control(knob, widget)) is int


def test_a_linear_control_gives_no_rounding_noise():
    knob = between(0, 1, step=0.1).with_name("momentum", float)
    widget = make_control(knob, 0.0)
    widget.value = 0.1 + 0.2
    assert read_control(knob, widget) == 0.3


@pytest.mark.parametrize("value", [-1, 11, math.nan])
def test_a_value_that_the_knob_does_not_allow_is_an_error_and_not_corrected(value):
    widget = make_control(LR, 0.1)
    widget.value = value
    with pytest.raises(KnobError, match="lr must be a float from 0.0001 to 10, got"):
        read_control(LR, widget)


def test_a_fraction_is_no_int():
    knob = between(1, 8).with_name("depth", int)
    widget = make_control(knob, 3)
    widget.value = 3.5
    with pytest.raises(KnobError, match="depth must be an int from 1 to 8, got 3.5"):
        read_control(knob, widget)


def test_a_knob_without_anything_to_choose_from_is_refused():
    from nbkit.lab.knobs import Knob

    with pytest.raises(KnobError, match="path has neither a range nor options"):
        make_control(Knob(name="path", type=str), "data.npz")


def test_labels_is_a_widget_without_a_value_of_its_own():
    assert "status" in PageLabels()._esm
