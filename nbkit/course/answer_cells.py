"""Take out of a cell what a learner is to fill in: a typed prediction, the letter of an answer."""

from __future__ import annotations

import ast
import re

from nbkit.lab.cell_text import CellError, parse_cell

CALLS = re.compile(r"\.(predict|answer)\(")
TYPED = ("guess", "confidence")  # the arguments of a prediction that is typed, not dragged


def remove_choices(source: str) -> str:
    """Return a cell without its author's predictions and answers.

    `lesson.predict("id", guess=0.8, confidence=70)` becomes `lesson.predict("id")`, which asks; and
    `lesson.answer("bug", "b")` becomes `lesson.answer("bug", ...)`. All else stays as it is.

    Raises:
        CellError: if a cell with such a call is not Python.

    >>> remove_choices('lesson.answer("bug", "b")  # which one?')
    'lesson.answer("bug", ...)  # which one?'
    """
    # Only a cell that looks as if it had such a call has to be Python, and never a `%%bash` cell.
    if not CALLS.search(source) or source.lstrip().startswith("%%"):
        return source
    edits: list[tuple[ast.expr, str]] = []
    for node in ast.walk(parse_cell(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "predict":
                edits += _empty_prediction(node, source)
            elif node.func.attr == "answer":
                edits += _empty_answer(node)
    # From the last to the first: an edit moves what stands behind it.
    for node, text in sorted(edits, key=lambda edit: (-edit[0].lineno, -edit[0].col_offset)):
        start, end = _find_place(node, source)
        source = source[:start] + text + source[end:]
    return source


def _empty_prediction(call: ast.Call, source: str) -> list[tuple[ast.expr, str]]:
    """Return the edit that leaves only the claim in a call of `lesson.predict`."""
    names = [keyword.arg for keyword in call.keywords]
    # `model.predict(x)` is somebody else's method.
    if not set(TYPED) & set(names):
        return []
    kept = [_read_text(argument, source) for argument in call.args]
    for keyword in call.keywords:
        if keyword.arg not in TYPED:
            kept.append(f"{keyword.arg}={_read_text(keyword.value, source)}")
    return [(call, f"{_read_text(call.func, source)}({', '.join(kept)})")]


def _empty_answer(call: ast.Call) -> list[tuple[ast.expr, str]]:
    """Return the edit that takes the letter out of a call of `lesson.answer`."""
    choices = call.args[1:2]
    for keyword in call.keywords:
        if keyword.arg == "choice":
            choices.append(keyword.value)
    return [(choice, "...") for choice in choices]


def _read_text(node: ast.expr, source: str) -> str:
    start, end = _find_place(node, source)
    return source[start:end]


def _find_place(node: ast.expr, source: str) -> tuple[int, int]:
    """Return where an expression starts and ends in the cell, counted in characters."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    lines = source.splitlines(keepends=True)
    places = []
    for line, column in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)):
        # Python counts columns in bytes of UTF-8.
        before = lines[line - 1].encode()[:column].decode(errors="replace")
        places.append(sum(map(len, lines[: line - 1])) + len(before))
    start, end = places
    # With magics, IPython may shift the lines of an indented cell; then the place is wrong.
    if not _is_same(node, source[start:end]):
        raise CellError(
            f"expected `{ast.unparse(node)}` at the line's place, got `{source[start:end]}`. Take "
            f"the magics out of this cell.",
            node.lineno,
        )
    return start, end


def _is_same(node: ast.expr, text: str) -> bool:
    """Return whether a text is this expression."""
    try:
        # In brackets, an expression may go over several lines.
        parsed = ast.parse(f"({text})", mode="eval").body
    except SyntaxError:
        return False
    return ast.dump(parsed) == ast.dump(node)
