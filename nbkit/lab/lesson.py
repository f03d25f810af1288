"""The handle that a notebook opens: knobs, predictions, exercises, live lab and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeVar

import nbkit
from nbkit.lab.answers import Answer, load_answer
from nbkit.lab.attempts import Attempts
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.verdicts import Verdict, judge
from nbkit.lab.exercise import Exercise, Function
from nbkit.lab.guard import Guard
from nbkit.lab.knobs import Knob, KnobError
from nbkit.lab.lesson_predictions import LessonPredictions
from nbkit.lab.markdown import escape_markdown
from nbkit.lab.missing_names import explain_missing_names
from nbkit.lab.notebook import (
    display_claims,
    display_markdown,
    display_source,
    display_with_numbers,
    is_watched,
    read_namespace,
    show_progress,
)
from nbkit.lab.threads import use_one_thread

Item = TypeVar("Item")


class Lesson:
    """One lesson, from its opening to its takeaways.

    Args:
        name: the lesson's word, `lr_finder`; for a lesson of your own, any name.
        namespace: the notebook's variables; default those of the running notebook.
        claims: for a lesson of your own, the file with its claims, as CONTRIBUTING.md explains.
    Raises:
        ValueError: if the file has no claim of that lesson, or a wrong entry.
        FileNotFoundError: if there is no such file.

    Opening a lesson prints one line, lets torch compute on one thread unless `OMP_NUM_THREADS` or
    `torch.set_num_threads` asked for another number, and lets the notebook answer a name that does
    not exist yet with a sentence; nothing else changes.
    """

    def __init__(
        self,
        name: str,
        namespace: dict[str, Any] | None = None,
        *,
        claims: str | Path | None = None,
    ) -> None:
        self.name = name
        self.claims: dict[str, Claim] = load_claims(name, Path(claims) if claims else None)
        self.verdicts: dict[str, Verdict] = {}
        self.predictions = LessonPredictions(self.verdicts)
        # Filled by the guard; the live lab makes its sliders from them.
        self.declared: dict[str, Knob] = {}
        self._attempts = Attempts(name)
        self._guard = Guard(read_namespace() if namespace is None else namespace)
        use_one_thread()
        explain_missing_names()
        print(f"nbkit {nbkit.__version__}, lesson {name}")

    def knobs(self, **ranges: Knob) -> dict[str, Any]:
        """Check the parameters that the notebook runs with, before anything is trained.

        Args:
            ranges: for each name of the parameters cell the values it may take, `lr=log(1e-4, 10)`.
        Returns:
            the values by name, each of its declared type; the notebook's variables hold the same.
        Raises:
            KnobError: for a name that no knob has (the message suggests the nearest one), or a
                value of another type or out of range; no variable has been changed.

        It may run again in a used kernel. Then the newest parameters cell that was executed counts,
        and not the variables that other cells have bound.
        """
        self.declared, values = self._guard.check(ranges)
        # Only now, when every value has passed, is a variable changed.
        self._guard.namespace.update(values)
        print("parameters checked: " + ", ".join(values))
        return dict(values)

    def predict(self, claim: str, *, guess: float, confidence: int) -> None:
        """Commit to a prediction before the measurement: the size of the effect, and how sure.

        Args:
            claim: id of one of the lesson's claims.
            guess: the effect that you expect, in the claim's metric.
            confidence: percent, 50 to 99, that your guess is on the right side of the margin.
        Raises:
            ValueError: if the claim is unknown or already measured, or guess or confidence is not
                a number in range; nothing has been committed.

        If a person watches the notebook, the prediction is kept in `my_predictions.jsonl` beside
        it, a file that they may read and delete. A headless run leaves that file alone.
        """
        self.predictions.commit(self._find_claim(claim), guess, confidence)

    def exercise(self, exercise: str | Exercise) -> Callable[[Function], Function]:
        """Return a decorator that checks the function below it, in the cell where it is written.

        Args:
            exercise: its name; for a lesson of your own, the exercise itself.
        Raises:
            ValueError: if this lesson has no exercise of that name.

        The decorator returns the function itself if it passes. Until then it returns the reference,
        so that the rest of the lesson runs, and prints which property failed.
        """
        found = self._attempts.find_exercise(exercise)
        return lambda attempt: self._attempts.check(found, attempt)

    def whose(self, exercise: str | Exercise) -> str:
        """Return whose function the cells below use: "your f", or "the reference's f".

        A cell that compares prints it, so that nobody takes the reference for their own work.

        Raises:
            ValueError: if this lesson has no exercise of that name.
        """
        return self._attempts.name_owner(exercise)

    def answer(
        self, question: str, choice: str | EllipsisType, *, answer: Answer | None = None
    ) -> None:
        """Print whether the reader's choice is right; before they choose, how to do so.

        Args:
            question: its name, one of ANSWERS in the lesson's `exercise.py`.
            choice: a letter; `...` or "?" for none yet.
            answer: for a lesson of your own, the answer itself.
        Raises:
            ValueError: if there is no such question, or the letter is none of its choices.
        """
        known = answer or load_answer(self.name, question)
        print(known.judge_choice(question, choice))

    def source(self, helper: Callable[..., Any] | type) -> None:
        """Show the source of a helper under the cell, where that source is the lesson.

        Raises:
            TypeError: if it has no source in Python.
        """
        display_source(helper)

    def points(self, exercise: str | Exercise) -> int:
        """Return 1 if the exercise passes its checks, else 0; an instructor's grading reads it.

        The checks run again on the function that was handed in last, so that no variable that an
        earlier cell has set earns the point. It raises nothing, so that a student who has not
        solved the exercise can still run all cells.
        """
        # Called on the class: a cell may have put anything in place of the attempts.
        return Attempts.count_points(self._attempts, exercise)

    def explore(self, fit: Function, **options: Any) -> None:
        """Show sliders for the knobs that `fit` names; a headless run visits their stops."""
        # The live lab loads widgets and matplotlib, which grading and predictions do not need.
        from nbkit.lab.live import explorer

        if not self.declared:
            raise KnobError(
                "the live lab has no knobs yet: call `lesson.knobs(name=log(...), ...)` in a cell "
                "above it."
            )
        explorer.show(fit, self.declared, self._guard.namespace, **options)

    def progress(self, items: Iterable[Item], *, total: int, label: str) -> Iterator[Item]:
        """Yield the items, with a line of progress if a person watches the notebook."""
        return show_progress(items, total, label) if is_watched() else iter(items)

    def state_claims(self) -> None:
        """Show the claims of this lesson as a table, before any of them is measured."""
        display_claims(self.claims.values())

    def verdict(self, claim: str, measured: Interval | Sequence[bool] | None) -> Verdict:
        """Judge a claim by what was measured, and show `lr-finder-onecycle  SUPPORTED`.

        The numbers are in the output's metadata, where the report and the ledger read them.
        """
        verdict = judge(self._find_claim(claim), measured)
        self.verdicts[claim] = verdict
        display_with_numbers(str(verdict), verdict.to_dict())
        return verdict

    def reveal(self) -> None:
        """Show each prediction beside its result, with its score."""
        self.predictions.reveal()

    def calibration(self) -> None:
        """Show how often the learner was right in all lessons so far, beside how sure they were."""
        self.predictions.show_calibration()

    def takeaways(self) -> None:
        """Show what to take home, in the words that belong to each verdict."""
        # A takeaway without its measurement would be a promise, not a result.
        missing = [claim for claim in self.claims if claim not in self.verdicts]
        if missing:
            raise ValueError(f"not measured yet: {', '.join(missing)}. Run the cells above first.")
        sentences = [escape_markdown(verdict.takeaway()) for verdict in self.verdicts.values()]
        display_markdown("\n".join(f"- {sentence}" for sentence in sentences))

    def _find_claim(self, claim: str) -> Claim:
        if claim not in self.claims:
            raise ValueError(f"no claim {claim!r} in this lesson, only {', '.join(self.claims)}.")
        return self.claims[claim]
