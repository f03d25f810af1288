"""A claim is a sentence that can turn out false; its verdict is computed, never worded by hand.

Claims stand in `nbkit/lessons/<lesson>/claims.toml`, stated before anything is measured: the
lesson, the verdict and the report all read that one entry.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

import nbkit
from nbkit.lab import shipped
from nbkit.lab.curriculum import read_course, word_of
from nbkit.lab.evidence.claims_file import read_entries
from nbkit.lab.evidence.intervals import NOISE, Interval
from nbkit.lab.evidence.proportions import binomial_p_value
from nbkit.lab.machine import read_machine

SUPPORTED, REFUTED, INCONCLUSIVE, SKIPPED = "SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED"
ROUNDING = 1e-9  # of the margin, where that is above 1: a bound as near as this lies on it
DECIDING = tuple(noise for noise in NOISE if noise != "rounds")  # these are one timing
ADVICE = {
    "rounds": " The rounds of one process are one timing: measure in fresh processes, by "
    "time_in_processes from nbkit.lab.cost.process_timing."
}
NO_LESSON = "NO LESSON YET"  # what a report says of a claim that no lesson measures

# What is measured, and between which bounds its margin must lie.
MEASURES = {
    "ratio": (0.0, math.inf),
    "difference": (-math.inf, math.inf),
    "proportion": (0.0, 1.0),
    "proportion_difference": (-1.0, 1.0),
}
EQUALITY = "equality"  # of pairs: it has neither a side nor a margin
SIDES = ("below", "above", "within")

NEEDS: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "two gpus": lambda: torch.cuda.device_count() >= 2,
    "two processes": lambda: torch.distributed.is_available() and sys.platform != "win32",
    "two cores": lambda: (os.cpu_count() or 1) >= 2,
}


@dataclass(frozen=True)
class Claim:
    """One entry of a lesson's `claims.toml`.

    `measure` is what is measured: "ratio", "difference", "proportion", "proportion_difference", or
    "equality": of each pair, whether both are equal bit for bit. `side` is where the claim puts it:
    "below" or "above" the `margin`, or, of a difference, "within" -margin and margin. An equality
    has neither side nor margin.
    `n` is the number of `over` (seeds, test examples, timings) that the claim needs to be judged:
    a timing is a fresh process, however many rounds it makes. `n` is sized for a `spread`: the
    standard deviation, from one of them to the next, of the difference or of the ratio's logarithm.
    `needs` are names of NEEDS. `deterministic`: what is measured is counted and has no noise of its
    own, as bytes; equal values are then its result.
    """

    id: str
    lesson: str
    sentence: str
    source: str
    metric: str
    measure: str
    side: str | None
    n: int
    supported: str = ""
    refuted: str = ""
    inconclusive: str = ""
    margin: float | None = None
    needs: tuple[str, ...] = ()
    over: str = "seeds"
    spread: float | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise ValueError(f"claim {self.id!r}: {problem}")

    def _problem(self) -> str | None:
        """What keeps this claim from being judged."""
        named = [("measure", self.measure, [*MEASURES, EQUALITY]), ("over", self.over, DECIDING)]
        for field, value, known in [*named, *(("needs", need, NEEDS) for need in self.needs)]:
            if value not in known:
                return f"{field} must be among {', '.join(known)}, got {value!r}."
        return self._problem_of_side() or self._problem_of_size()

    def _problem_of_side(self) -> str | None:
        """What is wrong with the side and the margin."""
        if self.measure == EQUALITY:
            given = [name for name in ("side", "margin") if getattr(self, name) is not None]
            told = f"an equality has no {' and no '.join(given)}: every pair is equal. Take it out."
            return told if given else None
        if self.side not in SIDES:
            return f"side must be among {', '.join(SIDES)}, got {self.side!r}."
        if self.side == "within" and self.measure != "difference":
            return f'side = "within" belongs to a difference, not to a {self.measure}.'
        if self.margin is None:
            return f"a {self.measure} needs a margin: the size that it is {self.side}."
        low, high = (0.0, math.inf) if self.side == "within" else MEASURES[self.measure]
        if not low < self.margin < high:
            return (
                f"the margin of a {self.measure} {self.side} it must lie between {low} and {high}, "
                f"got {self.margin}."
            )
        return None

    def _problem_of_size(self) -> str | None:
        """What is wrong with the sample that the claim asks for."""
        if self.deterministic and self.measure not in ("ratio", "difference"):
            return f"deterministic belongs to a ratio or a difference, not to {self.measure!r}."
        if self.spread is not None and not 0 < self.spread < math.inf:
            return f"spread must be a number above 0, got {self.spread}."
        return None if self.n >= 1 else f"n must be at least 1, got {self.n}."

    @property
    def confidence(self) -> float:
        """Of the interval that decides it: two one-sided tests at 5 % are an interval of 90 %."""
        return 0.90 if self.side == "within" else 0.95

    def bound(self) -> str:
        """The margin in words: `below 1.25`, `within ±0.01`, `exact`."""
        if self.margin is None:
            return "exact"
        return f"{self.side} {'±' if self.side == 'within' else ''}{self.margin:g}"

    def holds(self, effect: float) -> bool:
        """Whether an effect of that size, known exactly, would make the claim true."""
        return self.decide_range(effect, effect) == SUPPORTED

    def decide(self, effect: Interval) -> str:
        """SUPPORTED if the whole interval lies where the claim says, REFUTED if it lies beyond.

        Wilson's interval of a share errs too often near 0 and 1: the exact test must agree. Values
        without any spread decide nothing: n copies of one number are not n measurements.
        """
        if self.lacks_spread(effect):
            return INCONCLUSIVE
        alpha = 1 - effect.confidence
        if self.measure == "proportion" and binomial_p_value(effect, self.margin or 0.0) > alpha:
            return INCONCLUSIVE
        return self.decide_range(effect.low, effect.high)

    def lacks_spread(self, effect: Interval) -> bool:
        """Whether all values were one number, though they are a sample of something noisy.

        A ratio of 0 or infinity is none: those runs have diverged, and were counted.
        """
        lost = self.measure == "ratio" and effect.low in (0.0, math.inf)
        return effect.low == effect.high and not (self.deterministic or lost)

    def decide_range(self, low: float, high: float) -> str:
        """Decide the claim for an effect that lies somewhere from low to high.

        A bound that misses the margin by no more than rounding lies on it: it decides nothing.
        """
        assert self.margin is not None
        near = ROUNDING * max(1.0, abs(self.margin))
        under, over = self.margin - near, self.margin + near
        if self.side == "within":
            inside, outside = -under < low and high < under, high < -over or over < low
        elif self.side == "below":
            inside, outside = high < under, low > over
        else:
            inside, outside = low > over, high < under
        return SUPPORTED if inside else REFUTED if outside else INCONCLUSIVE

    def missing(self) -> list[str]:
        """What the claim needs and this machine has not got."""
        return [need for need in self.needs if not NEEDS[need]()]


@dataclass(frozen=True)
class Verdict:
    """What was measured of a claim, on which machine, and what follows."""

    claim: Claim
    verdict: str
    reason: str
    effect: Interval | None = None

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.verdict == SKIPPED else ""
        return f"{self.claim.id}  {self.verdict}{why}"

    def takeaway(self) -> str:
        """The sentence to take home: it reads differently when the claim is refuted."""
        if self.verdict == SKIPPED:
            return f"{self.claim.sentence} Not judged in this run."
        ends = {SUPPORTED: "holds", REFUTED: "does not hold", INCONCLUSIVE: "stays open"}
        default = f"Measured here, it {ends[self.verdict]}: {self.claim.sentence}"
        return getattr(self.claim, self.verdict.lower()) or default

    @property
    def p_value(self) -> float | None:
        """The smallest alpha at which this measurement would still decide the claim; 1e-9 at least.

        None where nothing was tested: skipped, exact, or an interval written down by hand.
        """
        effect, sides = self.effect, 2 if self.claim.side == "within" else 1
        if effect is None or effect.at is None or self.verdict == SKIPPED:
            return None

        low, high = 1e-9, 1 / sides
        for _ in range(40):  # halving on a logarithmic scale
            middle = math.sqrt(low * high)
            decided = self.claim.decide(effect.at(1 - sides * middle)) != INCONCLUSIVE
            low, high = (low, middle) if decided else (middle, high)
        return high

    def to_dict(self) -> dict[str, object]:
        """The whole verdict for JSON: infinite bounds are None there."""
        effect, here = self.effect, read_machine()
        others = {name: version(name) for name in ("numpy", "scipy")}
        return {
            "kind": "verdict",
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "metric": self.claim.metric,
            "margin": self.claim.margin,
            "bound": self.claim.bound(),
            "verdict": self.verdict,
            "reason": self.reason,
            "effect": _finite(effect.estimate) if effect else None,
            "interval": [_finite(effect.low), _finite(effect.high)] if effect else None,
            "confidence": effect.confidence if effect else None,
            "p_value": self.p_value,
            "n": effect.n if effect else 0,
            "over": self.claim.over,
            "values": [_finite(value) for value in effect.values] if effect else [],
            "load": effect.load.to_dict() if effect and effect.load else None,
            "hardware": here.hardware,
            "versions": {"nbkit": nbkit.__version__, "torch": here.torch, **others},
            "machine": here.to_dict(),
        }


def all_claims() -> dict[str, Claim]:
    """Read the claims of the whole course, by id, in the order of the lessons.

    A folder of `nbkit/lessons` that is no lesson yet holds claims all the same.

    Raises:
        ValueError: if an entry has a wrong or missing field, or two files have a claim of one id.
    """
    order = [entry.word for entry in read_course()]
    unwritten = [path.parent.name for path in sorted(shipped.LESSONS.glob("*/claims.toml"))]
    claims: dict[str, Claim] = {}
    for word in dict.fromkeys([*order, *unwritten]):
        for identifier, claim in load_claims(word).items():
            if identifier in claims:
                raise ValueError(
                    f"the id of a claim must be unique: {identifier!r} stands in the claims of "
                    f"{claims[identifier].lesson} and of {word}. Rename one."
                )
            claims[identifier] = claim
    return claims


def load_claims(lesson: str, path: Path | None = None) -> dict[str, Claim]:
    """Read the claims of one lesson, by id, in the order of the file.

    Args:
        lesson: the lesson's word, `lr_finder`.
        path: the file; default `nbkit/lessons/<lesson>/claims.toml`. In a file that several lessons
            share, each entry has a field `lesson`.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, an entry has a wrong or missing field, or the lesson has no
            claim.
    """
    if path is None:
        path = shipped.LESSONS / lesson / "claims.toml"
        if not path.is_file():
            known = ", ".join(
                sorted(each.parent.name for each in shipped.LESSONS.glob("*/claims.toml"))
            )
            raise ValueError(
                f"nbkit has no claims of lesson {lesson!r}, only of {known}. For a lesson of your "
                f"own, name its file: Lesson({lesson!r}, claims='{lesson}.toml')."
            )
    claims, others = {}, set()
    for identifier, entry in read_entries(path).items():
        owner = entry.pop("lesson", lesson)
        if owner != lesson:
            others.add(owner)
            continue
        needs = tuple(entry.pop("needs", ()))
        fields = {"side": None, **entry, "id": identifier, "lesson": lesson, "needs": needs}
        try:
            claims[identifier] = Claim(**fields)
        except ValueError as error:
            raise ValueError(f"{path.name}, {error}") from None
    if not claims:
        known = ", ".join(map(repr, sorted(others))) or "none"
        raise ValueError(
            f"{path.name} has no claim of lesson {lesson!r}. It has claims of: {known}."
        )
    return claims


def without_lesson() -> dict[str, Claim]:
    """Read the claims that no lesson measures yet: a report counts them as NO LESSON YET."""
    there = {word_of(path.stem) for path in shipped.lessons_dir().glob("*.ipynb")}
    return {name: claim for name, claim in all_claims().items() if claim.lesson not in there}


def judge(claim: Claim, measured: Interval | Sequence[bool] | None = None) -> Verdict:
    """The verdict on a claim from what was measured.

    Args:
        measured: for an equality whether each pair is equal; for every other measure the interval
            of the effect, which is asked at the claim's own confidence. None where it could
            not be measured, because the machine lacks what the claim needs.
    Raises:
        ValueError: if something else was measured, over other noise or at a lower confidence
            than the claim states, or not at all although nothing is missing.

    SUPPORTED, REFUTED or INCONCLUSIVE by `Claim.decide`; SKIPPED when the machine lacks what the
    claim needs, when other programs kept it busy while it was timed (the numbers are kept), or when
    there are fewer seeds than it states.
    """
    if missing := claim.missing():
        return Verdict(claim, SKIPPED, f"needs {' and '.join(missing)}")
    effect = _effect(claim, measured)
    if effect.load and effect.load.is_busy:
        return Verdict(claim, SKIPPED, effect.load.reason, effect)
    if effect.n < claim.n:
        reason = f"{effect.n} of the {claim.n} {claim.over} it needs"
        return Verdict(claim, SKIPPED, reason, effect)

    if claim.measure == EQUALITY:
        equal = round(effect.estimate * effect.n)
        verdict = SUPPORTED if equal == effect.n else REFUTED
        return Verdict(claim, verdict, f"{equal} of {effect.n} pairs are equal", effect)
    return Verdict(claim, claim.decide(effect), _reason(claim, effect), effect)


def _effect(claim: Claim, measured: Interval | Sequence[bool] | None) -> Interval:
    """What was measured as the interval that decides."""
    if measured is None:
        raise ValueError(f"{claim.id} was not measured, though this machine has what it needs.")
    is_pairs = isinstance(measured, Iterable) and not isinstance(measured, str | Mapping)
    if not (is_pairs if claim.measure == EQUALITY else isinstance(measured, Interval)):
        pairs = claim.measure == EQUALITY
        expected = "a list of whether each pair is equal" if pairs else "an Interval"
        raise ValueError(
            f"{claim.id} measures {claim.measure}: expected {expected}, got {measured!r}."
        )
    if not isinstance(measured, Interval):
        measured = list(measured)
        equal = sum(bool(same and same == same) for same in measured)  # NaN is nothing's equal
        share = equal / max(1, len(measured))
        return Interval(share, share, share, len(measured), over=claim.over)
    if measured.over != claim.over:
        raise ValueError(
            f"{claim.id} is a claim over {claim.over}, and this interval was taken over "
            f"{measured.over}: that is other noise.{ADVICE.get(measured.over, '')}"
        )
    effect = measured if measured.at is None else measured.at(claim.confidence)
    effect = replace(effect, values=measured.values, load=measured.load)
    if effect.confidence < claim.confidence:
        wanted = f"{claim.id} needs a {claim.confidence:.0%} interval"
        raise ValueError(f"{wanted}, got {effect.confidence:.0%}.")
    return effect


def _reason(claim: Claim, effect: Interval) -> str:
    assert claim.margin is not None
    if claim.lacks_spread(effect):
        what = "ratios" if claim.measure == "ratio" else "differences"
        alike = f"the {effect.n} {what} are all the same"
        return f"{alike}: without any spread they are one measurement, not {effect.n}"
    decided = claim.decide_range(effect.low, effect.high)
    if decided == INCONCLUSIVE:
        return "the margin lies inside the interval"
    if claim.decide(effect) == INCONCLUSIVE:
        return "the exact binomial test leaves the margin open"
    if claim.side == "within":
        where = "between" if decided == SUPPORTED else "outside"
        return f"the whole interval lies {where} the margins"
    return (
        f"the whole interval lies {'below' if effect.high < claim.margin else 'above'} the margin"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
