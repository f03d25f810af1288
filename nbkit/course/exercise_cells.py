"""Find the exercises in a cell, and mark what a student has to write."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from nbkit.lab.cell_text import parse_cell

Function = ast.FunctionDef | ast.AsyncFunctionDef
# nbgrader removes the lines between these two; they show a student where to write.
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass(frozen=True)
class ExerciseCode:
    """A function below `@lesson.exercise(...)`."""

    name: str  # for nbgrader
    points: str  # the line of code that gives its points
    function: Function


def find_exercises(source: str) -> list[ExerciseCode]:
    """Find the functions of a cell that are decorated with `lesson.exercise(...)`.

    Raises:
        CellError: if the cell has such a decorator and is not Python.
    """
    # Only a cell that looks as if it had an exercise has to be Python.
    if not any(_looks_like_exercise(line) for line in source.splitlines()):
        return []
    found = []
    for node in ast.walk(parse_cell(source)):
        if not isinstance(node, Function):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and _is_exercise(decorator):
                found.append(_read_decorator(node, decorator))
    return found


def _looks_like_exercise(line: str) -> bool:
    return line.lstrip().startswith("@") and ".exercise(" in line


def _is_exercise(decorator: ast.Call) -> bool:
    """Return whether a decorator is a call of somebody's method `exercise`."""
    return isinstance(decorator.func, ast.Attribute) and decorator.func.attr == "exercise"


def _read_decorator(function: Function, decorator: ast.Call) -> ExerciseCode:
    """Read the exercise that a decorator names, as text or as a variable."""
    lesson = ast.unparse(decorator.func).removesuffix(".exercise")
    exercise = _first_argument(decorator) or ast.Constant(function.name)
    if isinstance(exercise, ast.Call):
        # An exercise that is made in the decorator: a later cell knows it by its name alone.
        exercise = _first_argument(exercise, keyword="name") or exercise
    if isinstance(exercise, ast.Constant):
        name = str(exercise.value)
        return ExerciseCode(name, f'{lesson}.points("{name}")', function)
    return ExerciseCode(function.name, f"{lesson}.points({ast.unparse(exercise)})", function)


def _first_argument(call: ast.Call, keyword: str | None = None) -> ast.expr | None:
    """Return the first argument of a call, or else the one of this keyword, None meaning any."""
    if call.args:
        return call.args[0]
    for word in call.keywords:
        if keyword in (None, word.arg):
            return word.value
    return None


def mark_bodies(source: str, exercises: Sequence[ExerciseCode]) -> str:
    """Put the body of each exercise, below its docstring, between nbgrader's two lines."""
    if BEGIN in source:  # the author of the lesson has marked it
        return source
    lines = source.splitlines()
    # From the last to the first: a mark moves the lines below it.
    for exercise in sorted(exercises, key=lambda one: -one.function.lineno):
        lines = _mark_body(lines, exercise.function)
    return "\n".join(lines)


def _mark_body(lines: list[str], function: Function) -> list[str]:
    """Return the lines of a cell with one function marked."""
    first, last = function.body[0], function.end_lineno
    assert last is not None and first.end_lineno is not None
    before = lines[first.lineno - 1][: first.col_offset]
    # Of `def f(x): return x`, the body moves to a line below the head.
    if before.strip():
        indent = " " * (function.col_offset + 4)
        body = [indent + lines[first.lineno - 1][first.col_offset :], *lines[first.lineno : last]]
        head = [*lines[: first.lineno - 1], before.rstrip()]
        return [*head, indent + BEGIN, *body, indent + END, *lines[last:]]

    indent = before
    if ast.get_docstring(function) is not None:
        start = first.end_lineno
    else:
        # The body may begin with a decorated function, or with comments that tell the solution.
        decorators = getattr(first, "decorator_list", [])
        start = min([first.lineno, *[decorator.lineno for decorator in decorators]]) - 1
        while _is_aside(lines[start - 1]):
            start -= 1
    # Comments below the last statement belong to the body if they are indented like it.
    while last < len(lines) and _is_aside(lines[last]) and lines[last].startswith(indent):
        last += 1
    return [*lines[:start], indent + BEGIN, *lines[start:last], indent + END, *lines[last:]]


def _is_aside(line: str) -> bool:
    """Return whether a line is empty or a comment, which may tell the solution too."""
    return not line.strip() or line.lstrip().startswith("#")
