"""Suggest a learning rate from the curve of a range test, or explain why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

from nbkit.base.report import Word

if TYPE_CHECKING:
    from nbkit.lr_finder.curve import LRCurve

# Fewer rungs show neither the level from which the loss falls nor its noise.
MIN_RUNGS = 10

_WIDER_LADDER = "to see the whole valley"


class StopReason(Word):
    """Name the reason why a range test ended."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"
    EXHAUSTED = "exhausted"


class LRSuggestion(NamedTuple):
    """Hold a learning rate, or None, and one sentence on how it was found or why there is none."""

    lr: float | None
    why: str


def find_suggestion(curve: LRCurve, method: str) -> LRSuggestion:
    """Find the learning rate that a method suggests from a curve.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    problem = _find_curve_problem(curve)
    suggestion = _decline(problem) if problem else METHODS[method](curve)
    if suggestion.lr is None and curve.stop_reason is StopReason.NONFINITE:
        # Another ladder does not help against NaN, so only what ended the run is explained.
        return _decline(_explain_nonfinite(curve))
    return suggestion


def _decline(why: str) -> LRSuggestion:
    """Return the suggestion of no learning rate."""
    return LRSuggestion(None, f"No suggestion: {why}")


def _find_curve_problem(curve: LRCurve) -> str:
    """Explain why no method can suggest anything from this curve; empty if one can."""
    if len(curve.losses) < MIN_RUNGS:
        too_few = f"{len(curve.losses)} rungs are too few, it takes {MIN_RUNGS}."
        return f"{too_few} {_advise_more_rungs(curve)}".strip()
    lowest = curve.lowest_rung
    drop = _find_start_level(curve) - curve.smoothed[lowest]
    # Beyond the lowest loss the training breaks, which is not noise.
    noise = _estimate_loss_noise(curve.losses[: max(lowest + 1, MIN_RUNGS)])
    if lowest == 0 or drop <= 2 * noise:
        return "the loss falls by less than twice its noise. Does the model learn?"
    return ""


def _estimate_loss_noise(losses: list[float]) -> float:
    """Return the median distance of a loss from the mean of its neighbours.

    A loss that falls steadily has no noise by this measure.
    """
    distances = []
    for before, loss, after in zip(losses, losses[1:], losses[2:], strict=False):
        distances.append(abs(loss - (before + after) / 2))
    return median(distances)


def _find_start_level(curve: LRCurve) -> float:
    """Return the level from which the loss falls: the median of the first rungs."""
    return median(curve.losses[:MIN_RUNGS])


def _advise_more_rungs(curve: LRCurve) -> str:
    """Say how to get more rungs; empty if more rungs would not help."""
    if curve.stop_reason is StopReason.EXHAUSTED:
        return "The batches ended: give more of them."
    if curve.stop_reason is StopReason.FINISHED:
        return f"Give num_steps of at least {MIN_RUNGS}."
    return ""


def _explain_nonfinite(curve: LRCurve) -> str:
    """Say where to look for the NaN or infinity that ended the run."""
    what = "loss"
    if curve.skipped:
        what = f"loss or the gradients ({curve.skipped} fp16 steps skipped)"
    if not curve.lrs:
        return (
            f"the {what} held NaN or infinity before any update. Look for it in the batches, "
            f"the weights and the loss; find_nonfinite names the place."
        )
    return (
        f"the {what} held NaN or infinity after {len(curve.lrs)} rungs, the last at "
        f"{curve.lrs[-1]:.3g}. Either a batch holds it (find_nonfinite names the place), or this "
        f"lr is already too high: then lower min_lr."
    )


def _suggest_floor(curve: LRCurve) -> LRSuggestion:
    """Go back from the middle of the valley's floor by four rungs, or by a factor of 10 at most."""
    ratio = (curve.lrs[-1] / curve.lrs[0]) ** (1 / (len(curve.lrs) - 1))
    averaged = _average_over_decade(curve.losses, ratio)
    # The floor: every rung whose averaged loss is within a fifth of the drop of the lowest.
    lowest = min(averaged)
    level = lowest + 0.2 * (_find_start_level(curve) - lowest)
    floor = [rung for rung, loss in enumerate(averaged) if loss <= level]
    # A floor that begins at the first rung has no fall before it.
    if not floor or floor[0] == 0:
        return _decline(
            f"averaged over a decade of lrs, the loss is not seen to fall. Lower min_lr, or give "
            f"more rungs, {_WIDER_LADDER}."
        )
    # Rungs are equal steps in log(lr), so half a rung has an lr as well.
    middle = curve.lrs[0] * ratio ** median(floor)
    lr = middle / min(ratio**4, 10)
    # Never suggest an lr beyond the lowest loss: there the training already breaks.
    lr = min(lr, curve.lrs[curve.lowest_rung])
    how = f"a factor of {middle / lr:.2g} below the middle of the valley's floor, {middle:.3g}"
    return _suggest_if_seen(curve, lr, last=floor[-1], how=how)


def _average_over_decade(losses: list[float], ratio: float) -> list[float]:
    """Average each loss with those within half a decade of lrs to both sides.

    Unlike the moving average, this does not lag behind the losses.

    Args:
        losses: one loss per rung.
        ratio: lr of a rung over the lr of the rung before.
    """
    half = int(math.log(math.sqrt(10), ratio))  # rungs in half a decade
    averaged = []
    for rung in range(len(losses)):
        first = max(0, rung - half)
        averaged.append(fmean(losses[first : rung + half + 1]))
    return averaged


def _suggest_steepest(curve: LRCurve) -> LRSuggestion:
    """Suggest the lr where the smoothed loss falls fastest per factor of lr."""
    # Both neighbours of a rung are needed; beyond the lowest loss nothing falls any more.
    last = min(curve.lowest_rung, len(curve.lrs) - 2)
    steepest, lowest_slope = 1, math.inf
    for rung in range(1, last + 1):
        # Central difference of the loss over log(lr).
        rise = curve.smoothed[rung + 1] - curve.smoothed[rung - 1]
        slope = rise / (math.log(curve.lrs[rung + 1]) - math.log(curve.lrs[rung - 1]))
        if slope < lowest_slope:
            steepest, lowest_slope = rung, slope
    # If the first slope is the steepest, a steeper one may lie before the ladder.
    if steepest == 1:
        return _decline(f"the loss falls fastest at the start. Lower min_lr, {_WIDER_LADDER}.")
    how = "where the smoothed loss falls fastest"
    return _suggest_if_seen(curve, curve.lrs[steepest], last=steepest + 1, how=how)


def _suggest_minimum(curve: LRCurve) -> LRSuggestion:
    """Suggest a tenth of the lr where the smoothed loss is lowest."""
    lowest = curve.lowest_rung
    how = f"a tenth of {curve.lrs[lowest]:.3g}, where the smoothed loss is lowest"
    return _suggest_if_seen(curve, curve.lrs[lowest] / 10, last=lowest, how=how)


def _suggest_if_seen(curve: LRCurve, lr: float, *, last: int, how: str) -> LRSuggestion:
    """Suggest the lr, unless the curve ends before everything that it rests on is seen.

    Args:
        curve: the curve of the run.
        lr: the candidate.
        last: the last rung that the candidate was derived from.
        how: how it was derived, for the explanation.
    """
    # A run that diverged or met NaN has seen the end of its valley.
    is_cut_off = last == len(curve.lrs) - 1
    if is_cut_off and curve.stop_reason is StopReason.FINISHED:
        return _decline(f"the loss is still low at the last rung. Raise max_lr, {_WIDER_LADDER}.")
    if is_cut_off and curve.stop_reason is StopReason.EXHAUSTED:
        return _decline("the batches ended before the loss rose. Give more of them.")
    if lr <= curve.lrs[0]:
        return _decline(
            f"the loss falls too close to the first rung. Lower min_lr, {_WIDER_LADDER}."
        )
    return LRSuggestion(lr, f"{lr:.3g}: {how}.")


METHODS: dict[str, Callable[[LRCurve], LRSuggestion]] = {
    "floor": _suggest_floor,
    "steepest": _suggest_steepest,
    "minimum": _suggest_minimum,
}
