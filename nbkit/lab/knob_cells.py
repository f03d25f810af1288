"""Read what a lesson's parameters cell and its guard declare, from their text without a kernel."""

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
from nbkit.lab.knob_ranges import RANGES
from nbkit.lab.knobs import TYPES, Knob, KnobError, Value


def read_parameters(source: str) -> dict[str, Knob]:
    """Read the knobs of a parameters cell: name, type, default, and the comment as help.

    Args:
        source: the cell's text; only lines such as `lr: float = 0.1  # step size`, and IPython's
            magics, are allowed.
    Raises:
        KnobError: if a line is anything else, a name comes twice, or a default does not have the
            declared type; the message names the line.
    """
    knobs: dict[str, Knob] = {}
    with _name_cell_in_errors("parameters"):
        # Parsed first: the tokenizer that finds the comments needs valid Python.
        statements = parse_cell(source).body
        comments = _read_comments(source)
        for node in statements:
            # `%matplotlib inline` stands in many parameters cells, and declares nothing.
            if is_magic(node):
                continue
            name, kind, default = _read_declaration(node)
            if name in knobs:
                raise CellError(f"{name} is declared twice: leave one of the lines.", node.lineno)
            knob = Knob(name, TYPES[kind], help=comments.get(node.lineno, ""))
            # A type is compared exactly: True is an int to isinstance, and 1 is not a float.
            if type(default) is not knob.type:
                raise CellError(
                    f"{name} is declared {kind}, but its default is {default!r}.", node.lineno
                )
            knobs[name] = replace(knob, default=default)
    return knobs


def _read_comments(source: str) -> dict[int, str]:
    """Read the comments of a cell that parses, by the number of their line."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(read_python(source)).readline):
        if token.type == tokenize.COMMENT:
            line, _ = token.start
            comments[line] = token.string.lstrip("# ").strip()
    return comments


@contextmanager
def _name_cell_in_errors(cell: str) -> Iterator[None]:
    """Turn a CellError into a KnobError that names the cell and the line."""
    try:
        yield
    except CellError as error:
        # `from None`: the CellError would repeat the message in the traceback.
        line = "" if error.line is None else f", line {error.line}"
        raise KnobError(f"the {cell} cell{line}: {error}") from None


def read_ranges(source: str) -> dict[str, Knob]:
    """Read the ranges that a guard cell declares in its call of `....knobs(name=log(...), ...)`.

    They are read from the text, so that a run can check its parameters before a kernel starts.

    Raises:
        KnobError: if there is no such call, or the text alone does not decide the ranges; the
            message names the line.
    """
    with _name_cell_in_errors("guard"):
        known: dict[str, object] = {}
        for statement in parse_cell(source).body:
            # The call may stand inside an assignment: `knobs = lesson.knobs(...)`.
            for node in ast.walk(statement):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "knobs":
                    return _read_knobs_call(node, known)
            _update_known_values(statement, known)
    raise KnobError("the guard cell has no call of `.knobs(name=..., ...)`.")


def _update_known_values(statement: ast.stmt, known: dict[str, object]) -> None:
    """Keep the value of a line such as `HIGH = 10`; forget the names that a statement rebinds."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.pop(node.id, None)
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    # A value that cannot be read is an error only where a range needs it.
    with suppress(CellError):
        value = read_constant(statement.value, known)
        # `LOW = HIGH = 2` has two targets; an annotated assignment has one.
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name):
                known[target.id] = value


def _read_knobs_call(call: ast.Call, known: Mapping[str, object]) -> dict[str, Knob]:
    """Read the range of each keyword in `.knobs(...)`."""
    names = [keyword.arg for keyword in call.keywords]
    # `**RANGES` is a keyword without a name: its text does not say which parameters it has.
    if call.args or None in names:
        raise CellError(
            f"expected `.knobs(name=log(...), ...)` with each parameter by name, "
            f"got `{ast.unparse(call)}`.",
            call.lineno,
        )
    ranges: dict[str, Knob] = {}
    for keyword in call.keywords:
        name = str(keyword.arg)
        ranges[name] = _read_range(name, keyword.value, known)
    return ranges


def _read_range(name: str, node: ast.expr, known: Mapping[str, object]) -> Knob:
    """Make the knob that `log(0.1, 10)` or another of RANGES declares."""
    # The function may be called as `log(...)` or as `knobs.log(...)`.
    function = node.func if isinstance(node, ast.Call) else None
    word = getattr(function, "id", "") or getattr(function, "attr", "")
    if not isinstance(node, ast.Call) or word not in RANGES:
        expected = ", ".join(f"{word}(...)" for word in RANGES)
        raise CellError(
            f"{name} must be one of {expected}, got `{ast.unparse(node)}`.", node.lineno
        )
    if None in [keyword.arg for keyword in node.keywords]:
        raise CellError(f"write out what {name} may be, got `{ast.unparse(node)}`.", node.lineno)
    positional = read_constants(node.args, known)
    options = {str(item.arg): read_constant(item.value, known) for item in node.keywords}
    make = RANGES[word]
    try:
        # Bound first: a wrong argument then is a TypeError without the function's name in it.
        inspect.signature(make).bind(*positional, **options)
        return make(*positional, **options)
    except (TypeError, KnobError) as error:
        problem = str(error).rstrip(".")
        raise CellError(
            f"{name}: {problem}. Expected {word}{_write_signature(make)}, "
            f"got `{ast.unparse(node)}`.",
            node.lineno,
        ) from None


def _write_signature(make: Callable[..., Knob]) -> str:
    """Write how a range is called, without types: `(low, high, *, stops=())`."""
    # The types are left out: `Sequence[float]` says less to a learner than `[1, 10]`.
    signature = inspect.signature(make)
    untyped = []
    for parameter in signature.parameters.values():
        untyped.append(parameter.replace(annotation=inspect.Parameter.empty))
    return str(inspect.Signature(untyped))


def _read_declaration(node: ast.stmt) -> tuple[str, str, Value]:
    """Read name, type and default from one line of a parameters cell."""
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
