"""A knob: a parameter of a lesson, declared once.

The parameters cell gives its name, type, default and meaning, one literal a line:

    max_lr: float = 10.0  # last rung of the range test

and the guard cell below gives what values it may take and which of them are run headless:

    knobs = lesson.knobs(max_lr=log(0.1, 100, stops=[1, 10]), ...)

From the two come the validation, the slider, the stops, the command line's help and the row in the
documentation. Nothing is said twice.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import keyword
import math
import tokenize
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

    def named(self, name: str, kind: Type) -> Knob:
        """The same range, as the knob of that name and type; its stops are read by that type."""
        knob = replace(self, name=name, type=kind)
        return replace(knob, stops=tuple(knob.read(stop) for stop in self.stops))

    def expected(self) -> str:
        """What a value has to be, in words: `a float from 0.1 to 100`."""
        if self.options:
            return "one of " + ", ".join(repr(option) for option in self.options)
        words = {bool: "True or False", int: "an int", float: "a float", str: "a str"}[self.type]
        if self.low is not None:
            words += f" from {self.low:g} to {self.high:g}"
        return words

    def read(self, value: object) -> Value:
        """The value as this knob's type; text from a command line is read by that type.

        Raises:
            KnobError: if it is of another type, not finite, out of range or not among the options.
        """
        read = _as_type(value, self.type)
        allowed = read is not None and (not self.options or read in self.options)
        if allowed and self.low is not None and self.high is not None:
            allowed = self.low <= float(read) <= self.high  # type: ignore[arg-type]
        if not allowed:
            raise KnobError(f"{self.name} must be {self.expected()}, got {value!r}.")
        return read  # type: ignore[return-value]

    def row(self) -> str:
        """One line of help: name, type, default, what it may be, what it means."""
        return (
            f"{self.name}: {self.type.__name__} = {self.default!r} ({self.expected()}) {self.help}"
        )


def between(
    low: float, high: float, *, step: float | None = None, stops: Sequence[float] = ()
) -> Knob:
    """A number from `low` to `high`, both included, on a linear slider."""
    return Knob(low=low, high=high, step=step, stops=tuple(stops))


def log(low: float, high: float, *, stops: Sequence[float] = ()) -> Knob:
    """A positive number from `low` to `high`, both included, on a logarithmic slider."""
    if not 0 < low < high:
        raise KnobError(f"log(low, high) needs 0 < low < high, got low={low}, high={high}.")
    return Knob(low=low, high=high, scale="log", stops=tuple(stops))


def choice(*options: Value, stops: Sequence[Value] | None = None) -> Knob:
    """One of a few values; a headless run visits all of them unless `stops` names fewer."""
    return Knob(options=options, stops=options if stops is None else tuple(stops))


def flag() -> Knob:
    """True or False."""
    return Knob(options=(True, False), stops=(False, True))


RANGES = {"between": between, "log": log, "choice": choice, "flag": flag}


def check_names(given: Mapping[str, object], known: Mapping[str, Knob]) -> None:
    """Refuse a name that no knob has, naming the nearest.

    Raises:
        KnobError: if a name is unknown or not an identifier.
    """
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KnobError(f"unknown parameter {name!r}.{hint} Known: {', '.join(sorted(known))}.")


def check_values(given: Mapping[str, object], known: Mapping[str, Knob]) -> dict[str, Value]:
    """The given parameters, each as its knob reads it.

    Raises:
        KnobError: for the first name or value that does not fit; nothing has been changed.
    """
    check_names(given, known)
    return {name: known[name].read(value) for name, value in given.items()}


def read_parameters(source: str) -> dict[str, Knob]:
    """The knobs that a parameters cell declares: name, type, default and the comment as help.

    Args:
        source: the cell's text; only lines such as `lr: float = 0.1  # step size` are allowed.
    Raises:
        KnobError: if a line is anything else, or a default is not of its own type.
    """
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    knobs = {}
    for node in ast.parse(source).body:
        name, kind, default = _declaration(node)
        knob = Knob(name, TYPES[kind], help=comments.get(node.lineno, ""))
        if type(default) is not knob.type:
            raise KnobError(f"{name} is declared {kind}, but its default is {default!r}.")
        knobs[name] = replace(knob, default=default)  # type: ignore[arg-type]
    return knobs


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
        ranged = ranges[name].named(name, knob.type)
        knobs[name] = replace(ranged, default=ranged.read(knob.default), help=knob.help)
    return knobs


def read_ranges(source: str) -> dict[str, Knob]:
    """The ranges that a guard cell declares in its call of `....knobs(name=log(...), ...)`.

    Read from the text, so that a run can check its parameters before a kernel starts.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "knobs":
            return {str(word.arg): _range(word.value) for word in node.keywords}
    raise KnobError("the guard cell has no call of `.knobs(name=..., ...)`.")


def _range(node: ast.expr) -> Knob:
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in RANGES:
        raise KnobError(f"{ast.unparse(node)} is not one of {', '.join(RANGES)}.")
    positional = [ast.literal_eval(argument) for argument in node.args]
    named = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    return RANGES[node.func.id](*positional, **named)  # type: ignore[attr-defined, operator]


def _declaration(node: ast.stmt) -> tuple[str, str, object]:
    """Name, type and default of one line of a parameters cell."""
    if not (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id in TYPES
        and node.value is not None
    ):
        raise KnobError(
            f"line {node.lineno} of the parameters cell must read `name: type = literal  # meaning`"
            f" with a type among {', '.join(TYPES)}, got `{ast.unparse(node)}`."
        )
    if keyword.iskeyword(node.target.id):
        raise KnobError(f"{node.target.id!r} is a keyword of Python, not a name.")
    return node.target.id, node.annotation.id, ast.literal_eval(node.value)


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
