"""Exercises: a stub for the learner, a reference that passes, and checks that say what is wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    Each check takes the learner's function and returns None, or one sentence: what was expected, on
    which input, and what came. Its docstring says what it expects, for a function that raises.
    """

    name: str
    stub: Callable
    reference: Callable
    checks: Sequence[Callable[[Callable], str | None]]

    def check(self, attempt: Callable) -> str | None:
        """The first property that fails, in a sentence; None when all hold."""
        for check in self.checks:
            called = _Called(self.name, attempt)
            try:
                failure = check(called)
            except Exception as error:
                failure = called.failure(error, check.__doc__ or "")
            if failure:
                return failure
        return None


class _Called:
    """The learner's function, which remembers how it was called last and what came, in words."""

    def __init__(self, name: str, function: Callable) -> None:
        self.name, self.function = name, function
        self.given = self.came = ""

    def __call__(self, *args: object, **options: object) -> object:
        words = [*map(_shown, args), *(f"{name}={_shown(x)}" for name, x in options.items())]
        # Words, and before the call: an argument may be changed by it, or must not outlive it.
        self.given, self.came = f"for {self.name}({', '.join(words)}) ", ""
        came = self.function(*args, **options)
        self.came = _shown(came)
        return came

    def failure(self, error: Exception, expected: str) -> str:
        """What the function raised, or what it returned that its check could not read."""
        told = f"{type(error).__name__}: {error}".rstrip(".")
        what = f"it returned {self.came}, which cannot be read ({told})"
        told = f"{self.given}{what if self.came else f'it raised {told}'}"
        expected = expected.partition("\n")[0]
        return f"{told}; expected: {expected}" if expected else f"{told}."


def _shown(value: object) -> str:
    """A short value as Python writes it, `<SGD>` for what has no short form."""
    if isinstance(value, torch.Tensor):
        small = value.numel() <= 4
        return f"tensor({value.tolist()})" if small else f"<tensor of shape {tuple(value.shape)}>"
    if isinstance(value, list | tuple) and 0 < len(value) <= 4:
        return f"[{', '.join(map(_shown, value))}]"
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else f"<{type(value).__name__}>"


def load_exercise(lesson: str, name: str) -> Exercise:
    """The exercise of that name from `nbkit/lessons/<technique>/exercise.py`.

    Raises:
        ValueError: if the lesson has no exercise of that name; those it has are named.
    """
    module = importlib.import_module(f"nbkit.lessons.{lesson.partition('_')[2]}.exercise")
    found = {exercise.name: exercise for exercise in module.EXERCISES}
    if name not in found:
        raise ValueError(f"lesson {lesson!r} has no exercise {name!r}, only {', '.join(found)}.")
    return found[name]
