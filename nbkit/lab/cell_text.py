"""Read a cell without running it: its statements, and the values that its text alone decides."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

# The most bits of a whole number: `10**10**10` would never finish.
MOST_BITS = 4096
# These magics of IPython leave the rest of their cell as Python.
PYTHON_CELL_MAGICS = ("time", "timeit", "capture", "prun")
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
    """A cell whose text cannot be read; `line` counts from 1, None if no line is to blame."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read_python(source: str) -> str:
    """Return the cell as Python; each of IPython's magics becomes a call on the same line.

    Raises:
        CellError: if the cell is in another language, as `%%bash` makes it.
    """
    lines = source.splitlines()
    first = _find_first_line(lines)
    if lines and lines[first].startswith("%%"):
        words = lines[first][2:].split()
        if not words or words[0] not in PYTHON_CELL_MAGICS:
            raise CellError(
                f"expected a cell of Python, got `{lines[first]}`. Take that line out.", first + 1
            )
        lines[first] = ""
    # IPython drops empty lines at the top. They are put back, so that line numbers stay right.
    empty = _find_first_line(lines)
    return "\n" * empty + _replace_magics("\n".join(lines[empty:]) + "\n")


def _find_first_line(lines: list[str]) -> int:
    """Return the index of the first line that is not empty; 0 if all are."""
    for number, line in enumerate(lines):
        if line.strip():
            return number
    return 0


def _replace_magics(source: str) -> str:
    from IPython.core.inputtransformer2 import TransformerManager

    starts = [line.lstrip()[:1] for line in source.splitlines()]
    # Without a magic the text stays as it is: IPython would also change its indentation.
    if not {"%", "!", "?"} & set(starts):
        return source
    manager = TransformerManager()
    return manager.transform_cell(source)


def parse_cell(source: str) -> ast.Module:
    """Parse a cell into its statements.

    Raises:
        CellError: if it is not Python, with the line that is wrong.
    """
    # Line numbers in the errors below are those of the cell: read_python keeps them.
    python = read_python(source)
    try:
        return ast.parse(python)
    except SyntaxError as error:
        line = (error.text or "").strip()
        got = f", got `{line}`" if line else ""
        raise CellError(f"expected Python{got} ({error.msg}).", error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        # A null byte, and brackets nested too deeply, are not reported as a SyntaxError.
        raise CellError(f"expected Python that can be parsed, got: {error}.") from None


def is_magic(node: ast.stmt) -> bool:
    """Return whether a statement is one of IPython's magics, such as `%matplotlib inline`."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return ast.unparse(node.value.func).startswith("get_ipython().")


def read_constant(node: ast.expr, known: Mapping[str, object]) -> Any:
    """Compute the value of an expression of literals, arithmetic and names with known values.

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
    # Elements are read like any expression: lists may hold names and arithmetic.
    if isinstance(node, ast.List | ast.Tuple):
        values = read_constants(node.elts, known)
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        operand = read_constant(node.operand, known)
        return _apply_operator(node, SIGNS[type(node.op)], operand)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = read_constant(node.left, known), read_constant(node.right, known)
        # Refused before it is computed: a huge power would block the whole run.
        if isinstance(node.op, ast.Pow):
            _check_power(node, left, right)
        return _apply_operator(node, ARITHMETIC[type(node.op)], left, right)
    raise CellError(
        f"expected a value that can be read without running the cell, got `{ast.unparse(node)}`. "
        f"Write a literal, arithmetic on numbers, or a name that was given such a value above.",
        node.lineno,
    )


def read_constants(nodes: list[ast.expr], known: Mapping[str, object]) -> list[Any]:
    """Compute the values of several expressions; `*VALUES` contributes each of its items.

    Raises:
        CellError: as `read_constant` does.
    """
    values: list[Any] = []
    for node in nodes:
        if not isinstance(node, ast.Starred):
            values.append(read_constant(node, known))
            continue
        items = read_constant(node.value, known)
        if not isinstance(items, list | tuple):
            raise CellError(f"`{ast.unparse(node)}` needs a list, got {items!r}.", node.lineno)
        values.extend(items)
    return values


def _check_power(node: ast.expr, base: object, exponent: object) -> None:
    """Refuse a power that is too large to compute."""
    if not (isinstance(base, int) and isinstance(exponent, int)):
        return
    # base ** exponent has about (bits of the base) * exponent bits.
    if max(1, base.bit_length()) * abs(exponent) > MOST_BITS:
        raise CellError(f"`{ast.unparse(node)}` is too large a number.", node.lineno)


def _apply_operator(node: ast.expr, function: Callable[..., Any], *operands: object) -> Any:
    """Apply an operator to numbers, and refuse a result that is not a real number."""
    for operand in operands:
        if type(operand) not in (int, float):
            raise CellError(f"`{ast.unparse(node)}` needs numbers, got {operand!r}.", node.lineno)
    try:
        value = function(*operands)
    except ArithmeticError as error:
        raise CellError(f"`{ast.unparse(node)}` has no value: {error}.", node.lineno) from None
    # A fractional power of a negative number is complex.
    if type(value) not in (int, float):
        raise CellError(f"`{ast.unparse(node)}` is no real number.", node.lineno)
    return value
