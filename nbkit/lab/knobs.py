"""A knob: a parameter of a lesson, declared once.

The parameters cell gives its name, type, default and meaning, one parameter per line:

    max_lr: float = 10.0  # last rung of the range test

and the guard cell below it gives the values it may take, and those that a headless run visits:

    knobs = lesson.knobs(max_lr=log(0.1, 100, stops=[1, 10]), ...)

The validation, the slider, the stops, the command line's help and the row in the documentation all
follow from these two lines.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nbkit.base.numbers import read_integer, read_real

Value = bool | int | float | str
Type = type  # the field `type` of a knob would hide the builtin from its own annotations
TYPES: dict[str, Type] = {"bool": bool, "int": int, "float": float, "str": str}
TYPE_WORDS: dict[Type, str] = {
    bool: "True or False",
    int: "an int",
    float: "a float",
    str: "a str",
}


class KnobError(ValueError):
    """A parameter that no lesson should run with: unknown, of the wrong type, or out of range."""


@dataclass(frozen=True)
class Knob:
    """One parameter, as the parameters cell and the guard's range describe it.

    `low`, `high`, `step` and `scale` belong to a range; `options` belong to a choice. `stops` are
    the values that a headless run visits in place of a slider.
    """

    name: str = ""
    type: Type = float
    default: Value | None = None
    help: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    scale: str = "linear"
    options: tuple[Value, ...] = ()
    stops: tuple[Value, ...] = ()

    def with_name(self, name: str, kind: Type) -> Knob:
        """Return the same range as a knob with that name and type; its stops get that type.

        Raises:
            KnobError: if a range of numbers is given to another type, or an option or a stop has
                another type than the parameter.
        """
        # The messages name the parameter, so the range is checked against the new name and type.
        self._check_type(name, kind)
        options: list[Value] = []
        for option in self.options:
            read = _convert_value(option, kind)
            # "1" would be read as the int 1, but a choice lists values, not text to read.
            if read is None or (type(option) is str and kind is not str):
                raise KnobError(
                    f"{name} is declared {kind.__name__}, but may be {option!r}: the options and "
                    f"the parameters cell must have one type."
                )
            options.append(read)
        knob = replace(self, name=name, type=kind, options=tuple(options))
        # The stops are read by the new knob: they must lie in its range, too.
        return replace(knob, stops=tuple([knob.read_value(stop) for stop in self.stops]))

    def _check_type(self, name: str, kind: Type) -> None:
        """Refuse a range of numbers for another type, and fractions for an int."""
        if self.low is not None and kind not in (int, float):
            raise KnobError(
                f"{name} is declared {kind.__name__}, which has no range: "
                f"write {'flag()' if kind is bool else 'choice(...)'} for it."
            )
        for word, number in (("low", self.low), ("high", self.high), ("step", self.step)):
            if kind is int and number is not None and number != int(number):
                raise KnobError(f"{name} is an int: its {word} must be whole, got {number}.")

    def describe_values(self) -> str:
        """Describe in words which values the knob takes: `a float from 0.1 to 100`."""
        # A choice has no range: its options say everything.
        if self.options:
            return "one of " + ", ".join(map(repr, self.options))
        words = TYPE_WORDS[self.type]
        if self.low is not None:
            words += f" from {self.low:g} to {self.high:g}"
        return words

    def read_value(self, value: object) -> Value:
        """Return the value as this knob's type; text, as from a command line, is converted.

        Raises:
            KnobError: if it has another type, is not finite, is out of range, or is not among the
                options.
        """
        # The message shows the value as it was given, not as it was converted.
        read = _convert_value(value, self.type)
        if read is None or not self._allows_value(read):
            raise KnobError(f"{self.name} must be {self.describe_values()}, got {value!r}.")
        return read

    def _allows_value(self, value: Value) -> bool:
        """Return whether a value of the right type is among the options and in the range."""
        if self.options and value not in self.options:
            return False
        if self.low is None or self.high is None:
            return True
        return self.low <= float(value) <= self.high


def between(
    low: float, high: float, *, step: float | None = None, stops: Sequence[float] = ()
) -> Knob:
    """Declare a number from `low` to `high`, both included, on a linear slider.

    Raises:
        KnobError: if the two are not finite numbers with low < high, or the step or stops do not
            fit.
    """
    _check_ends("between", low, high)
    if step is not None and not (_is_finite_number(step) and 0 < step <= high - low):
        raise KnobError(
            f"the step of between({low}, {high}) must be a number above 0 and at most "
            f"{high - low:g}, got {step!r}."
        )
    return Knob(low=low, high=high, step=step, stops=_read_stops("between", stops))


def log(low: float, high: float, *, stops: Sequence[float] = ()) -> Knob:
    """Declare a positive number from `low` to `high`, both included, on a logarithmic slider.

    Raises:
        KnobError: if the two are not finite numbers with 0 < low < high, or the stops do not fit.
    """
    # The ends are numbers first: the comparison with 0 needs that.
    _check_ends("log", low, high)
    if not low > 0:
        raise KnobError(f"log(low, high) needs 0 < low < high, got low={low}, high={high}.")
    return Knob(low=low, high=high, scale="log", stops=_read_stops("log", stops))


def choice(*options: Value, stops: Sequence[Value] | None = None) -> Knob:
    """Declare one of a few values; a headless run visits all unless `stops` names fewer.

    Raises:
        KnobError: if there is no option, one comes twice, or one is not a bool, a number or a text.
    """
    if not options:
        raise KnobError("choice(...) needs at least one option, got none: write choice('a', 'b').")
    for option in options:
        # NaN does not equal itself: no value could ever be that option.
        if type(option) not in TYPES.values() or option != option:
            raise KnobError(
                f"an option of choice(...) must be a bool, a number or a text, got {option!r}. "
                f"Write each by itself: choice('a', 'b')."
            )
        if options.count(option) > 1:
            raise KnobError(f"choice(...) has the option {option!r} twice: name each once.")
    return Knob(options=options, stops=options if stops is None else _read_stops("choice", stops))


def flag() -> Knob:
    """Declare True or False; a headless run visits both, False first."""
    return Knob(options=(True, False), stops=(False, True))


def read_type(annotation: object) -> Type:
    """Read a parameter's type from its annotation, which is a type or the name of one.

    Raises:
        KnobError: if no knob can have that type.
    """
    # With `from __future__ import annotations` in a notebook, annotations are texts.
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if name not in TYPES:
        raise KnobError(f"a parameter's type must be among {', '.join(TYPES)}, got {annotation!r}.")
    return TYPES[str(name)]


def _check_ends(name: str, low: object, high: object) -> None:
    """Refuse two ends between which no slider could move."""
    for word, end in (("low", low), ("high", high)):
        if not _is_finite_number(end):
            raise KnobError(f"{word} of {name}(low, high) must be a finite number, got {end!r}.")
    if not low < high:  # type: ignore[operator]  # both are numbers: checked above
        expected = "0 < low < high" if name == "log" else "low < high"
        raise KnobError(f"{name}(low, high) needs {expected}, got low={low}, high={high}.")


def _read_stops(name: str, stops: object) -> tuple[Value, ...]:
    # A text is a sequence, too: stops="12" would become the two stops "1" and "2".
    if not isinstance(stops, list | tuple | range):
        raise KnobError(f"stops of {name}(...) must be a list, stops=[...], got {stops!r}.")
    return tuple(stops)


def _is_finite_number(value: object) -> bool:
    # Compared by type: a bool is an int to isinstance.
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # a number


def check_names(given: Mapping[str, object], known: Mapping[str, Knob]) -> None:
    """Refuse a name that no knob has, and suggest the nearest one.

    Raises:
        KnobError: if a name is unknown or not an identifier.
    """
    for name in given:
        if name in known:
            continue
        if not known:
            raise KnobError(
                f"unknown parameter {name!r}. This lesson takes none: no cell has the tag "
                f"`parameters`."
            )
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KnobError(f"unknown parameter {name!r}.{hint} Known: {', '.join(sorted(known))}.")


def check_values(given: Mapping[str, object], known: Mapping[str, Knob]) -> dict[str, Value]:
    """Return the given parameters, each read by its knob.

    Raises:
        KnobError: for the first name or value that does not fit; nothing has been changed.
    """
    # All names are checked before the first value is read.
    check_names(given, known)
    return {name: known[name].read_value(value) for name, value in given.items()}


def with_ranges(declared: Mapping[str, Knob], ranges: Mapping[str, Knob]) -> dict[str, Knob]:
    """Join the knobs of the parameters cell with the ranges of the guard.

    Raises:
        KnobError: if one of the two names a knob that the other does not, or a default or a stop
            is out of range.
    """
    if set(declared) != set(ranges):
        odd = ", ".join(sorted(set(declared) ^ set(ranges)))
        raise KnobError(f"declared in only one of the parameters cell and the guard: {odd}.")
    knobs = {}
    # Default and stops are read by the ranged knob: they must lie in its range.
    for name, knob in declared.items():
        ranged = ranges[name].with_name(name, knob.type)
        knobs[name] = replace(ranged, default=ranged.read_value(knob.default), help=knob.help)
    return knobs


def _convert_value(value: object, kind: Type) -> Value | None:
    """Return the value as that type; None if it does not have it.

    An int is accepted as a float; a bool is neither an int nor a float.
    """
    if isinstance(value, str) and kind is not str:
        value = _parse_text(value, kind)
    if kind in (int, float):
        value = read_integer(value) if kind is int else read_real(value)
    if not isinstance(value, bool | int | float | str) or type(value) is not kind:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # A value travels as JSON, from which a text with surrogates may come back changed.
    return value if json.loads(json.dumps(value)) == value else None


def _parse_text(text: str, kind: Type) -> object:
    """Read a text as a bool or a number; None if it is neither."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None
