"""A claim is a sentence that can turn out false; its verdict is computed from a measurement.

Claims stand in `nbkit/lessons/<lesson>/claims.toml`, stated before anything is measured: the
lesson, the verdict and the report all read that one entry.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from nbkit.base.report import Word
from nbkit.lab.evidence.intervals import NOISE, Interval
from nbkit.lab.evidence.proportions import binomial_p_value


class Outcome(Word):
    """The code of a verdict."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIPPED = "SKIPPED"


SUPPORTED, REFUTED = Outcome.SUPPORTED, Outcome.REFUTED
INCONCLUSIVE, SKIPPED = Outcome.INCONCLUSIVE, Outcome.SKIPPED

# Tolerance for the margin: a bound as close as this counts as on it. It is relative to the margin,
# and absolute for margins below 1.
ROUNDING = 1e-9
# The rounds of one process are one timing: no claim is decided by their number.
DECIDING = tuple(noise for noise in NOISE if noise != "rounds")

# For each measure, the bounds between which its margin must lie.
MEASURES = {
    "ratio": (0.0, math.inf),
    "difference": (-math.inf, math.inf),
    "proportion": (0.0, 1.0),
    "proportion_difference": (-1.0, 1.0),
}
EQUALITY = "equality"  # of pairs: it has neither a side nor a margin
SIDES = ("below", "above", "within")

# For each need of a claim, whether this machine has it now.
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
    `drift` is what repeated timings of one hour do not show: the standard deviation of a ratio's
    logarithm from one whole measurement to the next. The interval is widened by it.
    `needs` are names of NEEDS. `deterministic` marks a measure that is counted and has no noise, as
    bytes; equal values are then its result.
    `task` is what it is measured on, in one phrase ("digits: 2-layer MLP, 100 steps"), and
    `baseline` what the technique is held against and how that was tuned. `general` marks a sentence
    that is meant for other tasks, too: it is then measured on a second one, with `n_elsewhere`
    repetitions there (default `n`).
    `axis` is the range of effects that is drawn, for a prediction and for the result. `better` is
    the side ("below" or "above") on which an effect is good for the user; by default the claim's.
    `supported`, `refuted` and `inconclusive` are the takeaways for each outcome.

    Raises:
        ValueError: if the fields do not make a claim that can be judged.
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
    drift: float | None = None
    deterministic: bool = False
    task: str = ""
    baseline: str = ""
    axis: tuple[float, float] | None = None
    n_elsewhere: int | None = None
    general: bool = False
    better: str | None = None

    def __post_init__(self) -> None:
        problem = self._find_problem()
        if problem is not None:
            raise ValueError(f"claim {self.id!r}: {problem}")

    def _find_problem(self) -> str | None:
        """Find what keeps this claim from being judged, in a sentence; None if nothing does."""
        # The measure comes first: the other rules depend on it.
        problem = _find_unknown_word("measure", self.measure, [*MEASURES, EQUALITY])
        problem = problem or _find_unknown_word("over", self.over, DECIDING)
        for need in self.needs:
            problem = problem or _find_unknown_word("needs", need, NEEDS)
        if problem is not None:
            return problem
        if self.measure == EQUALITY:
            problem = self._find_equality_problem()
        else:
            problem = self._find_margin_problem() or self._find_axis_problem()
        return problem or self._find_sample_problem()

    def _find_equality_problem(self) -> str | None:
        """Find a side, a margin or an axis, which an equality does not have."""
        names = ("side", "margin", "axis", "better")
        given = [name for name in names if getattr(self, name) is not None]
        if not given:
            return None
        return f"an equality has no {' and no '.join(given)}: every pair is equal. Take it out."

    def _find_margin_problem(self) -> str | None:
        """Find what is wrong with the side and the margin."""
        if self.side not in SIDES:
            return f"side must be among {', '.join(SIDES)}, got {self.side!r}."
        if self.side == "within" and self.measure != "difference":
            return f'side = "within" belongs to a difference, not to a {self.measure}.'
        if self.margin is None:
            return f"a {self.measure} needs a margin: the size that it is {self.side}."
        low, high = (0.0, math.inf) if self.side == "within" else MEASURES[self.measure]
        # A margin on a bound could not be missed on one of its sides; NaN fails here, too.
        if not low < self.margin < high:
            return (
                f"the margin of a {self.measure} {self.side} it must lie between {low} and {high}, "
                f"got {self.margin}."
            )
        return None

    def _find_axis_problem(self) -> str | None:
        """Find what is wrong with the axis, and with the side that is better."""
        if self.better is not None and self.better not in ("below", "above"):
            return f'better must be "below" or "above", got {self.better!r}.'
        if self.axis is None:
            return None
        assert self.margin is not None
        lowest, highest = MEASURES[self.measure]
        low, high = self.axis
        # A ratio has a logarithmic axis, which has no 0.
        if not lowest <= low < high <= highest or (self.measure == "ratio" and low == 0):
            above = "above 0, " if self.measure == "ratio" else ""
            return (
                f"axis must be [low, high] with low < high, {above}and between {lowest:g} and "
                f"{highest:g} for a {self.measure}, got {list(self.axis)}."
            )
        # A margin at the edge could not be told from an effect that has left the axis.
        edge = abs(self.margin) if self.side == "within" else self.margin
        if not (low < edge < high and (self.side != "within" or low < -edge)):
            return f"the margin {self.margin:g} must lie inside the axis, got {list(self.axis)}."
        return None

    def _find_sample_problem(self) -> str | None:
        """Find what is wrong with the samples that the claim asks for."""
        if self.deterministic and self.measure not in ("ratio", "difference"):
            return f"deterministic belongs to a ratio or a difference, not to {self.measure!r}."
        if self.spread is not None and not 0 < self.spread < math.inf:
            return f"spread must be a number above 0, got {self.spread}."
        if self.drift is not None and (self.over, self.measure) != ("timings", "ratio"):
            return "drift belongs to a ratio of timings: other measures do not depend on the hour."
        if self.drift is not None and not 0 < self.drift < math.inf:
            return f"drift must be a number above 0, got {self.drift}."
        if self.n_elsewhere is not None and self.n_elsewhere < 1:
            return f"n_elsewhere must be at least 1, got {self.n_elsewhere}."
        return None if self.n >= 1 else f"n must be at least 1, got {self.n}."

    @property
    def confidence(self) -> float:
        """Return the confidence of the interval that decides the claim."""
        # "within" is two one-sided tests at 5 % each: an interval of 90 % (Schuirmann 1987).
        return 0.90 if self.side == "within" else 0.95

    @property
    def better_side(self) -> str | None:
        """Return the side on which an effect is good; None for "within" and for an equality."""
        return self.better or (self.side if self.side in ("below", "above") else None)

    @property
    def task_name(self) -> str:
        """Return the task in a word or two: `task` up to its first comma or colon."""
        return re.split("[,:]", self.task)[0].strip() or "this task"

    def describe_bound(self) -> str:
        """Describe the side and the margin: `below 1.25`, `within ±0.01`, `exact`."""
        if self.margin is None:
            return "exact"
        return f"{self.side} {'±' if self.side == 'within' else ''}{self.margin:g}"

    def holds_for(self, effect: float) -> bool:
        """Return whether an effect of that size, known exactly, would make the claim true."""
        return self.decide_range(effect, effect) == SUPPORTED

    def decide(self, effect: Interval) -> Outcome:
        """Decide the claim by an interval of the effect.

        SUPPORTED if the whole interval lies where the claim says, REFUTED if it lies beyond the
        margin. Values without any spread decide nothing: n copies of one number are not n
        measurements.
        """
        if self.lacks_spread(effect):
            return INCONCLUSIVE
        # Wilson's interval of a share errs too often near 0 and 1: the exact test must agree.
        alpha = 1 - effect.confidence
        if self.measure == "proportion" and binomial_p_value(effect, self.margin or 0.0) > alpha:
            return INCONCLUSIVE
        return self.decide_range(effect.low, effect.high)

    def lacks_spread(self, effect: Interval) -> bool:
        """Return whether all values were one number, though the measure has noise."""
        # Ratios that are all 0 or infinity are runs that diverged, and these were counted.
        diverged = self.measure == "ratio" and effect.low in (0.0, math.inf)
        return effect.low == effect.high and not (self.deterministic or diverged)

    def decide_range(self, low: float, high: float) -> Outcome:
        """Decide the claim for an effect that lies somewhere from low to high.

        A bound that differs from the margin by no more than rounding counts as on it, and decides
        nothing.
        """
        assert self.margin is not None
        near = ROUNDING * max(1.0, abs(self.margin))
        # To lie below the margin is to lie below `under`; to lie above it, above `over`.
        under, over = self.margin - near, self.margin + near
        if self.side == "within":
            inside, outside = -under < low and high < under, high < -over or over < low
        elif self.side == "below":
            inside, outside = high < under, low > over
        else:
            inside, outside = low > over, high < under
        if inside:
            return SUPPORTED
        return REFUTED if outside else INCONCLUSIVE

    def find_missing_needs(self) -> list[str]:
        """List what the claim needs and this machine lacks."""
        return [need for need in self.needs if not NEEDS[need]()]


def _find_unknown_word(field: str, value: str, known: Collection[str]) -> str | None:
    """Name the words that a field may have, if the value is not one of them."""
    if value in known:
        return None
    return f"{field} must be among {', '.join(known)}, got {value!r}."
