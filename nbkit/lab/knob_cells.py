"""What a lesson's parameters cell and its guard declare, read from their text without a kernel."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from nbkit.lab.cell_text import (
    CellError,
    is_magic,
    parse_cell,
    read_constant,
    read_constants,
    read_python,
)
from nbkit.lab.knobs import RANGES, TYPES, Knob, KnobError, Value


def read_parameters(source: str) -> dict[str, Knob]:
    """The knobs that a parameters cell declares: name, type, default and the comment as help.

    Args:
        source: the cell's text; only lines such as `lr: float = 0.1  # step size`, and IPython's
            magics, are allowed.
    Raises:
        KnobError: if a line is anything else, a name comes twice, or a default is not of its own
            type; it names the line.
    """
    knobs: dict[str, Knob] = {}
    with _errors_named("parameters"):
        statements = parse_cell(source).body
        comments = _read_comments(source)
        for node in statements:
            if is_magic(node):
                continue
            name, kind, default = _declaration(node)
            knob = Knob(name, TYPES[kind], help=comments.get(node.lineno, ""))
            if name in knobs:
                raise CellError(f"{name} is declared twice: leave one of the lines.", node.lineno)
            if type(default) is not knob.type:
                raise CellError(
                    f"{name} is declared {kind}, but its default is {default!r}.", node.lineno
                )
            knobs[name] = replace(knob, default=default)
    return knobs


def _read_comments(source: str) -> dict[int, str]:
    """The comment of each line that has one; the cell has been parsed before."""
    tokens = tokenize.generate_tokens(io.StringIO(read_python(source)).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return {token.start[0]: token.string.lstrip("# ").strip() for token in comments}


@contextmanager
def _errors_named(cell: str) -> Iterator[None]:
    """Say in which cell, and in which of its lines, something cannot be read."""
    try:
        yield
    except CellError as error:
        line = "" if error.line is None else f", line {error.line}"
        raise KnobError(f"the {cell} cell{line}: {error}") from None


def read_ranges(source: str) -> dict[str, Knob]:
    """The ranges that a guard cell declares in its call of `....knobs(name=log(...), ...)`.

    Read from the text, so that a run can check its parameters before a kernel starts.

    Raises:
        KnobError: if there is no such call, or its text alone does not decide the ranges; it names
            the line.
    """
    with _errors_named("guard"):
        known: dict[str, object] = {}
        for statement in parse_cell(source).body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "knobs":
                    return _read_call(node, known)
            _remember(statement, known)
    raise KnobError("the guard cell has no call of `.knobs(name=..., ...)`.")


def _remember(statement: ast.stmt, known: dict[str, object]) -> None:
    """Keep the value of a line such as `HIGH = 10`; forget a name that may be another now."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.pop(node.id, None)
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    with suppress(CellError):  # it may be anything, unless a range needs it
        value = read_constant(statement.value, known)
        known.update(dict.fromkeys(names, value))


def _read_call(call: ast.Call, known: Mapping[str, object]) -> dict[str, Knob]:
    """The range of each keyword in `.knobs(...)`."""
    if call.args or any(word.arg is None for word in call.keywords):
        raise CellError(
            f"expected `.knobs(name=log(...), ...)` with each parameter by name, "
            f"got `{ast.unparse(call)}`.",
            call.lineno,
        )
    return {str(word.arg): _range(str(word.arg), word.value, known) for word in call.keywords}


def _range(name: str, node: ast.expr, known: Mapping[str, object]) -> Knob:
    """The knob that `log(0.1, 10)` or another of RANGES makes."""
    function = node.func if isinstance(node, ast.Call) else None
    word = getattr(function, "id", "") or getattr(function, "attr", "")
    if not isinstance(node, ast.Call) or word not in RANGES:
        raise CellError(
            f"{name} must be one of {', '.join(f'{word}(...)' for word in RANGES)}, "
            f"got `{ast.unparse(node)}`.",
            node.lineno,
        )
    if any(keyword.arg is None for keyword in node.keywords):
        raise CellError(f"write out what {name} may be, got `{ast.unparse(node)}`.", node.lineno)
    positional = read_constants(node.args, known)
    options = {str(item.arg): read_constant(item.value, known) for item in node.keywords}
    make: Callable[..., Knob] = RANGES[word]  # type: ignore[assignment]
    try:
        inspect.signature(make).bind(*positional, **options)
        return make(*positional, **options)
    except (TypeError, KnobError) as error:
        problem = str(error).rstrip(".")
        raise CellError(
            f"{name}: {problem}. Expected {word}{_written(make)}, got `{ast.unparse(node)}`.",
            node.lineno,
        ) from None


def _written(make: Callable[..., Knob]) -> str:
    """How a range is called: `(low, high, *, stops=())`."""
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(make).parameters.values()
    ]
    return str(inspect.Signature(plain))


def _declaration(node: ast.stmt) -> tuple[str, str, Value]:
    """Name, type and default of one line of a parameters cell."""
    if not (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id in TYPES
        and node.value is not None
    ):
        raise CellError(
            f"expected `name: type = literal  # meaning` with a type among {', '.join(TYPES)}, "
            f"got `{ast.unparse(node)}`.",
            node.lineno,
        )
    return node.target.id, node.annotation.id, read_constant(node.value, {})
