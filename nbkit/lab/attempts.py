"""Keep what a reader has handed in for the exercises of a lesson, and whose function is in use."""

from __future__ import annotations

import contextlib
import io

from nbkit.base.state import preserve_state
from nbkit.lab.exercise import Exercise, Function, has_exercises, load_exercise


class Attempts:
    """The functions that were handed in, by exercise.

    Args:
        lesson: the lesson's word.
    """

    def __init__(self, lesson: str) -> None:
        self.lesson = lesson
        # For each exercise by name, the exercise and the function that was handed in last.
        self.handed_in: dict[str, tuple[Exercise, Function]] = {}
        # The exercises whose last attempt passed: the cells below use the reader's function.
        self.solved: set[str] = set()

    def find_exercise(self, exercise: str | Exercise) -> Exercise:
        """Return an exercise by its name; an exercise that is handed over itself stays as it is."""
        # A lesson of your own has no module that a name could be looked up in.
        return exercise if isinstance(exercise, Exercise) else load_exercise(self.lesson, exercise)

    def check(self, exercise: Exercise, attempt: Function) -> Function:
        """Check an attempt, print the result, and return what the cells below shall use."""
        # An interrupted check leaves no attempt: an earlier one must not earn the point.
        self.handed_in.pop(exercise.name, None)
        self.solved.discard(exercise.name)
        failure = exercise.find_failure(attempt)
        self.handed_in[exercise.name] = exercise, attempt
        if failure is None:
            self.solved.add(exercise.name)
            print(f"{exercise.name}: all {len(exercise.checks)} checks pass. It is yours.")
            return attempt
        print(f"{exercise.name}: not yet. {failure}")
        print(f"The cells below use the reference's {exercise.name}.")
        return exercise.reference

    def count_points(self, exercise: str | Exercise) -> int:
        """Return 1 if the last attempt passes the checks when they run again, else 0."""
        name = exercise.name if isinstance(exercise, Exercise) else exercise
        try:
            found, attempt = self.handed_in[name]
            # The exercise is taken from its source again: the attempts are open to any cell.
            if isinstance(exercise, Exercise) or has_exercises(self.lesson):
                found = self.find_exercise(exercise)
            # Grading must leave no trace: neither printed lines nor a moved random state.
            with preserve_state(), contextlib.redirect_stdout(io.StringIO()):
                return int(found.find_failure(attempt) is None)
        except Exception:
            # Nothing was handed in, or a cell has put something else in its place.
            return 0

    def name_owner(self, exercise: str | Exercise) -> str:
        """Return `your range_test`, or `the reference's range_test` until an attempt passes."""
        name = self.find_known_name(exercise)
        return f"your {name}" if name in self.solved else f"the reference's {name}"

    def find_known_name(self, exercise: str | Exercise) -> str:
        """Return the name of an exercise.

        Raises:
            ValueError: if nothing of that name was handed in, and the lesson has no such exercise.
        """
        # An exercise that a decorator made is known by its name only, once it was handed in.
        if isinstance(exercise, str) and exercise in self.handed_in:
            return exercise
        return self.find_exercise(exercise).name
