"""Judge a claim by what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import nbkit
from nbkit.lab.evidence.claims import (
    EQUALITY,
    INCONCLUSIVE,
    REFUTED,
    SKIPPED,
    SUPPORTED,
    Claim,
    Outcome,
)
from nbkit.lab.evidence.intervals import Interval, add_drift
from nbkit.lab.knobs import Value
from nbkit.lab.machine import read_machine

# For an equality, whether each pair is equal; None where nothing could be measured.
Measured = Interval | Sequence[bool] | None

# For noise that decides no claim, what to measure instead.
ADVICE = {
    "rounds": " The rounds of one process are one timing: measure in fresh processes, by "
    "time_in_processes from nbkit.lab.cost.process_timing."
}
SMALLEST_P = 1e-9  # a smaller p-value is not resolved, and means no more


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim: its code, the reason in words, and the effect that was measured.

    `elsewhere` has the verdict on each further task, with the task's name. `settings` are the
    lesson's knobs, without the profile, at which it was measured.
    """

    claim: Claim
    verdict: Outcome
    reason: str
    effect: Interval | None = None
    elsewhere: tuple[tuple[str, Verdict], ...] = ()
    settings: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        # Only a skipped verdict has to explain itself at once; other reasons are in `to_dict`.
        why = f" ({self.reason})" if self.verdict == SKIPPED else ""
        tasks = self.describe_tasks()
        return f"{self.claim.id}  {self.verdict}{why}" + (f"  ({tasks} tasks)" if tasks else "")

    def takeaway(self) -> str:
        """Return the sentence to take home, which depends on the verdict."""
        if self.verdict == SKIPPED:
            return f"{self.claim.sentence} Not judged in this run."
        ends = {SUPPORTED: "holds", REFUTED: "does not hold", INCONCLUSIVE: "stays open"}
        # The claim may have a sentence for each outcome: its fields have the outcomes' names.
        written: str = getattr(self.claim, self.verdict.lower())
        words = written or f"Measured here, it {ends[self.verdict]}: {self.claim.sentence}"
        return f"{words}{self._word_tasks()}"

    def describe_tasks(self) -> str:
        """Describe on how many tasks the claim held: `2 of 2`; empty if one task was measured."""
        # A claim that was not judged at home says nothing about how far it travels.
        if not self.elsewhere or self.verdict == SKIPPED:
            return ""
        verdicts = [self, *(verdict for _, verdict in self.elsewhere)]
        held = sum(verdict.verdict == SUPPORTED for verdict in verdicts)
        return f"{held} of {len(verdicts)}"

    def _word_tasks(self) -> str:
        """Word the end of the takeaway: ` It held on 1 of 2 tasks: digits, signals (refuted).`."""
        tasks = self.describe_tasks()
        if not tasks:
            return ""
        names = []
        for name, verdict in [(self.claim.task_name, self), *self.elsewhere]:
            # A task on which it held needs no further word.
            how = "" if verdict.verdict == SUPPORTED else f" ({verdict.verdict.lower()})"
            names.append(f"{name}{how}")
        return f" It held on {tasks} tasks: {', '.join(names)}."

    @property
    def p_value(self) -> float | None:
        """Return the smallest alpha at which the measurement decides the claim; at least 1e-9.

        None where nothing was tested: skipped, exact, or an interval written down by hand.
        """
        effect, sides = self.effect, 2 if self.claim.side == "within" else 1
        if effect is None or effect.at is None or self.verdict == SKIPPED:
            return None

        # Bisection on a logarithmic scale: the claim is decided at `high`, and not at `low`.
        low, high = SMALLEST_P, 1 / sides
        for _ in range(40):
            middle = math.sqrt(low * high)
            # Each of the tests at level alpha reads one end of an interval of 1 - sides * alpha.
            is_decided = self.claim.decide(effect.at(1 - sides * middle)) != INCONCLUSIVE
            low, high = (low, middle) if is_decided else (middle, high)
        return high

    def to_dict(self) -> dict[str, object]:
        """Return the whole verdict for JSON, with infinite bounds as None."""
        machine = read_machine()
        return {
            "kind": "verdict",
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "metric": self.claim.metric,
            "margin": self.claim.margin,
            "bound": self.claim.describe_bound(),
            "task": self.claim.task,
            "baseline": self.claim.baseline,
            "verdict": str(self.verdict),
            "reason": self.reason,
            **self._numbers_to_dict(),
            "settings": dict(self.settings),
            "elsewhere": self._elsewhere_to_list(),
            "hardware": machine.hardware,
            "versions": {
                "nbkit": nbkit.__version__,
                "torch": machine.torch,
                "numpy": version("numpy"),
                "scipy": version("scipy"),
            },
            "machine": machine.to_dict(),
        }

    def _elsewhere_to_list(self) -> list[dict[str, object]]:
        """Return the verdict on each further task for JSON."""
        verdicts = []
        for task, verdict in self.elsewhere:
            judged = {"verdict": str(verdict.verdict), "reason": verdict.reason}
            verdicts.append({"task": task, **judged, **verdict._numbers_to_dict()})
        return verdicts

    def _numbers_to_dict(self) -> dict[str, object]:
        """Return the numbers that were measured for JSON; None, 0 and [] if there are none."""
        effect = self.effect
        interval = None
        if effect is not None:
            interval = [_none_unless_finite(effect.low), _none_unless_finite(effect.high)]
        return {
            "effect": _none_unless_finite(effect.estimate) if effect else None,
            "interval": interval,
            "confidence": effect.confidence if effect else None,
            "p_value": self.p_value,
            "n": effect.n if effect else 0,
            "over": self.claim.over,
            "values": list(map(_none_unless_finite, effect.values)) if effect else [],
            "load": effect.load.to_dict() if effect and effect.load else None,
        }


def judge(
    claim: Claim,
    measured: Measured = None,
    elsewhere: Mapping[str, Measured] | None = None,
) -> Verdict:
    """Judge a claim by what was measured.

    Args:
        claim: the claim.
        measured: for an equality, whether each pair is equal; for every other measure, the interval
            of the effect, which is asked at the claim's confidence. None where nothing could be
            measured, because the machine lacks what the claim needs.
        elsewhere: the same measured on further tasks, by the tasks' names. Each is judged by the
            claim's margin, and needs `n_elsewhere` repetitions.
    Returns:
        Verdict: SUPPORTED, REFUTED or INCONCLUSIVE by `Claim.decide`; SKIPPED when the machine
            lacks what the claim needs, when other programs kept it busy during a timing (the
            numbers are kept), or when there are fewer seeds than the claim states.
    Raises:
        ValueError: if something else was measured, over other noise or at a lower confidence
            than the claim states, or nothing although the machine lacks nothing.
    """
    verdict = _judge_task(claim, measured)
    further = []
    there = replace(claim, n=claim.n_elsewhere or claim.n)
    for task, effect in (elsewhere or {}).items():
        try:
            further.append((task, _judge_task(there, effect)))
        except ValueError as error:
            raise ValueError(f"on the task {task}: {error}") from None
    return replace(verdict, elsewhere=tuple(further))


def _judge_task(claim: Claim, measured: Measured) -> Verdict:
    """Judge a claim on one task."""
    # A machine that lacks something cannot be expected to have measured.
    missing = claim.find_missing_needs()
    if missing:
        return Verdict(claim, SKIPPED, f"needs {' and '.join(missing)}")
    if measured is None:
        raise ValueError(f"{claim.id} was not measured, though this machine has what it needs.")
    effect = _read_effect(claim, measured)
    # Busyness comes before the count: more timings on a busy machine would not help.
    if effect.load and effect.load.is_busy:
        return Verdict(claim, SKIPPED, effect.load.reason, effect)
    if effect.n < claim.n:
        reason = f"{effect.n} of the {claim.n} {claim.over} it needs"
        return Verdict(claim, SKIPPED, reason, effect)

    # No interval here: one unequal pair refutes the claim.
    if claim.measure == EQUALITY:
        equal = round(effect.estimate * effect.n)
        outcome = SUPPORTED if equal == effect.n else REFUTED
        return Verdict(claim, outcome, f"{equal} of {effect.n} pairs are equal", effect)
    return Verdict(claim, claim.decide(effect), _explain_decision(claim, effect), effect)


def _read_effect(claim: Claim, measured: Interval | Sequence[bool]) -> Interval:
    """Turn what was measured into the interval that decides the claim."""
    if claim.measure == EQUALITY:
        # A text or a dict can be iterated, too, but never holds comparisons.
        if not isinstance(measured, Iterable) or isinstance(measured, str | Mapping):
            raise _make_type_error(claim, "a list of whether each pair is equal", measured)
        return _share_of_equal_pairs(claim, list(measured))
    if not isinstance(measured, Interval):
        raise _make_type_error(claim, "an Interval", measured)
    if measured.over != claim.over:
        raise ValueError(
            f"{claim.id} is a claim over {claim.over}, and this interval was taken over "
            f"{measured.over}: that is other noise.{ADVICE.get(measured.over, '')}"
        )
    effect = measured if measured.at is None else measured.at(claim.confidence)
    if claim.drift is not None:
        effect = add_drift(effect, claim.drift)
    # An interval that is asked again does not know the values and the load of the first one.
    effect = replace(effect, values=measured.values, load=measured.load)
    if effect.confidence < claim.confidence:
        wanted = f"{claim.id} needs a {claim.confidence:.0%} interval"
        raise ValueError(f"{wanted}, got {effect.confidence:.0%}.")
    return effect


def _make_type_error(claim: Claim, expected: str, measured: object) -> ValueError:
    return ValueError(
        f"{claim.id} measures {claim.measure}: expected {expected}, got {measured!r}."
    )


def _share_of_equal_pairs(claim: Claim, pairs: list[bool]) -> Interval:
    """Return the share of equal pairs as an interval without width."""
    # NaN never counts as equal: it is true in Python, but does not equal itself.
    equal = sum(bool(same and same == same) for same in pairs)
    share = equal / max(1, len(pairs))
    return Interval(share, share, share, len(pairs), over=claim.over)


def _explain_decision(claim: Claim, effect: Interval) -> str:
    """Explain in words why an interval decides a claim, or why it does not."""
    assert claim.margin is not None
    if claim.lacks_spread(effect):
        what = "ratios" if claim.measure == "ratio" else "differences"
        alike = f"the {effect.n} {what} are all the same"
        return f"{alike}: without any spread they are one measurement, not {effect.n}"
    by_interval = claim.decide_range(effect.low, effect.high)
    if by_interval == INCONCLUSIVE:
        return "the margin lies inside the interval"
    if claim.decide(effect) == INCONCLUSIVE:
        return "the exact binomial test leaves the margin open"
    if claim.side == "within":
        where = "between" if by_interval == SUPPORTED else "outside"
        return f"the whole interval lies {where} the margins"
    where = "below" if effect.high < claim.margin else "above"
    return f"the whole interval lies {where} the margin"


def _none_unless_finite(value: float) -> float | None:
    # JSON has neither infinity nor NaN.
    return value if math.isfinite(value) else None
