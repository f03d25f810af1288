"""A claim is a sentence that can turn out false; its verdict is computed, never worded by hand.

Claims stand in `data/claims.toml`, stated before anything is measured: the lesson, the verdict and
the report all read that one entry.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from nbkit.lab import data
from nbkit.lab.machine import machine
from nbkit.lab.stats import Interval

SUPPORTED, REFUTED, INCONCLUSIVE, SKIPPED = "SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED"


@dataclass(frozen=True)
class Claim:
    """One entry of `data/claims.toml`.

    `kind` is "ratio_below" (the metric's ratio lies below `margin`) or "exact" (every pair is
    equal, bit for bit). `n` is the number of seeds that the claim needs to be judged.
    """

    id: str
    lesson: str
    sentence: str
    source: str
    metric: str
    kind: str
    n: int
    supported: str
    refuted: str
    inconclusive: str
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("ratio_below", "exact"):
            raise ValueError(
                f"claim {self.id!r}: kind must be 'ratio_below' or 'exact', got {self.kind!r}."
            )
        if (self.margin is None) != (self.kind == "exact"):
            raise ValueError(
                f"claim {self.id!r}: a margin belongs to 'ratio_below', and to it alone."
            )


@dataclass(frozen=True)
class Verdict:
    """What was measured of a claim, on which machine, and what follows."""

    claim: Claim
    verdict: str
    reason: str
    effect: Interval | None = None

    def __str__(self) -> str:
        return f"{self.claim.id}  {self.verdict}"

    def takeaway(self) -> str:
        """The sentence to take home: it reads differently when the claim is refuted."""
        if self.verdict == SKIPPED:
            return f"{self.claim.sentence} Not judged in this run."
        return str(getattr(self.claim, self.verdict.lower()))

    def to_dict(self) -> dict[str, object]:
        """The whole verdict for JSON: infinite bounds are None there."""
        return {
            "kind": "verdict",
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "metric": self.claim.metric,
            "margin": self.claim.margin,
            "verdict": self.verdict,
            "reason": self.reason,
            "effect": _finite(self.effect.estimate) if self.effect else None,
            "interval": [_finite(self.effect.low), _finite(self.effect.high)]
            if self.effect
            else None,
            "confidence": self.effect.confidence if self.effect else None,
            "n": self.effect.n if self.effect else 0,
            "machine": machine(),
        }


def load_claims(lesson: str) -> dict[str, Claim]:
    """The claims of one lesson, by id, in the order of the file.

    Raises:
        ValueError: if an entry has a wrong or missing field, or the lesson has no claim.
    """
    entries = tomllib.loads(data.file("claims.toml").read_text())
    fields = set(Claim.__dataclass_fields__) - {"id"}
    claims = {}
    for identifier, entry in entries.items():
        odd = (set(entry) - fields) | (fields - {"margin"} - set(entry))
        if odd:
            raise ValueError(
                f"claims.toml, [{identifier}]: wrong or missing: {', '.join(sorted(odd))}."
            )
        if entry["lesson"] == lesson:
            claims[identifier] = Claim(id=identifier, **entry)
    if not claims:
        raise ValueError(f"claims.toml has no claim of lesson {lesson!r}.")
    return claims


def judge(claim: Claim, measured: Interval | Sequence[bool]) -> Verdict:
    """The verdict on a claim from what was measured.

    Args:
        measured: for "ratio_below" the interval of the ratio; for "exact" whether each pair is
            equal.

    A ratio is SUPPORTED when its whole interval lies below the margin, REFUTED when it lies wholly
    above, INCONCLUSIVE when the margin lies inside. Fewer seeds than the claim states: SKIPPED.
    """
    if claim.kind == "exact":
        pairs = [bool(pair) for pair in measured]  # type: ignore[union-attr]
        share = math.fsum(pairs) / max(1, len(pairs))
        measured = Interval(share, share, share, len(pairs))
    assert isinstance(measured, Interval)
    if measured.n < claim.n:
        return Verdict(claim, SKIPPED, f"{measured.n} of the {claim.n} seeds it needs", measured)
    if claim.kind == "exact":
        equal = round(measured.estimate * measured.n)
        verdict = SUPPORTED if equal == measured.n else REFUTED
        return Verdict(claim, verdict, f"{equal} of {measured.n} pairs are equal", measured)
    assert claim.margin is not None
    if measured.high < claim.margin:
        return Verdict(claim, SUPPORTED, "the whole interval lies below the margin", measured)
    if measured.low > claim.margin:
        return Verdict(claim, REFUTED, "the whole interval lies above the margin", measured)
    return Verdict(claim, INCONCLUSIVE, "the margin lies inside the interval", measured)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
