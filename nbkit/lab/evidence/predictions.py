"""Commit to a prediction before the measurement, and score it afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from nbkit.lab.evidence.claims import INCONCLUSIVE, MEASURES, SKIPPED, SUPPORTED, Claim
from nbkit.lab.evidence.verdicts import Verdict


def _is_finite_real(value: object) -> bool:
    # A bool is a Real number to Python; nobody means True as a size.
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Prediction:
    """The size that the learner expects, and how sure they are of the side of the margin.

    Raises:
        ValueError: if the claim has no margin, the guess is not a size that its measure can have,
            or confidence is not a whole number from 50 to 99.
    """

    claim: Claim
    guess: float
    confidence: int

    def __post_init__(self) -> None:
        self._check_guess()
        self._check_confidence()
        # numpy's numbers cannot be written as JSON. The dataclass is frozen, hence __setattr__.
        object.__setattr__(self, "guess", float(self.guess))
        object.__setattr__(self, "confidence", int(self.confidence))

    def _check_guess(self) -> None:
        if self.claim.margin is None:
            raise ValueError(f"{self.claim.id} is exact: there is no size to predict.")
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

    def score_against(self, verdict: Verdict) -> Score:
        """Score the prediction against the verdict that was measured."""
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
    measurement decides nothing.
    """

    prediction: Prediction
    verdict: Verdict
    right: bool | None
    inside: bool | None
    brier: float | None

    def __str__(self) -> str:
        name = self.verdict.claim.id
        if self.right is None:
            return f"{name}: {self.verdict.verdict}, so there is nothing to score"
        # The side of the margin and the size of the effect are scored apart.
        side = "right" if self.right else "wrong"
        size = "inside" if self.inside else "outside"
        return (
            f"{name}: side {side} at {self.prediction.confidence} % confidence "
            f"(Brier score {self.brier:.2f}, 0.25 is a coin), size {size} the interval"
        )

    def to_dict(self) -> dict[str, object]:
        """Return the numbers of the prediction and its score as plain JSON."""
        return {
            "claim": self.verdict.claim.id,
            "guess": self.prediction.guess,
            "confidence": self.prediction.confidence,
            "right": self.right,
            "inside": self.inside,
            "brier": self.brier,
        }
