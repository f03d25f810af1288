"""What a learning-rate range test measured, and the lr that it suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

from nbkit.base.report import Report, ensure_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Fewer rungs tell neither the level from which the loss falls nor its noise.
FEWEST = 10


@dataclass
class LRCurve(Report):
    """Losses along a ladder of learning rates.

    Attributes:
        lrs: of the first parameter group, as the updates used them.
        group_lrs: of every group, a list for each rung.
        losses: of each rung, before its update; the window's mean with accumulation.
        smoothed: their exponential moving average, debiased.
        stop_reason: "finished", "diverged", "nonfinite" (the next loss was NaN or infinite) or
            "exhausted" (no batches left).
        skipped: fp16 steps that the scaler skipped; they have no rung.
        smoothing: weight of the past in the moving average.
    """

    lrs: list[float] = field(default_factory=list)
    group_lrs: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    stop_reason: str = ""
    skipped: int = 0
    smoothing: float = 0.9

    def suggest(self, method: str = "floor") -> float | None:
        """A learning rate to train with, or None; `explain` says how it comes about, or why not.

        Args:
            method:
                "floor": where the losses, averaged over a decade of lrs so that nothing lags, are
                within a fifth of the drop of their lowest, there is the valley's floor. From its
                middle four rungs back, but no further than a factor of 10.
                "steepest": where the smoothed loss falls fastest per factor of lr.
                "minimum": a tenth of the lr where the smoothed loss is lowest.
        Raises:
            ValueError: if there is no such method.

        Why "floor" goes back: a training answers an lr that is too high only some steps later, and
        the ladder climbs on meanwhile.

        It was chosen by `benchmarks/lr_suggestion.py`, for a training as long as the test, of about
        a hundred steps; a much longer one may want less. No lr after the minimum is suggested, and
        none from a flat or noisy curve or one that is cut off before its floor ends.
        """
        return self._find(method)[0]

    def explain(self, method: str = "floor") -> str:
        """One sentence: how that suggestion comes about, or why there is none."""
        return self._find(method)[1]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Losses and smoothed losses against lr, with the suggestion; returns the axes."""
        ax = ensure_axes(ax)
        ax.plot(self.lrs, self.losses, color="0.7", linewidth=0.8, label="loss")
        ax.plot(self.lrs, self.smoothed, color="#0072B2", linewidth=2, label="smoothed")
        lr = self.suggest()
        if lr is not None:
            ax.axvline(lr, color="#D55E00", label="suggested")
            top = ax.get_xaxis_transform()  # lr along x, the height of the axes along y
            text = ax.text(lr, 0.97, f"suggested {lr:.3g} ", transform=top, color="#D55E00")
            text.set(ha="right", va="top")
        if self.losses:  # what comes after the valley may be a thousand times higher
            low, high = min(self.losses), max(self.losses[:FEWEST])
            ax.set_ylim(low - 0.1 * (high - low), high + (high - low) + 1e-12)
        ax.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        return ax

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """A line on the run, and a row for each method."""
        summary = f"{len(self.lrs)} rungs, {self.stop_reason}"
        if self.lrs:
            low = self._bottom()
            summary = (
                f"{len(self.lrs)} rungs from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}, "
                f"{self.stop_reason}; lowest smoothed loss {self.smoothed[low]:.3g} at "
                f"{self.lrs[low]:.3g}"
            )
        if self.skipped:
            summary += f"; {self.skipped} fp16 steps skipped"
        rows: list[list[object]] = [[m, self.suggest(m), self.explain(m)] for m in METHODS]
        return summary, ["method", "lr", "why"], rows

    def to_dict(self) -> dict[str, object]:
        """Every field, and each method's suggestion, as plain JSON."""
        return super().to_dict() | {"suggestions": {m: self.suggest(m) for m in METHODS}}

    def record(self, lrs: list[float], loss: float) -> None:
        """Add a rung."""
        self.lrs.append(lrs[0])
        self.group_lrs.append(lrs)
        self.losses.append(loss)
        # The bias of an average that starts at zero, taken out by its own count. Written as a step
        # towards the loss, it stays exactly where it is when the loss is constant.
        weight = (1 - self.smoothing) / (1 - self.smoothing ** len(self.losses))
        before = self.smoothed[-1] if self.smoothed else loss
        self.smoothed.append(before + weight * (loss - before))

    def has_diverged(self, stop_factor: float) -> bool:
        """Whether the smoothed loss has risen from its lowest by that many times the range so far.

        Differences only, so a loss at or below zero is like any other.
        """
        if len(self.losses) <= FEWEST or self.smoothed[-1] <= self.smoothed[-2]:
            return False
        low = self._bottom()
        spread = max(self.losses[: max(low + 1, FEWEST)]) - self.smoothed[low]
        return self.smoothed[-1] - self.smoothed[low] > stop_factor * spread

    def _find(self, method: str) -> tuple[float | None, str]:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        problem = self._problem()
        return (None, f"No suggestion: {problem}") if problem else METHODS[method](self)

    def _problem(self) -> str:
        """Why no method can suggest anything from this curve, or nothing."""
        if len(self.losses) < FEWEST:
            return f"{len(self.losses)} rungs are too few, it takes {FEWEST}."
        low = self._bottom()
        seen = self.losses[: max(low + 1, FEWEST)]
        # How far a loss lies from its neighbours' mean: a steady fall is no noise.
        noise = median(
            abs(b - (a + c) / 2) for a, b, c in zip(seen, seen[1:], seen[2:], strict=False)
        )
        if low == 0 or self._start() - self.smoothed[low] <= 2 * noise:
            return "the loss falls by less than twice its noise. Does the model learn?"
        return ""

    def _start(self) -> float:
        """The loss from which the curve falls."""
        return median(self.losses[:FEWEST])

    def _bottom(self) -> int:
        """The rung of the lowest smoothed loss."""
        return self.smoothed.index(min(self.smoothed))


def _floor(curve: LRCurve) -> tuple[float | None, str]:
    ratio = (curve.lrs[-1] / curve.lrs[0]) ** (1 / (len(curve.lrs) - 1))
    half = int(math.log(math.sqrt(10), ratio))  # rungs in half a decade
    sides = range(len(curve.losses))
    averaged = [fmean(curve.losses[max(0, i - half) : i + half + 1]) for i in sides]
    level = min(averaged) + 0.2 * (curve._start() - min(averaged))
    floor = [i for i, loss in enumerate(averaged) if loss <= level]
    if not floor or floor[0] == 0:
        why = "averaged over a decade of lrs, the loss is not seen to fall"
        return None, f"No suggestion: {why}. Lower min_lr, or give more rungs, {TO_SEE}."
    middle = curve.lrs[0] * ratio ** median(floor)
    back = min(ratio**4, 10)
    lr = min(middle / back, curve.lrs[curve._bottom()])
    how = f"a factor of {middle / lr:.2g} below the middle of the valley's floor, {middle:.3g}"
    return _within(curve, lr, last=floor[-1], how=how)


def _steepest(curve: LRCurve) -> tuple[float | None, str]:
    log_lrs = [math.log(lr) for lr in curve.lrs]
    last = min(curve._bottom(), len(curve.lrs) - 2)
    slopes = {
        i: (curve.smoothed[i + 1] - curve.smoothed[i - 1]) / (log_lrs[i + 1] - log_lrs[i - 1])
        for i in range(1, last + 1)
    }
    steepest = min(slopes, key=slopes.__getitem__)
    if steepest == 1:
        return None, f"No suggestion: the loss falls fastest at the start. Lower min_lr, {TO_SEE}."
    how = "where the smoothed loss falls fastest"
    return _within(curve, curve.lrs[steepest], last=steepest + 1, how=how)


def _minimum(curve: LRCurve) -> tuple[float | None, str]:
    low = curve._bottom()
    how = f"a tenth of {curve.lrs[low]:.3g}, where the smoothed loss is lowest"
    return _within(curve, curve.lrs[low] / 10, last=low, how=how)


def _within(curve: LRCurve, lr: float, *, last: int, how: str) -> tuple[float | None, str]:
    """The suggestion, unless the curve ends before all that it rests on (up to `last`) is seen."""
    if last == len(curve.lrs) - 1 and curve.stop_reason == "finished":
        return (
            None,
            f"No suggestion: the loss is still low at the last rung. Raise max_lr, {TO_SEE}.",
        )
    if last == len(curve.lrs) - 1 and curve.stop_reason == "exhausted":
        return None, "No suggestion: the batches ended before the loss rose. Give more of them."
    if lr <= curve.lrs[0]:
        return (
            None,
            f"No suggestion: the loss falls too close to the first rung. Lower min_lr, {TO_SEE}.",
        )
    return lr, f"{lr:.3g}: {how}."


TO_SEE = "to see the whole valley"
METHODS: dict[str, Callable[[LRCurve], tuple[float | None, str]]] = {
    "floor": _floor,
    "steepest": _steepest,
    "minimum": _minimum,
}
