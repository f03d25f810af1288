"""Hold exercises: a stub for the learner, a reference that passes, and checks with reasons."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbkit.lab.shipped import LESSONS

Function = Callable[..., Any]
# A check takes the learner's function and returns None, or what is wrong in a sentence.
Check = Callable[[Function], str | None]
LONGEST_SHOWN = 4  # a list or tensor with more elements would fill the line


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    Each check takes the learner's function and returns None, or one sentence: what was expected, on
    which input, and what was received. The first line of its docstring says what it expects; it is
    shown if the function raises.

    Raises:
        ValueError: if the name is not an identifier, there is no check, or a function is missing.
    """

    name: str
    stub: Function
    reference: Function
    checks: Sequence[Check]

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"an exercise's name must be that of a function, got {self.name!r}.")
        if not self.checks:
            raise ValueError(f"{self.name} must have at least one check: anything passes none.")
        for function in (self.stub, self.reference, *self.checks):
            if not callable(function):
                raise ValueError(
                    f"stub, reference and each check of {self.name} must be functions, "
                    f"got {function!r}."
                )

    def find_failure(self, attempt: Function) -> str | None:
        """Find why an attempt does not count, in a sentence; None if it counts.

        The reference does not count as an attempt: a failed attempt is replaced by it, and the
        learner may hand it in again by accident.
        """
        # Compared by code, so that a copy of the reference is recognised, too.
        code = getattr(attempt, "__code__", attempt)
        if code is getattr(self.reference, "__code__", self.reference):
            return "this is the reference: write a function of your own below the decorator."
        return self.check(attempt)

    def check(self, attempt: Function) -> str | None:
        """Find the first property that fails, in a sentence; None if all hold."""
        for check in self.checks:
            recorded = _RecordedFunction(self.name, attempt)
            try:
                failure = check(recorded)
            # `exit()` in an attempt must not end the kernel; Ctrl-C still does.
            except (Exception, SystemExit) as error:
                failure = recorded.explain_error(error, check.__doc__ or "")
            if failure:
                return failure
        return None


class _RecordedFunction:
    """The learner's function, with its last call and its last result in words."""

    def __init__(self, name: str, function: Function) -> None:
        self.name, self.function = name, function
        self.last_call = self.last_result = ""

    def __call__(self, *args: object, **options: object) -> object:
        words = [_describe_value(value) for value in args]
        for name, value in options.items():
            words.append(f"{name}={_describe_value(value)}")
        # Described before the call, which may change an argument; kept as words, so that no
        # argument is kept alive.
        self.last_call, self.last_result = f"for {self.name}({', '.join(words)}) ", ""
        result = self.function(*args, **options)
        self.last_result = _describe_value(result)
        return result

    def explain_error(self, error: BaseException, expected: str) -> str:
        """Explain an error: the function raised it, or its result made the check raise it."""
        raised = f"{type(error).__name__}: {error}".rstrip(".")
        # With a result the function has returned: the error came from reading the result.
        if self.last_result:
            problem = f"it returned {self.last_result}, which cannot be read ({raised})"
        else:
            problem = f"it raised {raised}"
        first_line = expected.partition("\n")[0]
        end = f"; expected: {first_line}" if first_line else "."
        return f"{self.last_call}{problem}{end}"


def _describe_value(value: object) -> str:
    """Write a short value as Python does, and any other by its type, `<SGD>`."""
    if isinstance(value, torch.Tensor):
        if value.numel() <= LONGEST_SHOWN:
            return f"tensor({value.tolist()})"
        return f"<tensor of shape {tuple(value.shape)}>"
    if isinstance(value, list | tuple) and 0 < len(value) <= LONGEST_SHOWN:
        return f"[{', '.join(map(_describe_value, value))}]"
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if is_plain else f"<{type(value).__name__}>"


def has_exercises(lesson: str) -> bool:
    """Return whether nbkit ships exercises for that lesson."""
    # An identifier has no dots and slashes: a name cannot lead out of the folder.
    return lesson.isidentifier() and (LESSONS / lesson / "exercise.py").is_file()


def load_exercise(lesson: str, name: str) -> Exercise:
    """Load the exercise of that name from `nbkit/lessons/<lesson>/exercise.py`.

    Raises:
        ValueError: if the lesson has no exercise of that name; the message lists those it has.
    """
    if not has_exercises(lesson):
        raise ValueError(
            f"nbkit has no exercises of lesson {lesson!r}: for a lesson of your own, hand over the "
            f"exercise itself, an `nbkit.lab.Exercise`, got {name!r}."
        )
    module = importlib.import_module(f"nbkit.lessons.{lesson}.exercise")
    exercises: list[Exercise] = module.EXERCISES
    for exercise in exercises:
        if exercise.name == name:
            return exercise
    known = ", ".join(exercise.name for exercise in exercises)
    raise ValueError(f"lesson {lesson!r} has no exercise {name!r}, only {known}.")
