"""Find the exercises in a cell, and mark what a student has to write."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from nbkit.lab.cell_text import parse_cell

Function = ast.FunctionDef | ast.AsyncFunctionDef
# nbgrader cuts out what is between these two lines; to a student they say where to write.
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass(frozen=True)
class ExerciseCode:
    """A function below `@lesson.exercise(...)`: the name for nbgrader, and the grading line."""

    name: str
    points: str
    function: Function


def find_exercises(source: str) -> list[ExerciseCode]:
    """Find the functions of a cell that are decorated with `lesson.exercise(...)`.

    Raises:
        CellError: if the cell has such a decorator and is not Python.
    """
    if not any(
        line.lstrip().startswith("@") and ".exercise(" in line for line in source.splitlines()
    ):
        return []
    found = []
    for node in ast.walk(parse_cell(source)):
        for decorator in node.decorator_list if isinstance(node, Function) else []:
            if getattr(getattr(decorator, "func", None), "attr", "") == "exercise":
                assert isinstance(node, Function) and isinstance(decorator, ast.Call)
                found.append(_read_decorator(node, decorator))
    return found


def _read_decorator(function: Function, decorator: ast.Call) -> ExerciseCode:
    """Read which exercise it is: its name as text, or the exercise itself."""
    lesson = ast.unparse(decorator.func).removesuffix(".exercise")
    given = [*decorator.args, *(word.value for word in decorator.keywords)]
    exercise: ast.expr = given[0] if given else ast.Constant(function.name)
    if isinstance(exercise, ast.Call):  # made on the spot: its name is all that a later cell has
        named = [*exercise.args, *(w.value for w in exercise.keywords if w.arg == "name")]
        exercise = named[0] if named else exercise
    if isinstance(exercise, ast.Constant):
        name = str(exercise.value)
        return ExerciseCode(name, f'{lesson}.points("{name}")', function)
    return ExerciseCode(function.name, f"{lesson}.points({ast.unparse(exercise)})", function)


def mark_bodies(source: str, exercises: Sequence[ExerciseCode]) -> str:
    """The same cell, the body of each exercise below its docstring between nbgrader's two lines."""
    if BEGIN in source:  # its author has marked it
        return source
    lines = source.splitlines()
    for exercise in sorted(exercises, key=lambda one: -one.function.lineno):
        lines = _mark_body(lines, exercise.function)
    return "\n".join(lines)


def _mark_body(lines: list[str], function: Function) -> list[str]:
    """Mark one function, given the lines of its cell."""
    first, last = function.body[0], function.end_lineno
    assert last is not None and first.end_lineno is not None
    before = lines[first.lineno - 1][: first.col_offset]
    if before.strip():  # `def f(x): return x` on one line
        indent = " " * (function.col_offset + 4)
        body = [indent + lines[first.lineno - 1][first.col_offset :], *lines[first.lineno : last]]
        head = [*lines[: first.lineno - 1], before.rstrip()]
        return [*head, indent + BEGIN, *body, indent + END, *lines[last:]]

    indent = before
    if ast.get_docstring(function) is not None:
        start = first.end_lineno
    else:
        decorators = getattr(first, "decorator_list", [])
        start = min([first.lineno, *(decorator.lineno for decorator in decorators)]) - 1
        while _is_aside(lines[start - 1]):
            start -= 1
    while last < len(lines) and _is_aside(lines[last]) and lines[last].startswith(indent):
        last += 1
    return [*lines[:start], indent + BEGIN, *lines[start:last], indent + END, *lines[last:]]


def _is_aside(line: str) -> bool:
    """Whether a line is empty or a comment, which may tell the solution too."""
    return not line.strip() or line.lstrip().startswith("#")
