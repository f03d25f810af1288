"""A claim is a sentence that can turn out false; its verdict is computed, never worded by hand.

Claims stand in `data/claims.toml`, stated before anything is measured: the lesson, the verdict and
the report all read that one entry.
"""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

import nbkit
from nbkit.lab import data
from nbkit.lab.intervals import NOISE, Interval
from nbkit.lab.machine import machine
from nbkit.lab.proportions import exact_p

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
KINDS = {f"{name}_{side}": ends for name, ends in MEASURES.items() for side in ("below", "above")}
KINDS |= {"equivalent": (0.0, math.inf), "exact": (math.nan, math.nan)}

NEEDS: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "two gpus": lambda: torch.cuda.device_count() >= 2,
    "two processes": lambda: torch.distributed.is_available() and sys.platform != "win32",
    "two cores": lambda: (os.cpu_count() or 1) >= 2,
}


@dataclass(frozen=True)
class Claim:
    """One entry of `data/claims.toml`.

    `kind` is what is measured and on which side of `margin` the claim puts it: "ratio_below",
    "ratio_above", the same of "difference", "proportion" and "proportion_difference"; "equivalent"
    (the difference lies within -margin and margin) or "exact" (every pair is equal, bit for bit).
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
    kind: str
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
        named = [("kind", self.kind, KINDS), ("over", self.over, DECIDING)]
        for field, value, known in [*named, *(("needs", need, NEEDS) for need in self.needs)]:
            if value not in known:
                return f"{field} must be among {', '.join(known)}, got {value!r}."
        low, high = KINDS[self.kind]
        if (self.margin is None) != (self.kind == "exact"):
            return "a margin belongs to every kind but 'exact', and not to that."
        if self.margin is not None and not low < self.margin < high:
            return f"the margin of {self.kind!r} lies between {low} and {high}, got {self.margin}."
        if self.deterministic and self.kind.startswith(("proportion", "exact")):
            return f"deterministic belongs to a ratio or a difference, not to {self.kind!r}."
        return None if self.n >= 1 else f"n must be at least 1, got {self.n}."

    @property
    def confidence(self) -> float:
        """Of the interval that decides it: two one-sided tests at 5 % are an interval of 90 %."""
        return 0.90 if self.kind == "equivalent" else 0.95

    def bound(self) -> str:
        """The margin in words: `below 1.25`, `within ±0.01`, `exact`."""
        if self.margin is None:
            return "exact"
        if self.kind == "equivalent":
            return f"within ±{self.margin:g}"
        return f"{self.kind.rpartition('_')[2]} {self.margin:g}"

    def holds(self, effect: float) -> bool:
        """Whether an effect of that size, known exactly, would make the claim true."""
        return self.side(effect, effect) == SUPPORTED

    def decide(self, effect: Interval) -> str:
        """SUPPORTED if the whole interval lies where the claim says, REFUTED if it lies beyond.

        Wilson's interval of a share errs too often near 0 and 1: the exact test must agree. Values
        without any spread decide nothing: n copies of one number are not n measurements.
        """
        if self.lacks_spread(effect):
            return INCONCLUSIVE
        share = self.kind in ("proportion_below", "proportion_above")
        if share and exact_p(effect, self.margin or 0.0) > 1 - effect.confidence:
            return INCONCLUSIVE
        return self.side(effect.low, effect.high)

    def lacks_spread(self, effect: Interval) -> bool:
        """Whether all values were one number, though they are a sample of something noisy.

        A ratio of 0 or infinity is none: those runs have diverged, and were counted.
        """
        lost = self.kind.startswith("ratio") and effect.low in (0.0, math.inf)
        return effect.low == effect.high and not (self.deterministic or lost)

    def side(self, low: float, high: float) -> str:
        """What follows if the effect lies somewhere from low to high.

        A bound that misses the margin by no more than rounding lies on it: it decides nothing.
        """
        assert self.margin is not None
        near = ROUNDING * max(1.0, abs(self.margin))
        under, over = self.margin - near, self.margin + near
        if self.kind == "equivalent":
            inside, outside = -under < low and high < under, high < -over or over < low
        elif self.kind.endswith("below"):
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
        effect, sides = self.effect, 2 if self.claim.kind == "equivalent" else 1
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
        effect, here = self.effect, machine()
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
            "hardware": here["hardware"],
            "versions": {"nbkit": nbkit.__version__, "torch": here["torch"], **others},
            "machine": here,
        }


def all_claims(register: Path | None = None) -> dict[str, Claim]:
    """Every claim of a register, by id, in the order of the file.

    Args:
        register: a file like `data/claims.toml`, which it is by default.
    Raises:
        ValueError: if an entry has a wrong or missing field.
    """
    register = data.file("claims.toml") if register is None else register
    optional = {"margin", "needs", "over", "spread", "deterministic"}
    optional |= {"supported", "refuted", "inconclusive"}
    fields = set(Claim.__dataclass_fields__) - {"id"}
    claims = {}
    for identifier, entry in tomllib.loads(register.read_text(encoding="utf-8")).items():
        odd = (set(entry) - fields) | (fields - optional - set(entry))
        if odd:
            wrong = ", ".join(sorted(odd))
            raise ValueError(f"{register.name}, [{identifier}]: wrong or missing: {wrong}.")
        needs = tuple(entry.pop("needs", ()))
        claims[identifier] = Claim(id=identifier, needs=needs, **entry)
    return claims


def load_claims(lesson: str, register: Path | None = None) -> dict[str, Claim]:
    """The claims of one lesson, by id, in the order of the file.

    Args:
        lesson: its name.
        register: as for `all_claims`.
    Raises:
        ValueError: if an entry has a wrong or missing field, or the lesson has no claim.
    """
    every = all_claims(register)
    claims = {name: claim for name, claim in every.items() if claim.lesson == lesson}
    if not claims:
        file = "claims.toml" if register is None else register
        raise ValueError(f"{file} has no claim of lesson {lesson!r}.")
    return claims


def without_lesson() -> dict[str, Claim]:
    """The claims that no lesson measures yet: a report counts them as NO LESSON YET."""
    there = {path.stem for path in data.lessons_dir().glob("*.ipynb")}
    return {name: claim for name, claim in all_claims().items() if claim.lesson not in there}


def judge(claim: Claim, measured: Interval | Sequence[bool] | None = None) -> Verdict:
    """The verdict on a claim from what was measured.

    Args:
        measured: for "exact" whether each pair is equal; for every other kind the interval of the
            effect, which is asked at the claim's own confidence. None where it could not be
            measured, because the machine lacks what the claim needs.
    Raises:
        ValueError: if it was measured as another kind, over other noise or at a lower confidence
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

    if claim.kind == "exact":
        equal = round(effect.estimate * effect.n)
        verdict = SUPPORTED if equal == effect.n else REFUTED
        return Verdict(claim, verdict, f"{equal} of {effect.n} pairs are equal", effect)
    return Verdict(claim, claim.decide(effect), _reason(claim, effect), effect)


def _effect(claim: Claim, measured: Interval | Sequence[bool] | None) -> Interval:
    """What was measured as the interval that decides."""
    if measured is None:
        raise ValueError(f"{claim.id} was not measured, though this machine has what it needs.")
    if isinstance(measured, Interval) == (claim.kind == "exact"):
        wanted = "pairs that are equal or not" if claim.kind == "exact" else "an Interval"
        raise ValueError(f"{claim.id} is {claim.kind!r}: it needs {wanted}, got {measured!r}.")
    if not isinstance(measured, Interval):
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
        what = "ratios" if claim.kind.startswith("ratio") else "differences"
        alike = f"the {effect.n} {what} are all the same"
        return f"{alike}: without any spread they are one measurement, not {effect.n}"
    side = claim.side(effect.low, effect.high)
    if side == INCONCLUSIVE:
        return "the margin lies inside the interval"
    if claim.decide(effect) == INCONCLUSIVE:
        return "the exact binomial test leaves the margin open"
    if claim.kind == "equivalent":
        return (
            f"the whole interval lies {'between' if side == SUPPORTED else 'outside'} the margins"
        )
    return (
        f"the whole interval lies {'below' if effect.high < claim.margin else 'above'} the margin"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
