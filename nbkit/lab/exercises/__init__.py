"""Exercises: a stub for the learner, a reference that passes, and checks that say what is wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    Each check takes the learner's function and returns None, or one sentence: what was expected, on
    which input, and what came.
    """

    name: str
    stub: Callable
    reference: Callable
    checks: Sequence[Callable[[Callable], str | None]]

    def check(self, attempt: Callable) -> str | None:
        """The first property that fails, in a sentence; None when all hold."""
        for check in self.checks:
            try:
                failure = check(attempt)
            except Exception as error:
                failure = f"it raised {type(error).__name__}: {error}"
            if failure:
                return failure
        return None


def load_exercise(lesson: str, name: str) -> Exercise:
    """The exercise of that name from `nbkit/lab/exercises/<technique>.py`.

    Raises:
        ValueError: if the lesson has no exercise of that name; those it has are named.
    """
    module = importlib.import_module(f"nbkit.lab.exercises.{lesson.partition('_')[2]}")
    found = {exercise.name: exercise for exercise in module.EXERCISES}
    if name not in found:
        raise ValueError(f"lesson {lesson!r} has no exercise {name!r}, only {', '.join(found)}.")
    return found[name]
