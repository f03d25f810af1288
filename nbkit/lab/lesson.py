"""The handle that a notebook opens: knobs, predictions, exercises, live lab and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeVar

import nbkit
from nbkit.lab.answers import Answer, load_answer
from nbkit.lab.attempts import Attempts
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.verdicts import Measured, Verdict, judge
from nbkit.lab.exercise import Exercise, Function
from nbkit.lab.guard import Guard
from nbkit.lab.knobs import Knob, KnobError, Value
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
        # Predictions and verdicts belong to these values of the knobs.
        self._settings: dict[str, Value] = {}
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
        # The profile says how many seeds are trained, not what is measured.
        self._settings = {name: value for name, value in values.items() if name != "profile"}
        print("parameters checked: " + ", ".join(values))
        return dict(values)

    def predict(
        self, claim: str, *, guess: float | None = None, confidence: int | None = None
    ) -> None:
        """Ask the reader for a prediction: the size of the effect, and how sure they are.

        Args:
            claim: id of one of the lesson's claims, not yet measured in this kernel.
            guess: the effect that you expect, in the claim's metric, if you type it.
            confidence: percent, 50 to 99, that your guess is on the right side of the margin.
        Raises:
            ValueError: if the claim is unknown, exact or already measured, if one number is given
                without the other, or a number is out of range; nothing has been committed.

        Without numbers, a reader gets an axis with a mark to drag, and nothing is recorded until
        they press "Commit"; a headless run has no reader, says so and records nothing. A prediction
        belongs to the knobs' values at which it was made. If a person watches the notebook, it is
        kept in `my_predictions.jsonl` beside it, a file that they may read and delete; a later
        prediction of the same claim replaces nothing there.
        """
        # The claim is looked up first, so that an unknown id is reported before a wrong number.
        stated = self._find_claim(claim)
        if guess is None and confidence is None:
            self.predictions.ask(stated, self._settings)
        elif guess is None or confidence is None:
            raise ValueError(
                f"a typed prediction needs both numbers, got guess = {guess} and confidence = "
                f"{confidence}. Give both, or neither to drag a mark."
            )
        else:
            self.predictions.show_commit(stated, guess, confidence, self._settings)

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
        display_claims(list(self.claims.values()))

    def verdict(
        self,
        claim: str,
        measured: Measured,
        *,
        elsewhere: Mapping[str, Measured] | None = None,
    ) -> Verdict:
        """Judge a claim by what was measured, and show `lr-finder-onecycle  SUPPORTED`.

        Args:
            claim: id of one of the lesson's claims.
            measured: the interval of the effect; for an equality, whether each pair is equal.
            elsewhere: the same measured on further tasks, by their names: `{"signals": interval}`.
        Raises:
            ValueError: if the claim is unknown, if something else was measured than it states, or
                if it is general and was measured on one task only.

        The numbers are in the output's metadata, where the report and the ledger read them.
        """
        stated = self._find_claim(claim)
        if stated.general and not elsewhere:
            raise ValueError(
                f"{claim} is a general claim: measure it on a second task as well, and hand that "
                f'over as elsewhere={{"task": interval}}.'
            )
        verdict = replace(judge(stated, measured, elsewhere), settings=dict(self._settings))
        self.verdicts[claim] = verdict
        # From here on the answer is known.
        self.predictions.close(stated)
        display_with_numbers(str(verdict), verdict.to_dict())
        return verdict

    def cards(self) -> None:
        """Show a card for each claim that was judged, beside the reader's prediction of it.

        Raises:
            ValueError: if no claim has been judged yet.
        """
        # Pictures load matplotlib, which grading and predictions do not need.
        from nbkit.lab.cards import show_cards

        verdicts = [self.verdicts[claim] for claim in self.claims if claim in self.verdicts]
        if not verdicts:
            raise ValueError("no claim has been measured yet. Run the cells above first.")
        show_cards(verdicts, self.predictions)

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
