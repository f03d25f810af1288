"""The parameters cell and the guard are read without a kernel; a mistake is one sentence."""

import math

import pytest

from nbkit.lab.knob_cells import read_parameters, read_ranges
from nbkit.lab.knobs import KnobError, between, choice, flag, log


def guard(ranges, before=""):
    return f"{before}\nlesson.knobs({ranges})"


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("x: float = 1/8", 0.125),
        ("x: float = 10**-3", 1e-3),
        ("x: int = 2**10 - 1", 1023),
        ("x: int = -7 // 2", -4),
        ("x: float = -(1.5 % 1)", -0.5),
        ('x: str = "a" "b"', "ab"),
        ("%matplotlib inline\nx: int = 3", 3),
        ("!ls\n\nx: int = 3", 3),
        ("\n\n%%time\nx: int = 3", 3),
    ],
)
def test_a_default_may_be_computed_and_a_magic_stand_beside_it(text, default):
    knob = read_parameters(text + "  # why")["x"]
    assert (knob.default, type(knob.default), knob.help) == (default, knob.type, "why")


@pytest.mark.parametrize(
    ("before", "ranges", "low", "high", "stops"),
    [
        ("HIGH = 10", "x=log(1e-4, HIGH)", 1e-4, 10, ()),
        ("HIGH: float = 2 * 5", "x=log(high=HIGH, low=1)", 1, 10, ()),
        ("LOW = HIGH = 2\nHIGH = LOW + 1", "x=between(LOW, HIGH)", 2, 3, ()),
        ("", "x=between(0, 1/3)", 0, 1 / 3, ()),
        ("import math", "x=between(-math.pi, math.pi)", -math.pi, math.pi, ()),
        ("ENDS = (1, 5)", "x=knobs.between(*ENDS, stops=[2, *ENDS])", 1, 5, (2, 1, 5)),
        ("STOPS = [1, 2]\n%time", "x=between(1, 5, stops=STOPS)", 1, 5, (1, 2)),
    ],
)
def test_what_the_text_decides_is_a_range(before, ranges, low, high, stops):
    knob = read_ranges(guard(ranges, before))["x"]
    assert (knob.low, knob.high, knob.stops) == (low, high, stops)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x: float = 0.1.2", 1, "expected Python, got `x: float = 0.1.2`"),
        ('\nx: str = """abc', 2, "unterminated"),
        ("x: int = 1\n  y: int = 2", 2, "unexpected indent"),
        ("x: float = f(3)", 1, "without running the cell, got `f(3)`"),
        ("x: int = 10**10**10", 1, "too large a number"),
        ("x: float = 1 / 0", 1, "has no value: division by zero"),
        ("x: float = 10.0 ** 400", 1, "has no value"),
        ("x: float = (-1) ** 0.5", 1, "no real number"),
        ('x: str = "a" * 9', 1, "needs numbers, got 'a'"),
        ("x: int = 1\nx: int = 2", 2, "x is declared twice"),
        ("%time\nx: int = 0.5", 2, "x is declared int, but its default is 0.5"),
        ("%%bash\nls", 1, "expected a cell of Python, got `%%bash`"),
        ("x: list = []", 1, "expected `name: type = literal  # meaning`"),
    ],
)
def test_a_mistake_among_the_parameters_is_named_with_its_line(text, line, message):
    with pytest.raises(KnobError) as error:
        read_parameters(text)
    assert str(error.value).startswith(f"the parameters cell, line {line}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("lesson.knobs(x=log(1, 10)", 1, "was never closed"),
        ("\nlesson.knobs(x=log(1, 10, stop=[1]))", 2, "unexpected keyword argument 'stop'"),
        ("lesson.knobs(x=log(10))", 1, "missing a required argument: 'high'"),
        ("lesson.knobs(x=flag(1))", 1, "too many positional arguments"),
        ("lesson.knobs(x=between(0, top))", 1, "without running the cell, got `top`"),
        ("top = 1\ntop = f()\nlesson.knobs(x=between(0, top))", 3, "got `top`"),
        ("lesson.knobs(x=0.5)", 1, "x must be one of between(...), log(...)"),
        ("lesson.knobs(**RANGES)", 1, "with each parameter by name"),
        ("lesson.knobs(log(1, 2))", 1, "with each parameter by name"),
        ("lesson.knobs(x=log(1, 2, **more))", 1, "write out what x may be"),
        ("lesson.knobs(x=choice(*7))", 1, "`*7` needs a list, got 7"),
    ],
)
def test_a_mistake_in_the_guard_is_named_with_its_line(text, line, message):
    with pytest.raises(KnobError) as error:
        read_ranges(text)
    assert str(error.value).startswith(f"the guard cell, line {line}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: between(1, 1), "needs low < high, got low=1, high=1"),
        (lambda: between(2, 1), "needs low < high"),
        (lambda: between("0", "1"), "low of between.low, high. must be a finite number, got '0'"),
        (lambda: between(0, math.inf), "high of between.* finite number, got inf"),
        (lambda: between(math.nan, 1), "low of between.* finite number, got nan"),
        (lambda: between(False, True), "finite number, got False"),
        (lambda: between(0, 1, step=0), "the step of between.* above 0 and at most 1, got 0"),
        (lambda: between(0, 1, step=2), "the step of between.* got 2"),
        (lambda: between(0, 1, step="1"), "the step of between.* got '1'"),
        (lambda: between(0, 1, stops=0.5), r"stops of between\(...\) must be a list.* got 0.5"),
        (lambda: log("a", "b"), "low of log.* finite number, got 'a'"),
        (lambda: log(10, 1), "0 < low < high, got low=10, high=1"),
        (lambda: log(1, 10, stops="12"), "stops of log.* got '12'"),
        (lambda: choice(), "at least one option"),
        (lambda: choice(["a", "b"]), r"got \['a', 'b'\]\. Write each by itself"),
        (lambda: choice("a", "a"), "has the option 'a' twice"),
        (lambda: choice("a", None), "got None"),
        (lambda: choice(math.nan), "got nan"),
        (lambda: choice("a", stops="a"), "stops of choice.* got 'a'"),
    ],
)
def test_a_range_that_no_slider_could_show_is_refused(make, message):
    with pytest.raises(KnobError, match=message):
        make()


@pytest.mark.parametrize(
    ("range_", "kind", "message"),
    [
        (between(0, 1), str, "x is declared str, which has no range: write choice"),
        (log(0.1, 1), bool, r"x is declared bool, which has no range: write flag\(\)"),
        (between(0.5, 2), int, "x is an int: its low must be whole, got 0.5"),
        (log(1, 2.5), int, "x is an int: its high must be whole, got 2.5"),
        (between(0, 9, step=0.5), int, "x is an int: its step must be whole, got 0.5"),
        (flag(), float, "x is declared float, but may be True"),
        (choice("1", "2"), int, "x is declared int, but may be '1'"),
        (choice(1, 2), str, "x is declared str, but may be 1"),
    ],
)
def test_a_range_of_another_type_than_the_parameter_is_refused(range_, kind, message):
    with pytest.raises(KnobError, match=message):
        range_.with_name("x", kind)


def test_the_options_of_a_float_are_floats():
    knob = choice(1, 2.5).with_name("x", float)
    assert knob.options == (1.0, 2.5) and {type(option) for option in knob.options} == {float}
