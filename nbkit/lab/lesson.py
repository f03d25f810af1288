"""The one handle that a notebook opens: knobs, prediction, exercise, live lab, verdicts."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbkit
from nbkit.base.state import preserve_state
from nbkit.lab.evidence.claims import Claim, Verdict, judge, load_claims
from nbkit.lab.evidence.diary import Diary, calibrate
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.exercise import Exercise, has_exercises, load_exercise
from nbkit.lab.knobs import RANGES, Knob, KnobError, check_names
from nbkit.lab.markdown import escape_markdown
from nbkit.lab.threads import use_one_thread

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
# What IPython itself binds from cell to cell: `_`, `_i3`, `__annotations__`, a shell's exit code.
OF_IPYTHON = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(ih|oh|dh|exit_code)|__\w+__")


class Lesson:
    """One lesson, from its opening to its takeaways.

    Args:
        name: the lesson's word, `lr_finder`; of a lesson of your own, any name.
        claims: for a lesson of your own, the file with its claims, as CONTRIBUTING.md explains.
        namespace: the notebook's variables; taken from IPython where there is one.
    Raises:
        ValueError: if the file has no claim of that lesson, or an entry that is wrong.
        FileNotFoundError: if there is no such file.

    Opening it prints one line, and lets torch compute on one thread unless `OMP_NUM_THREADS` or
    `torch.set_num_threads` asked for another number; nothing else changes.
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
        self.predictions: dict[str, Prediction] = {}
        self.declared: dict[str, Knob] = {}
        self._attempts: dict[str, tuple[Exercise, Callable]] = {}  # at the exercises, by name
        self._namespace = _notebook_namespace() if namespace is None else namespace
        self._before = {n: v for n, v in self._namespace.items() if type(v) in PLAIN}
        self._diary = Diary()
        use_one_thread()
        print(f"nbkit {nbkit.__version__}, lesson {name}")

    def knobs(self, **ranges: Knob) -> dict[str, Any]:
        """The guard: check the parameters that the notebook runs with, before anything is trained.

        Args:
            ranges: for each name of the parameters cell what it may be, `lr=log(1e-4, 10)`.
        Returns:
            the values by name, each of its declared type; the notebook's variables hold the same.
        Raises:
            KnobError: for a name that no knob has (with the nearest that one has), a value of
                another type or out of range.
        """
        values, types = self._namespace, self._namespace.get("__annotations__", {})
        if not self.declared:  # run again, later variables of the notebook are no parameters
            given = self._bound_since() | set(types)
            check_names(dict.fromkeys(sorted(given)), ranges)
        knobs = {}
        for name, range_ in ranges.items():
            if not isinstance(range_, Knob):
                raise KnobError(
                    f"{name} must be given a range, {name}=log(0.1, 10) or another of "
                    f"{', '.join(RANGES)}, got {range_!r}."
                )
            if name not in values or name not in types:
                raise KnobError(f"the parameters cell must declare `{name}: type = default`.")
            knobs[name] = range_.with_name(name, _type_of(types[name]))
        read = {name: knob.read_value(values[name]) for name, knob in knobs.items()}

        self.declared = knobs
        values.update(read)
        print("parameters checked: " + ", ".join(knobs))
        return read

    def _bound_since(self) -> set[str]:
        """The names that the notebook has bound since it opened the lesson, anew or once more.

        Only to what papermill can write into a cell: a helper that the notebook defines, and what
        JupyterLab's extensions leave in a kernel, is no parameter.
        """
        return {
            name
            for name, value in self._namespace.items()
            if type(value) in PLAIN
            and not (name in self._before and self._before[name] is value)
            and not OF_IPYTHON.fullmatch(name)
        }

    def predict(self, claim: str, *, guess: float, confidence: int) -> None:
        """Commit to a prediction before the measurement: the size of the effect, and how sure.

        Args:
            claim: id of one of the lesson's claims.
            guess: the effect that you expect, in the claim's metric.
            confidence: percent, 50 to 99, that your guess is on the right side of the margin.
        Raises:
            ValueError: if the claim is unknown or already measured, or guess or confidence is no
                number in range; nothing has been committed.

        Where somebody is watching it is kept in `my_predictions.jsonl` beside the notebook, a file
        that they may read and delete. A headless run leaves that file alone.
        """
        stated = self._claim(claim)
        if claim in self.verdicts:
            raise ValueError(
                f"{claim} has been measured: a prediction comes first. Restart to try."
            )
        self.predictions[claim] = Prediction(stated, guess, confidence)
        print(f"committed: {stated.metric}: {guess:g}, {confidence} % sure of the side")
        if _watched():
            self._keep(self.predictions[claim])

    def exercise(self, exercise: str | Exercise) -> Callable[[Callable], Callable]:
        """A decorator that checks the function below it, in the cell where it is written.

        Args:
            exercise: its name; for a lesson of your own, the exercise itself.
        Raises:
            ValueError: if this lesson has no exercise of that name.

        The function itself comes back when it passes. Until then the reference does, so that the
        rest of the lesson runs, and the line printed says which property failed.
        """
        found = exercise
        if not isinstance(found, Exercise):
            found = load_exercise(self.name, found)

        def check(attempt: Callable) -> Callable:
            self._attempts.pop(found.name, None)  # an earlier one no longer counts, come what may
            failure = found.find_failure(attempt)
            self._attempts[found.name] = found, attempt
            if failure is None:
                print(f"{found.name}: all {len(found.checks)} checks pass. It is yours.")
                return attempt
            print(f"{found.name}: not yet. {failure}")
            print("The cells below go on with the reference.")
            return found.reference

        return check

    def points(self, exercise: str | Exercise) -> int:
        """1 if the exercise passes its checks, else 0: what an instructor's grading reads.

        The checks run anew on the function that was handed in last, so that no variable that an
        earlier cell has set earns the point. It raises nothing, so that a student who has not
        solved the exercise can still run all cells.
        """
        name = exercise.name if isinstance(exercise, Exercise) else exercise
        try:
            found, attempt = self._attempts[name]
            if isinstance(exercise, Exercise):
                found = exercise
            elif has_exercises(self.name):
                found = load_exercise(self.name, exercise)
            with preserve_state(), contextlib.redirect_stdout(io.StringIO()):
                return int(found.find_failure(attempt) is None)
        except Exception:  # not handed in, or something else was put in its place
            return 0

    def explore(self, fit: Callable, **options: Any) -> None:
        """The live lab: sliders over the knobs that `fit` names; headless, its stops in a row."""
        from nbkit.lab.live import explorer as explore

        if not self.declared:
            raise KnobError(
                "the live lab has no knobs yet: call `lesson.knobs(name=log(...), ...)` in a cell "
                "above it."
            )
        explore.show(fit, self.declared, self._namespace, **options)

    def progress(self, items: Iterable, *, total: int, label: str) -> Iterator:
        """The items, one by one, with a line of progress where somebody is watching."""
        return _progress(items, total, label) if _watched() else iter(items)

    def state_claims(self) -> None:
        """The claims of this lesson, as a table, before any of them is measured."""
        rows = "\n".join(
            f"| `{claim.id}` | {escape_markdown(claim.sentence)} | "
            f"{escape_markdown(claim.metric)} | {claim.bound()} | {claim.n} {claim.over} | "
            f"{escape_markdown(claim.source)} |"
            for claim in self.claims.values()
        )
        _markdown(
            "| claim | sentence | metric | margin | measured over | where it comes from |\n"
            "| --- | --- | --- | --- | --- | --- |\n" + rows
        )

    def verdict(self, claim: str, measured: Interval | Sequence[bool] | None) -> Verdict:
        """Judge a claim by what was measured and show it: `lr-finder-onecycle  SUPPORTED`.

        The numbers ride in the output's metadata, where the report and the ledger read them.
        """
        verdict = judge(self._claim(claim), measured)
        self.verdicts[claim] = verdict
        _show(str(verdict), verdict.to_dict())
        return verdict

    def reveal(self) -> None:
        """Each prediction beside its result, scored."""
        for claim, prediction in self.predictions.items():
            if claim not in self.verdicts:
                raise ValueError(f"{claim} was predicted, but has not been measured yet.")
            score = prediction.score(self.verdicts[claim])
            _show(str(score), {"kind": "prediction", **score.to_dict()})
            if _watched():
                self._diary.score(score)

    def calibration(self) -> None:
        """How sure the learner was, in all lessons so far, beside how often they were right."""
        if not _watched():
            print("Your own predictions appear here, once you have made some in JupyterLab.")
            return
        entries = list(self._diary.entries().values())
        if not any(entry.right is not None for entry in entries):
            print(f"No prediction has been scored yet: {self._diary.path} has {len(entries)}.")
            return
        from IPython.display import display

        display(calibrate(entries))

    def takeaways(self) -> None:
        """What to take home, worded from the verdicts: a refuted claim reads differently."""
        missing = [claim for claim in self.claims if claim not in self.verdicts]
        if missing:
            raise ValueError(f"not measured yet: {', '.join(missing)}. Run the cells above first.")
        told = [escape_markdown(verdict.takeaway()) for verdict in self.verdicts.values()]
        _markdown("\n".join(f"- {sentence}" for sentence in told))

    def _keep(self, prediction: Prediction) -> None:
        try:
            if not self._diary.commit(prediction):
                print(f"{self._diary.path} has an earlier prediction of it; that one counts.")
        except OSError as error:  # a folder that is read-only is no reason to stop a lesson
            print(f"{self._diary.path}: it is not kept ({error.strerror}).")

    def _claim(self, claim: str) -> Claim:
        if claim not in self.claims:
            raise ValueError(f"no claim {claim!r} in this lesson, only {', '.join(self.claims)}.")
        return self.claims[claim]


def _watched() -> bool:
    from nbkit.lab.live.is_live import is_live

    return is_live()


def _notebook_namespace() -> dict[str, Any]:
    """The variables of the notebook that is running; an empty namespace outside of one."""
    from IPython import get_ipython

    shell = get_ipython()
    return {} if shell is None else shell.user_ns


def _type_of(annotation: object) -> type:
    from nbkit.lab.knobs import TYPES

    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if name not in TYPES:
        raise KnobError(f"a parameter's type must be among {', '.join(TYPES)}, got {annotation!r}.")
    return TYPES[str(name)]


def _progress(items: Iterable, total: int, label: str) -> Iterator:
    """One line, rewritten (`label: 40 %`) and empty at the end."""
    from IPython.display import Markdown, display

    label = escape_markdown(label)
    line = display(Markdown(label), display_id=True)
    last = 0
    for count, item in enumerate(items, start=1):
        yield item
        percent = 100 * count // max(1, total)
        if percent >= last + 5:
            line.update(Markdown(f"{label}: {percent} %"))
            last = percent
    line.update(Markdown(""))


def _show(text: str, numbers: Mapping[str, object]) -> None:
    """A line of stable text; what varies between machines goes into the output's metadata."""
    from IPython.display import display

    display({"text/plain": text}, raw=True, metadata={"nbkit": numbers})


def _markdown(text: str) -> None:
    from IPython.display import Markdown, display

    display(Markdown(text))
