"""Commit to a prediction before the measurement, and score it afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

from nbkit.lab.evidence.claims import INCONCLUSIVE, MEASURES, SKIPPED, SUPPORTED, Claim
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.knobs import Value


def _is_finite_real(value: object) -> bool:
    # A bool is a Real number to Python; nobody means True as a size.
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_predictable(claim: Claim) -> None:
    """Refuse a claim that has no size to predict, with a ValueError."""
    if claim.margin is None:
        raise ValueError(f"{claim.id} is exact: there is no size to predict.")


@dataclass(frozen=True)
class Prediction:
    """The size that the learner expects, and how sure they are of the side of the margin.

    `settings` are the lesson's knobs, without the profile, that the prediction was made for: at
    other settings something else is measured, and it is not scored.

    Raises:
        ValueError: if the claim has no margin, the guess is not a size that its measure can have,
            or confidence is not a whole number from 50 to 99.
    """

    claim: Claim
    guess: float
    confidence: int
    settings: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_guess()
        self._check_confidence()
        # numpy's numbers cannot be written as JSON. The dataclass is frozen, hence __setattr__.
        object.__setattr__(self, "guess", float(self.guess))
        object.__setattr__(self, "confidence", int(self.confidence))

    def __str__(self) -> str:
        return f"{self.guess:g}, {self.confidence} % sure of the side"

    def _check_guess(self) -> None:
        check_predictable(self.claim)
        # A guess may lie on a bound, as a share of 0; a margin may not.
        low, high = MEASURES[self.claim.measure]
        if not _is_finite_real(self.guess) or not low <= self.guess <= high:
            raise ValueError(
                f"guess must be a finite number from {low:g} to {high:g}, as a "
                f"{self.claim.measure.replace('_', ' ')} can be, got {self.guess!r}."
            )

    def _check_confidence(self) -> None:
        if not isinstance(self.confidence, Integral) or isinstance(self.confidence, bool):
            raise ValueError(
                f"confidence is a whole number of percent from 50 to 99, got {self.confidence!r}."
            )
        if not 50 <= self.confidence <= 99:
            raise ValueError(
                f"confidence is a percentage from 50 (a coin) to 99, got {self.confidence}. "
                f"Less than 50 means that you believe in the other side: change the guess."
            )

    def to_dict(self) -> dict[str, object]:
        """Return the prediction as plain JSON."""
        return {
            "claim": self.claim.id,
            "guess": self.guess,
            "confidence": self.confidence,
            "settings": dict(self.settings),
        }

    def score_against(self, verdict: Verdict) -> Score:
        """Score the prediction against the verdict that was measured."""
        # What was measured at other settings answers another question.
        if self.settings != verdict.settings:
            return Score(self, verdict, None, None, None)
        # A measurement that decides nothing says neither right nor wrong.
        if verdict.verdict in (INCONCLUSIVE, SKIPPED) or verdict.effect is None:
            return Score(self, verdict, None, None, None)
        right = self.claim.holds_for(self.guess) == (verdict.verdict == SUPPORTED)
        inside = verdict.effect.low <= self.guess <= verdict.effect.high
        # Brier's score: the squared distance of the stated probability from what happened.
        brier = (self.confidence / 100 - right) ** 2
        return Score(self, verdict, right, inside, brier)


@dataclass(frozen=True)
class Score:
    """The score of one prediction against its verdict.

    `right`: the guess was on the right side of the margin. `inside`: the guess lies in the
    interval. `brier`: the Brier score, of which 0 is the best. All three are None where the
    measurement decides nothing, or was made at other settings than the prediction.
    """

    prediction: Prediction
    verdict: Verdict
    right: bool | None
    inside: bool | None
    brier: float | None

    def __str__(self) -> str:
        name = self.verdict.claim.id
        if self.prediction.settings != self.verdict.settings:
            return f"{name}: {self._describe_settings()}: not scored"
        if self.right is None:
            return f"{name}: {self.verdict.verdict}, so there is nothing to score"
        # The side of the margin and the size of the effect are scored apart.
        side = "right" if self.right else "wrong"
        size = "inside" if self.inside else "outside"
        return (
            f"{name}: side {side} at {self.prediction.confidence} % confidence "
            f"(Brier score {self.brier:.2f}, 0.25 is a coin), size {size} the interval"
        )

    def describe_numbers(self) -> str:
        """Describe the guess and what was measured in front of the score."""
        effect = self.verdict.effect
        measured = f"measured {effect}" if effect is not None else "nothing was measured"
        return f"you said {self.prediction}; {measured}. {self}"

    def _describe_settings(self) -> str:
        """Describe what differs: `made for momentum = 0.9, measured at 0.5`."""
        made, measured = self.prediction.settings, self.verdict.settings
        wanted, got = [], []
        for name in {**made, **measured}:
            if made.get(name) != measured.get(name):
                wanted.append(f"{name} = {made.get(name)}")
                got.append(str(measured.get(name)))
        return f"made for {', '.join(wanted)}, measured at {', '.join(got)}"

    def to_dict(self) -> dict[str, object]:
        """Return the numbers of the prediction and its score as plain JSON."""
        return {
            **self.prediction.to_dict(),
            "right": self.right,
            "inside": self.inside,
            "brier": self.brier,
        }
