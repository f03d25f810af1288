"""Lower the lr when a validation metric has stopped improving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from nbkit.base.numbers import read_integer, read_real
from nbkit.base.report import Word


class PlateauVerdict(Word):
    """What one validation said.

    >>> PlateauVerdict.CUT
    'cut'
    """

    WARMUP = "warm-up"  # the lr still rises: the metric was not counted
    BETTER = "better"  # a new best
    WAITING = "waiting"  # not better, within the patience
    CUT = "cut"  # not better for too long: the lr was lowered


@dataclass(frozen=True)
class PlateauState:
    """Hold what a plateau knows of the metrics so far.

    Attributes:
        best: the best metric so far, None before the first that is a number.
        waited: how many metrics in a row were not better.
        cuts: how often the lr was lowered.
    """

    best: float | None = None
    waited: int = 0
    cuts: int = 0


@dataclass(frozen=True)
class Plateau:
    """Lower the lr by a factor when more than `patience` metrics in a row are not better.

        better:  metric < best - threshold * |best|     (mode "min")
        lr = base lr * schedule(update) * factor ** cuts

    The threshold is a share of |best|, so that it means the same for a negative metric, such as a
    log-likelihood. torch's ReduceLROnPlateau takes best * (1 - threshold), which lies *above* a
    negative best: a metric that stands still then counts as better for ever. For positive metrics
    the two are equal. NaN is never better; nor is a metric that equals an infinite best.

    It has no state: give it to `Scheduled(optimizer, schedule, plateau=...)`, which has, and call
    `scheduled.validate(metric)` after each validation. Metrics during the warm-up do not count.

    Args:
        factor: of one cut, above 0 and below 1.
        patience: how many metrics in a row may be not better before the next one cuts.
        threshold: share of |best| by which a metric must be better, at least 0.
        mode: "min" for a loss, "max" for an accuracy.
    Raises:
        ValueError: if an argument is out of its range.

    >>> plateau, state = Plateau(patience=1), PlateauState()
    >>> for loss in (-1.0, -1.0, -1.0):
    ...     state, verdict = plateau.judge_metric(state, loss)
    ...     print(verdict, state.cuts)
    better 0
    waiting 0
    cut 1
    """

    factor: float = 0.3
    patience: int = 5
    threshold: float = 0.01
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        factor, threshold = read_real(self.factor), read_real(self.threshold)
        if factor is None or not 0 < factor < 1:
            raise ValueError(f"factor must be above 0 and below 1, got {self.factor!r}.")
        if threshold is None or not 0 <= threshold < math.inf:
            raise ValueError(
                f"threshold must be finite and at least 0, such as 0.01 for one percent, got "
                f"{self.threshold!r}."
            )
        patience = read_integer(self.patience)
        if patience is None or patience < 0:
            raise ValueError(
                f"patience must be a whole number of validations, at least 0, got "
                f"{self.patience!r}."
            )
        if self.mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max", got {self.mode!r}.')
        # The class is frozen, and numbers of numpy or torch become Python's.
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "threshold", threshold)
        object.__setattr__(self, "patience", patience)

    def judge_metric(self, state: PlateauState, metric: Any) -> tuple[PlateauState, PlateauVerdict]:
        """Return the state after one more metric, and what it said; nothing is changed.

        Raises:
            TypeError: if the metric is not a number.
        """
        value = read_metric(metric)
        if self._is_better(value, state.best):
            return PlateauState(value, 0, state.cuts), PlateauVerdict.BETTER
        if state.waited < self.patience:
            waited = PlateauState(state.best, state.waited + 1, state.cuts)
            return waited, PlateauVerdict.WAITING
        # After a cut the count starts anew, and the best stays.
        return PlateauState(state.best, 0, state.cuts + 1), PlateauVerdict.CUT

    def find_factor(self, state: PlateauState) -> float:
        """Return the factor on the lr after the cuts so far."""
        return float(self.factor**state.cuts)

    def _is_better(self, value: float, best: float | None) -> bool:
        """Say whether a metric beats the best one by more than the threshold."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        if self.mode == "max":
            value, best = -value, -best
        # From an infinite best, the threshold would be infinity minus infinity.
        least = 0.0 if math.isinf(best) else self.threshold * abs(best)
        return value < best - least


def read_metric(metric: Any) -> float:
    """Return a metric as a number; infinity and NaN are numbers, too."""
    value = read_real(metric)
    if value is None:
        raise TypeError(
            f"expected a metric that is one number, such as the mean validation loss, got "
            f"{metric!r}."
        )
    return value
