"""Read a cell without running it: its statements, and the values that its text alone decides."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST_BITS = 4096  # of a whole number: `10**10**10` would never come to an end
RUNS_ITS_BODY = ("time", "timeit", "capture", "prun")  # cell magics whose cell is still Python
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class CellError(ValueError):
    """A cell whose text cannot be read; `line` counts from 1 and is None where no line is meant."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read_python(source: str) -> str:
    """The cell as Python: each of IPython's magics becomes a call, on the line where it stands.

    Raises:
        CellError: if the cell is in another language, as `%%bash` makes it.
    """
    lines = source.splitlines()
    first = next((n for n, line in enumerate(lines) if line.strip()), 0)
    if lines and lines[first].startswith("%%"):
        magic = lines[first][2:].split()[0] if lines[first][2:].split() else ""
        if magic not in RUNS_ITS_BODY:
            raise CellError(
                f"expected a cell of Python, got `{lines[first]}`. Take that line out.", first + 1
            )
        lines[first] = ""
    # IPython drops empty lines at the top: they are put back, so that line numbers stay right.
    empty = next((n for n, line in enumerate(lines) if line.strip()), 0)
    return "\n" * empty + _replace_magics("\n".join(lines[empty:]) + "\n")


def _replace_magics(source: str) -> str:
    from IPython.core.inputtransformer2 import TransformerManager

    if not any(line.lstrip().startswith(("%", "!", "?")) for line in source.splitlines()):
        return source
    return TransformerManager().transform_cell(source)


def parse_cell(source: str) -> ast.Module:
    """The statements of a cell.

    Raises:
        CellError: if it is not Python, with the line that is wrong.
    """
    python = read_python(source)
    try:
        return ast.parse(python)
    except SyntaxError as error:
        written = f", got `{error.text.strip()}`" if error.text and error.text.strip() else ""
        raise CellError(f"expected Python{written} ({error.msg}).", error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise CellError(f"expected Python that can be parsed, got: {error}.") from None


def is_magic(node: ast.stmt) -> bool:
    """Whether a statement is one of IPython's magics, such as `%matplotlib inline`."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return ast.unparse(node.value.func).startswith("get_ipython().")


def read_constant(node: ast.expr, known: Mapping[str, object]) -> Any:
    """The value of an expression of literals, arithmetic and names whose values are known.

    Args:
        node: the expression.
        known: values by name.
    Raises:
        CellError: if it is anything else; it has not been run.

    >>> read_constant(ast.parse("[1/8, 2 * WIDTH]", mode="eval").body, {"WIDTH": 16})
    [0.125, 32]
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Attribute) and ast.unparse(node) in ("math.pi", "math.e"):
        return getattr(math, node.attr)
    if isinstance(node, ast.List | ast.Tuple):
        values = read_constants(node.elts, known)
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        operand = read_constant(node.operand, known)
        return _compute(node, SIGNS[type(node.op)], operand)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = read_constant(node.left, known), read_constant(node.right, known)
        if isinstance(node.op, ast.Pow):
            _check_power(node, left, right)
        return _compute(node, ARITHMETIC[type(node.op)], left, right)
    raise CellError(
        f"expected a value that can be read without running the cell, got `{ast.unparse(node)}`. "
        f"Write a literal, arithmetic on numbers, or a name that was given such a value above.",
        node.lineno,
    )


def read_constants(nodes: list[ast.expr], known: Mapping[str, object]) -> list[Any]:
    """The values of several expressions; `*VALUES` gives each of its own.

    Raises:
        CellError: as `read_constant` does.
    """
    values: list[Any] = []
    for node in nodes:
        if not isinstance(node, ast.Starred):
            values.append(read_constant(node, known))
            continue
        several = read_constant(node.value, known)
        if not isinstance(several, list | tuple):
            raise CellError(f"`{ast.unparse(node)}` needs a list, got {several!r}.", node.lineno)
        values.extend(several)
    return values


def _check_power(node: ast.expr, base: object, exponent: object) -> None:
    """Refuse a power so large that it would take for ever."""
    if not (isinstance(base, int) and isinstance(exponent, int)):
        return
    if max(1, base.bit_length()) * abs(exponent) > MOST_BITS:
        raise CellError(f"`{ast.unparse(node)}` is too large a number.", node.lineno)


def _compute(node: ast.expr, function: Callable[..., Any], *operands: object) -> Any:
    for operand in operands:
        if type(operand) not in (int, float):
            raise CellError(f"`{ast.unparse(node)}` needs numbers, got {operand!r}.", node.lineno)
    try:
        value = function(*operands)
    except ArithmeticError as error:
        raise CellError(f"`{ast.unparse(node)}` has no value: {error}.", node.lineno) from None
    if type(value) not in (int, float):  # a root of a negative number is complex
        raise CellError(f"`{ast.unparse(node)}` is no real number.", node.lineno)
    return value
