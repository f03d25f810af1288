"""A prediction, committed before the measurement, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass

from nbkit.lab.evidence.claims import INCONCLUSIVE, SKIPPED, SUPPORTED, Claim, Verdict


@dataclass(frozen=True)
class Prediction:
    """The size that the learner expects, and how sure they are of the side of the margin.

    Raises:
        ValueError: if the claim has no margin to be on a side of, or confidence is not 50 to 99.
    """

    claim: Claim
    guess: float
    confidence: int

    def __post_init__(self) -> None:
        if self.claim.margin is None:
            raise ValueError(f"{self.claim.id} is exact: there is no size to predict.")
        if not 50 <= self.confidence <= 99:
            raise ValueError(
                f"confidence is a percentage from 50 (a coin) to 99, got {self.confidence}. "
                f"Less than 50 means that you believe in the other side: change the guess."
            )

    def score(self, verdict: Verdict) -> Score:
        """Compare with what was measured."""
        if verdict.verdict in (INCONCLUSIVE, SKIPPED) or verdict.effect is None:
            return Score(self, verdict, None, None, None)
        right = self.claim.holds(self.guess) == (verdict.verdict == SUPPORTED)
        inside = verdict.effect.low <= self.guess <= verdict.effect.high
        brier = (self.confidence / 100 - right) ** 2
        return Score(self, verdict, right, inside, brier)


@dataclass(frozen=True)
class Score:
    """`right`: the side of the margin; `inside`: the guess lies in the interval; `brier`: 0 is
    best.

    All three are None where the measurement decides nothing.
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
        side = "right" if self.right else "wrong"
        size = "inside" if self.inside else "outside"
        return (
            f"{name}: side {side} at {self.prediction.confidence} % confidence "
            f"(Brier score {self.brier:.2f}, 0.25 is a coin), size {size} the interval"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "claim": self.verdict.claim.id,
            "guess": self.prediction.guess,
            "confidence": self.prediction.confidence,
            "right": self.right,
            "inside": self.inside,
            "brier": self.brier,
        }
