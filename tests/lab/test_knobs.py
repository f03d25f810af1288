"""A knob is declared once; whatever does not fit it is refused with the way out."""

import math

import pytest

from nbkit.lab.knob_cells import read_parameters, read_ranges
from nbkit.lab.knobs import (
    Knob,
    KnobError,
    check_values,
    flag,
    log,
    with_ranges,
)

CELL = """\
max_lr: float = 10.0  # last rung, "a = b" # or so
steps: int = 100
cold: bool = False  # start cold
profile: str = "smoke"
"""
GUARD = """\
knobs = lesson.knobs(
    max_lr=log(0.1, 100, stops=[1, 10]),
    steps=between(2, 500),
    cold=flag(),
    profile=choice("smoke", "lesson"),
)
"""


@pytest.fixture
def knobs():
    return with_ranges(read_parameters(CELL), read_ranges(GUARD))


def test_the_cell_gives_name_type_default_and_help(knobs):
    assert list(knobs) == ["max_lr", "steps", "cold", "profile"]
    lr = knobs["max_lr"]
    assert (lr.name, lr.type, lr.default) == ("max_lr", float, 10.0)
    assert lr.help == 'last rung, "a = b" # or so'
    assert (lr.low, lr.high, lr.scale, lr.stops) == (0.1, 100, "log", (1.0, 10.0))
    assert all(type(stop) is float for stop in lr.stops)
    assert knobs["cold"].stops == (False, True)
    assert knobs["profile"].stops == ("smoke", "lesson")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("max_lr", 1, 1.0),
        ("max_lr", "1e-1", 0.1),
        ("max_lr", 100, 100.0),
        ("steps", "7", 7),
        ("cold", "true", True),
        ("cold", "False", False),
        ("profile", "lesson", "lesson"),
    ],
)
def test_a_value_is_read_by_the_declared_type(knobs, name, given, read):
    (got,) = check_values({name: given}, knobs).values()
    assert got == read and type(got) is knobs[name].type


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("max_lr", "banana", "max_lr must be a float from 0.1 to 100, got 'banana'."),
        ("max_lr", -1, "max_lr must be a float from 0.1 to 100, got -1."),
        ("max_lr", 101.0, "max_lr must be a float from 0.1 to 100, got 101.0."),
        ("max_lr", math.nan, "max_lr must be a float from 0.1 to 100, got nan."),
        ("max_lr", "inf", "max_lr must be a float from 0.1 to 100, got 'inf'."),
        ("max_lr", True, "max_lr must be a float from 0.1 to 100, got True."),
        ("steps", 2.5, "steps must be an int from 2 to 500, got 2.5."),
        ("steps", "2.5", "steps must be an int from 2 to 500, got '2.5'."),
        ("steps", None, "steps must be an int from 2 to 500, got None."),
        ("cold", 1, "cold must be one of True, False, got 1."),
        ("cold", "yes", "cold must be one of True, False, got 'yes'."),
        ("profile", "huge", "profile must be one of 'smoke', 'lesson', got 'huge'."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_words(knobs, name, given, expected):
    with pytest.raises(KnobError) as error:
        check_values({name: given}, knobs)
    assert str(error.value) == expected


def test_an_unknown_name_is_refused_with_the_nearest(knobs):
    with pytest.raises(KnobError, match=r"unknown parameter 'max_lrr'\. Did you mean 'max_lr'\?"):
        check_values({"max_lrr": 1}, knobs)


def test_code_in_a_name_is_an_unknown_name(knobs):
    with pytest.raises(KnobError, match=r"unknown parameter 'x=1;steps'"):
        check_values({"x=1;steps": 1}, knobs)


@pytest.mark.parametrize(
    "line",
    [
        "lr = 0.1",
        "a, b = 1, 2",
        "lr: float = other",
        "lr: float",
        "lr: list = []",
        "import os",
        "lr: float = 1",
        "n: int = True",
    ],
)
def test_a_parameters_cell_holds_typed_literals_only(line):
    with pytest.raises((KnobError, ValueError)):
        read_parameters(line)


@pytest.mark.parametrize(
    "guard", ["x = 1", "lesson.knobs(lr=open('f'))", "lesson.knobs(lr=log(low, 1))"]
)
def test_a_guard_that_cannot_be_read_is_refused(guard):
    with pytest.raises(ValueError):
        read_ranges(guard)


def test_both_cells_must_name_the_same_knobs():
    declared = read_parameters("lr: float = 0.1\nsteps: int = 3")
    with pytest.raises(KnobError, match="declared in only one .*: steps"):
        with_ranges(declared, {"lr": log(0.01, 1)})


@pytest.mark.parametrize("range_", [log(1, 10), log(0.01, 1, stops=[5])])
def test_default_and_stops_must_lie_in_range(range_):
    with pytest.raises(KnobError, match="lr must be a float"):
        with_ranges(read_parameters("lr: float = 0.1"), {"lr": range_})


def test_a_logarithmic_range_is_positive():
    with pytest.raises(KnobError, match="0 < low < high, got low=0, high=1"):
        log(0, 1)


def test_a_knob_is_not_changed_by_reading():
    knob = flag().with_name("cold", bool)
    knob.read_value("true")
    assert knob == Knob("cold", bool, options=(True, False), stops=(False, True))
