"""The curve of a learning-rate range test: the losses along the ladder of learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbkit.base.report import Report, ensure_axes
from nbkit.lr_finder.suggest import METHODS, MIN_RUNGS, StopReason, find_suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class LRCurve(Report):
    """Record losses along a ladder of learning rates.

    Attributes:
        lrs: lrs of the first parameter group, as the updates used them, one per rung.
        group_lrs: lrs of all groups, one list per rung.
        losses: loss of each rung before its update; with accumulation, the window's mean.
        smoothed: exponential moving average of the losses, debiased.
        stop_reason: a StopReason: FINISHED, DIVERGED, NONFINITE (the next loss was NaN or
            infinite, or the scaler skipped one step after another) or EXHAUSTED (no batches left).
            A plain word such as "finished" is accepted too; None while the run is not over.
        skipped: number of fp16 steps that the scaler skipped; they have no rung.
        smoothing: weight of the past in the moving average.
    """

    lrs: list[float] = field(default_factory=list)
    group_lrs: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    stop_reason: StopReason | None = None
    skipped: int = 0
    smoothing: float = 0.9

    def __post_init__(self) -> None:
        if self.stop_reason is not None:
            # Accept the plain word, as `to_dict` gives it.
            self.stop_reason = StopReason(self.stop_reason)

    def suggest(self, method: str = "floor") -> float | None:
        """Suggest a learning rate to train with, or None; `explain` gives the reason.

        Args:
            method:
                "floor": average the losses over a decade of lrs, so that nothing lags. The valley's
                floor is where this average is within a fifth of the drop of its lowest value. From
                the middle of the floor go back four rungs, but no further than a factor of 10.
                "steepest": where the smoothed loss falls fastest per factor of lr.
                "minimum": a tenth of the lr where the smoothed loss is lowest.
        Raises:
            ValueError: if there is no such method.

        "floor" goes back because a training breaks only some steps after its lr becomes too high,
        and the ladder climbs on in the meantime.

        "floor" is the default because of `benchmarks/lr_suggestion.py`, for trainings as long as
        the test, about a hundred steps; a much longer training may need a lower lr. No lr after the
        minimum is suggested, and none from a curve that is flat, noisy or cut off before the end
        of its floor.
        """
        return find_suggestion(self, method).lr

    def explain(self, method: str = "floor") -> str:
        """Explain in one sentence how that suggestion was found, or why there is none."""
        return find_suggestion(self, method).why

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw losses and smoothed losses against lr, with the suggestion; return the axes."""
        ax = ensure_axes(ax)
        ax.plot(self.lrs, self.losses, color="0.7", linewidth=0.8, label="loss")
        ax.plot(self.lrs, self.smoothed, color="#0072B2", linewidth=2, label="smoothed")
        lr = self.suggest()
        if lr is not None:
            ax.axvline(lr, color="#D55E00", label="suggested")
            top = ax.get_xaxis_transform()  # lr along x, the height of the axes along y
            text = ax.text(lr, 0.97, f"suggested {lr:.3g} ", transform=top, color="#D55E00")
            text.set(ha="right", va="top")
        if self.losses:
            # Fit the axis to the valley: the losses beyond it may be a thousand times higher.
            low, high = min(self.losses), max(self.losses[:MIN_RUNGS])
            # The last term gives the axis a height if all losses are equal.
            ax.set_ylim(low - 0.1 * (high - low), high + (high - low) + 1e-12)
        ax.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        return ax

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """Return a line about the run, the names of the columns, and one row per method."""
        ended = self.stop_reason or "not ended"
        summary = f"{len(self.lrs)} rungs, {ended}"
        if self.lrs:
            lowest = self.lowest_rung
            summary = (
                f"{len(self.lrs)} rungs from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}, "
                f"{ended}; lowest smoothed loss {self.smoothed[lowest]:.3g} at "
                f"{self.lrs[lowest]:.3g}"
            )
        if self.skipped:
            summary += f"; {self.skipped} fp16 steps skipped"
        rows: list[list[object]] = []
        for method in METHODS:
            rows.append([method, self.suggest(method), self.explain(method)])
        return summary, ["method", "lr", "why"], rows

    def to_dict(self) -> dict[str, object]:
        """Return every field, and each method's suggestion, as plain JSON."""
        suggestions = {method: self.suggest(method) for method in METHODS}
        return super().to_dict() | {"suggestions": suggestions}

    def record(self, lrs: list[float], loss: float) -> None:
        """Add a rung: the lrs of all groups and the loss."""
        self.lrs.append(lrs[0])
        self.group_lrs.append(lrs)
        self.losses.append(loss)
        # With s = smoothing, the debiased average of n losses is
        #     average_n = sum_i (1 - s) s^(n - i) loss_i / (1 - s^n).
        # Written as a step towards the new loss, it stays exactly the same for a constant loss.
        weight = (1 - self.smoothing) / (1 - self.smoothing ** len(self.losses))
        before = self.smoothed[-1] if self.smoothed else loss
        self.smoothed.append(before + weight * (loss - before))

    @property
    def lowest_rung(self) -> int:
        """Return the index of the lowest smoothed loss."""
        return self.smoothed.index(min(self.smoothed))

    def has_diverged(self, stop_factor: float) -> bool:
        """Return whether the smoothed loss has risen too far above its lowest value.

        Args:
            stop_factor: the allowed rise, in multiples of the range of the losses up to there.

        Only differences of losses are compared, so losses at or below zero need no special care.
        """
        # With few rungs the range so far is mostly noise.
        if len(self.losses) <= MIN_RUNGS:
            return False
        # A loss that is falling may still recover.
        if self.smoothed[-1] <= self.smoothed[-2]:
            return False
        lowest = self.lowest_rung
        # Include the first rungs, in case the very first one is the lowest.
        loss_range = max(self.losses[: max(lowest + 1, MIN_RUNGS)]) - self.smoothed[lowest]
        return self.smoothed[-1] - self.smoothed[lowest] > stop_factor * loss_range
