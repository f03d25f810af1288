"""Exercises: a stub for the learner, a reference that passes, and checks that say what is wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nbkit.lab.shipped import LESSONS


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

    def find_failure(self, attempt: Callable) -> str | None:
        """Find why an attempt does not count, in a sentence; None when it does.

        The reference itself is nobody's attempt: it is what a failed one is replaced by.
        """
        code = getattr(attempt, "__code__", attempt)
        if code is getattr(self.reference, "__code__", self.reference):
            return "this is the reference: write a function of your own below the decorator."
        return self.check(attempt)

    def check(self, attempt: Callable) -> str | None:
        """The first property that fails, in a sentence; None when all hold."""
        for check in self.checks:
            called = _Called(self.name, attempt)
            try:
                failure = check(called)
            except (Exception, SystemExit) as error:
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

    def failure(self, error: BaseException, expected: str) -> str:
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


def has_exercises(lesson: str) -> bool:
    """Whether nbkit ships exercises of that lesson."""
    return lesson.isidentifier() and (LESSONS / lesson / "exercise.py").is_file()


def load_exercise(lesson: str, name: str) -> Exercise:
    """The exercise of that name from `nbkit/lessons/<lesson>/exercise.py`.

    Raises:
        ValueError: if the lesson has no exercise of that name; those it has are named.
    """
    if not has_exercises(lesson):
        raise ValueError(
            f"nbkit has no exercises of lesson {lesson!r}: for a lesson of your own, hand over the "
            f"exercise itself, an `nbkit.lab.Exercise`, got {name!r}."
        )
    module = importlib.import_module(f"nbkit.lessons.{lesson}.exercise")
    found = {exercise.name: exercise for exercise in module.EXERCISES}
    if name not in found:
        raise ValueError(f"lesson {lesson!r} has no exercise {name!r}, only {', '.join(found)}.")
    return found[name]
