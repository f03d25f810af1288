"""A knob: a parameter of a lesson, declared once.

The parameters cell gives its name, type, default and meaning, one parameter a line:

    max_lr: float = 10.0  # last rung of the range test

and the guard cell below gives what values it may take and which of them are run headless:

    knobs = lesson.knobs(max_lr=log(0.1, 100, stops=[1, 10]), ...)

From the two come the validation, the slider, the stops, the command line's help and the row in the
documentation. Nothing is said twice.
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


class KnobError(ValueError):
    """A parameter that no lesson should run with: unknown, of the wrong type, or out of range."""


@dataclass(frozen=True)
class Knob:
    """What is known of one parameter: from the parameters cell, and from the guard's range.

    `low`, `high`, `step` and `scale` are a range's; `options` a choice's. `stops` are the values
    that a headless run visits in place of a slider.
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
        """The same range, as the knob of that name and type; its stops are read by that type.

        Raises:
            KnobError: if a range of numbers is given to another type, or an option or a stop is of
                another type than the parameter.
        """
        if self.low is not None and kind not in (int, float):
            raise KnobError(
                f"{name} is declared {kind.__name__}, which has no range: "
                f"write {'flag()' if kind is bool else 'choice(...)'} for it."
            )
        for word, number in (("low", self.low), ("high", self.high), ("step", self.step)):
            if kind is int and number is not None and number != int(number):
                raise KnobError(f"{name} is an int: its {word} must be whole, got {number}.")
        options = tuple(_as_type(option, kind) for option in self.options)
        for option, read in zip(self.options, options, strict=True):
            if read is None or (type(option) is str and kind is not str):
                raise KnobError(
                    f"{name} is declared {kind.__name__}, but may be {option!r}: the options and "
                    f"the parameters cell must have one type."
                )
        knob = replace(self, name=name, type=kind, options=options)  # type: ignore[arg-type]
        return replace(knob, stops=tuple(knob.read_value(stop) for stop in self.stops))

    def describe_values(self) -> str:
        """What a value has to be, in words: `a float from 0.1 to 100`."""
        if self.options:
            return "one of " + ", ".join(repr(option) for option in self.options)
        words = {bool: "True or False", int: "an int", float: "a float", str: "a str"}[self.type]
        if self.low is not None:
            words += f" from {self.low:g} to {self.high:g}"
        return words

    def read_value(self, value: object) -> Value:
        """The value as this knob's type; text from a command line is read by that type.

        Raises:
            KnobError: if it is of another type, not finite, out of range or not among the options.
        """
        read = _as_type(value, self.type)
        allowed = read is not None and (not self.options or read in self.options)
        if allowed and self.low is not None and self.high is not None:
            allowed = self.low <= float(read) <= self.high  # type: ignore[arg-type]
        if not allowed:
            raise KnobError(f"{self.name} must be {self.describe_values()}, got {value!r}.")
        return read  # type: ignore[return-value]


def between(
    low: float, high: float, *, step: float | None = None, stops: Sequence[float] = ()
) -> Knob:
    """A number from `low` to `high`, both included, on a linear slider.

    Raises:
        KnobError: if they are no finite numbers with low < high, or the step or stops do not fit.
    """
    _check_ends("between", low, high)
    if step is not None and not (_is_number(step) and 0 < step <= high - low):
        raise KnobError(
            f"the step of between({low}, {high}) must be a number above 0 and at most "
            f"{high - low:g}, got {step!r}."
        )
    return Knob(low=low, high=high, step=step, stops=_read_stops("between", stops))


def log(low: float, high: float, *, stops: Sequence[float] = ()) -> Knob:
    """A positive number from `low` to `high`, both included, on a logarithmic slider.

    Raises:
        KnobError: if they are no finite numbers with 0 < low < high, or the stops do not fit.
    """
    _check_ends("log", low, high)
    if not low > 0:
        raise KnobError(f"log(low, high) needs 0 < low < high, got low={low}, high={high}.")
    return Knob(low=low, high=high, scale="log", stops=_read_stops("log", stops))


def choice(*options: Value, stops: Sequence[Value] | None = None) -> Knob:
    """One of a few values; a headless run visits all of them unless `stops` names fewer.

    Raises:
        KnobError: if there is no option, one comes twice, or one is no bool, number or text.
    """
    if not options:
        raise KnobError("choice(...) needs at least one option, got none: write choice('a', 'b').")
    for option in options:
        if type(option) not in TYPES.values() or option != option:
            raise KnobError(
                f"an option of choice(...) must be a bool, a number or a text, got {option!r}. "
                f"Write each by itself: choice('a', 'b')."
            )
        if options.count(option) > 1:
            raise KnobError(f"choice(...) has the option {option!r} twice: name each once.")
    return Knob(options=options, stops=options if stops is None else _read_stops("choice", stops))


def flag() -> Knob:
    """True or False."""
    return Knob(options=(True, False), stops=(False, True))


RANGES = {"between": between, "log": log, "choice": choice, "flag": flag}


def _check_ends(name: str, low: object, high: object) -> None:
    """Refuse two ends between which no slider could move."""
    for word, end in (("low", low), ("high", high)):
        if not _is_number(end):
            raise KnobError(f"{word} of {name}(low, high) must be a finite number, got {end!r}.")
    if not low < high:  # type: ignore[operator]
        expected = "0 < low < high" if name == "log" else "low < high"
        raise KnobError(f"{name}(low, high) needs {expected}, got low={low}, high={high}.")


def _read_stops(name: str, stops: object) -> tuple[Value, ...]:
    if not isinstance(stops, list | tuple | range):
        raise KnobError(f"stops of {name}(...) must be a list, stops=[...], got {stops!r}.")
    return tuple(stops)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def check_names(given: Mapping[str, object], known: Mapping[str, Knob]) -> None:
    """Refuse a name that no knob has, naming the nearest.

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
    """The given parameters, each as its knob reads it.

    Raises:
        KnobError: for the first name or value that does not fit; nothing has been changed.
    """
    check_names(given, known)
    return {name: known[name].read_value(value) for name, value in given.items()}


def with_ranges(declared: Mapping[str, Knob], ranges: Mapping[str, Knob]) -> dict[str, Knob]:
    """Join what the parameters cell says with what the guard says: the same names in both.

    Raises:
        KnobError: if one names a knob that the other does not, or a default or stop is out of
            range.
    """
    if set(declared) != set(ranges):
        odd = ", ".join(sorted(set(declared) ^ set(ranges)))
        raise KnobError(f"declared in only one of the parameters cell and the guard: {odd}.")
    knobs = {}
    for name, knob in declared.items():
        ranged = ranges[name].with_name(name, knob.type)
        knobs[name] = replace(ranged, default=ranged.read_value(knob.default), help=knob.help)
    return knobs


def _as_type(value: object, kind: type) -> Value | None:
    """The value as that type, or None where it is not one. An int is a float; a bool is neither."""
    if isinstance(value, str) and kind is not str:
        value = _from_text(value, kind)
    if kind in (int, float):
        value = read_integer(value) if kind is int else read_real(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):  # type: ignore[arg-type]
        return None
    return value if json.loads(json.dumps(value)) == value else None  # type: ignore[return-value]


def _from_text(text: str, kind: type) -> object:
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None
