"""The handle that a notebook opens: knobs, predictions, exercises, live lab and verdicts."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nbkit
from nbkit.base.state import preserve_state
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.verdicts import Verdict, judge
from nbkit.lab.exercise import Exercise, Function, has_exercises, load_exercise
from nbkit.lab.knobs import RANGES, Knob, KnobError, Value, check_names, read_type
from nbkit.lab.lesson_predictions import LessonPredictions
from nbkit.lab.markdown import escape_markdown
from nbkit.lab.notebook import (
    display_claims,
    display_markdown,
    display_with_numbers,
    is_watched,
    read_namespace,
    show_progress,
)
from nbkit.lab.threads import use_one_thread

Item = TypeVar("Item")
# papermill writes parameters of these types into a cell.
PARAMETER_TYPES = (bool, int, float, str, list, tuple, dict, type(None))
# IPython itself binds these from cell to cell: `_`, `_i3`, `__annotations__`, a shell's exit code.
IPYTHON_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(ih|oh|dh|exit_code)|__\w+__")


class Lesson:
    """One lesson, from its opening to its takeaways.

    Args:
        name: the lesson's word, `lr_finder`; for a lesson of your own, any name.
        namespace: the notebook's variables; default those of the running notebook.
        claims: for a lesson of your own, the file with its claims, as CONTRIBUTING.md explains.
    Raises:
        ValueError: if the file has no claim of that lesson, or a wrong entry.
        FileNotFoundError: if there is no such file.

    Opening a lesson prints one line, and lets torch compute on one thread unless `OMP_NUM_THREADS`
    or `torch.set_num_threads` asked for another number; nothing else changes.
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
        # For each exercise by name, the exercise and the function that was handed in last.
        self._attempts: dict[str, tuple[Exercise, Function]] = {}
        self._namespace = read_namespace() if namespace is None else namespace
        # papermill injects its cell after the opening: what is bound from here on may be injected.
        self._before = self._find_parameter_values()
        use_one_thread()
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
        """
        types = self._namespace.get("__annotations__", {})
        # When the cell is run again, variables of later cells would look like parameters.
        if not self.declared:
            given = self._find_new_names() | set(types)
            check_names(dict.fromkeys(sorted(given)), ranges)
        declared = {name: self._declare_knob(name, ranges[name], types) for name in ranges}
        values: dict[str, Value] = {}
        for name, knob in declared.items():
            values[name] = knob.read_value(self._namespace[name])

        # Only now, when every value has passed, is anything changed.
        self.declared = declared
        self._namespace.update(values)
        print("parameters checked: " + ", ".join(declared))
        return values

    def _declare_knob(self, name: str, knob: object, types: dict[str, object]) -> Knob:
        """Join the range of the guard with the type of the parameters cell."""
        if not isinstance(knob, Knob):
            raise KnobError(
                f"{name} must be given a range, {name}=log(0.1, 10) or another of "
                f"{', '.join(RANGES)}, got {knob!r}."
            )
        if name not in self._namespace or name not in types:
            raise KnobError(f"the parameters cell must declare `{name}: type = default`.")
        return knob.with_name(name, read_type(types[name]))

    def _find_parameter_values(self) -> dict[str, object]:
        """Find the variables of the notebook that papermill could have written into a cell.

        A helper that the notebook defines, or that JupyterLab's extensions leave in a kernel, is
        not a parameter.
        """
        found = {}
        for name, value in self._namespace.items():
            if type(value) in PARAMETER_TYPES:
                found[name] = value
        return found

    def _find_new_names(self) -> set[str]:
        """Find the possible parameters that were bound, or bound again, since the opening."""
        names = set()
        for name, value in self._find_parameter_values().items():
            # Compared by identity: to bind a name again to an equal value is an injection, too.
            is_old = name in self._before and self._before[name] is value
            if not is_old and not IPYTHON_NAMES.fullmatch(name):
                names.add(name)
        return names

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
        # A lesson of your own has no module that a name could be looked up in.
        found = exercise
        if not isinstance(found, Exercise):
            found = load_exercise(self.name, found)

        def check_attempt(attempt: Function) -> Function:
            # An interrupted check leaves no attempt: an earlier one must not earn the point.
            self._attempts.pop(found.name, None)
            failure = found.find_failure(attempt)
            self._attempts[found.name] = found, attempt
            if failure is None:
                print(f"{found.name}: all {len(found.checks)} checks pass. It is yours.")
                return attempt
            print(f"{found.name}: not yet. {failure}")
            print("The cells below go on with the reference.")
            return found.reference

        return check_attempt

    def points(self, exercise: str | Exercise) -> int:
        """Return 1 if the exercise passes its checks, else 0; an instructor's grading reads it.

        The checks run again on the function that was handed in last, so that no variable that an
        earlier cell has set earns the point. It raises nothing, so that a student who has not
        solved the exercise can still run all cells.
        """
        name = exercise.name if isinstance(exercise, Exercise) else exercise
        try:
            found, attempt = self._attempts[name]
            # The exercise is taken from its source again: the attempts are open to any cell.
            if isinstance(exercise, Exercise):
                found = exercise
            elif has_exercises(self.name):
                found = load_exercise(self.name, exercise)
            # Grading must leave no trace: neither printed lines nor a moved random state.
            with preserve_state(), contextlib.redirect_stdout(io.StringIO()):
                return int(found.find_failure(attempt) is None)
        except Exception:
            # Nothing was handed in, or a cell has put something else in its place.
            return 0

    def explore(self, fit: Function, **options: Any) -> None:
        """Show sliders for the knobs that `fit` names; a headless run visits their stops."""
        # The live lab loads widgets and matplotlib, which grading and predictions do not need.
        from nbkit.lab.live import explorer

        if not self.declared:
            raise KnobError(
                "the live lab has no knobs yet: call `lesson.knobs(name=log(...), ...)` in a cell "
                "above it."
            )
        explorer.show(fit, self.declared, self._namespace, **options)

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
