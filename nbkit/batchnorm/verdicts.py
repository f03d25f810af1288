"""Judge the gap between running and batch statistics: fresh, stale, too few steps, or noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbkit.batchnorm.layers import read_statistics
from nbkit.batchnorm.moments import Moments
from nbkit.batchnorm.report import NO_STATISTICS_ADVICE, BNLayer, BNVerdict

_CLOSE = 0.15  # a smaller gap does not matter
_NOISY = 0.25  # standard error of a mean, in standard deviations, above which a batch shows nothing
_FEW = 0.05  # share of the initial 0 and 1 that may be left
# The initial 0 and 1 explain a gap if, with them taken into account, no more than half of it is
# left, and no more than this: in a few steps of training the earlier layers move about so far.
_DRIFT = 0.35


@dataclass
class _Gap:
    """Hold the gap of one layer, and what is known about its noise.

    Attributes:
        mean: root mean square gap of the means, in standard deviations.
        var: root mean square of |log(ratio)| of the variances.
        is_small: whether both gaps are too small to matter, or explained by the batch's noise.
        is_telling: whether the batch is large enough to judge by.
    """

    mean: float
    var: float
    is_small: bool
    is_telling: bool


def judge_layer(name: str, moments: Moments, noises: list[Tensor], frozen: bool) -> BNLayer:
    """Judge a layer that has seen one batch.

    Args:
        name: name of the layer.
        moments: moments of its inputs.
        noises: for each of its inputs, the three numbers of `_estimate_batch_noise` in gap.py.
        frozen: whether the layer is frozen.
    """
    if moments.layer.running_mean is None:
        return BNLayer(name, None, None, BNVerdict.NO_STATISTICS, NO_STATISTICS_ADVICE)
    if not moments.count:
        advice = "The model did not call it with this batch."
        return BNLayer(name, None, None, BNVerdict.NOT_CALLED, advice)
    # A layer may be called several times in one pass: average over the calls.
    mean_noise, var_noise, independent = torch.stack(noises).mean(0).tolist()
    mean_gap, var_gap = measure_gaps(moments, *read_statistics(moments.layer))
    is_small = mean_gap <= _bound_noise(mean_noise, independent)
    is_small = is_small and var_gap <= _bound_noise(var_noise, independent)
    gap = _Gap(mean_gap, var_gap, is_small, is_telling=mean_noise <= _NOISY**2)
    return BNLayer(name, mean_gap, var_gap, *_choose_verdict(moments, gap, frozen))


def _bound_noise(squared_noise: float, independent: float) -> float:
    """Return the gap that noise reaches now and then, or the gap that does not matter if larger.

    A root mean square over `independent` channels has a relative standard deviation of about
    1 / sqrt(2 independent); two of these are allowed.
    """
    return max(_CLOSE, math.sqrt(squared_noise) * (1 + 2 / math.sqrt(2 * independent)))


def measure_gaps(moments: Moments, mean: Tensor, var: Tensor) -> tuple[float, float]:
    """Return the gaps from a mean and a variance to those in `moments`.

    Args:
        moments: moments of what a layer has seen.
        mean: shape (channels,), float64.
        var: shape (channels,), float64.
    """
    eps = moments.layer.eps
    scale = moments.population_var + eps
    squared_mean_gap = (mean - moments.mean).square() / scale
    squared_var_gap = ((var + eps) / scale).log().square()
    return _root_mean(squared_mean_gap), _root_mean(squared_var_gap)


def _root_mean(squares: Tensor) -> float:
    """Return the root of the mean over channels."""
    return squares.mean().sqrt().item()


def _choose_verdict(moments: Moments, gap: _Gap, frozen: bool) -> tuple[BNVerdict, str]:
    """Return the verdict on a layer, and advice."""
    statistics = read_statistics(moments.layer)
    # This comes first, because NaN makes every gap NaN.
    if not statistics.isfinite().all() or (statistics[1] < 0).any():
        return BNVerdict.POISONED, (
            "The running statistics hold NaN, inf or a negative variance and never recover. Run "
            "reestimate_bn_ on clean data, and train with guard_bn."
        )
    if not math.isfinite(gap.mean + gap.var):
        return BNVerdict.NOT_FINITE, (
            "The layer's input is not finite. Look for NaN or inf in the batch and in the weights "
            "before the layer."
        )
    if gap.is_small and not gap.is_telling:
        return BNVerdict.BATCH_TOO_SMALL, (
            "The batch's statistics are too noisy to judge by, and to train on. Take a larger "
            "batch, or GroupNorm."
        )
    if gap.is_small:
        return BNVerdict.FRESH, "Frozen, at statistics that fit this batch." if frozen else ""
    return _choose_cause(moments, gap, frozen)


def _choose_cause(moments: Moments, gap: _Gap, frozen: bool) -> tuple[BNVerdict, str]:
    """Return the verdict on a layer whose gap is large, by the cause of the gap."""
    layer = moments.layer
    # A variance that is infinitely far off would overflow the exponential.
    off = (
        f"The mean is off by {gap.mean:.2g} standard deviations, the variance by a factor of "
        f"{math.exp(min(gap.var, 99.0)):.2g}"
    )
    if frozen:
        return BNVerdict.FROZEN, (
            f"{off}: the statistics are those of other data, and stay. That is right only if the "
            f"freeze is on purpose."
        )
    left = _find_share_of_start(layer)
    if left > _FEW and _explains_gap(moments, left, gap):
        momentum = "None" if layer.momentum is None else f"{layer.momentum:g}"
        return BNVerdict.TOO_FEW_STEPS, (
            f"{off}: after {int(layer.num_batches_tracked or 0)} steps at momentum {momentum}, "
            f"{left:.0%} of the initial 0 and 1 is left. Run reestimate_bn_, or raise the momentum."
        )
    return BNVerdict.STALE, (
        f"{off}. Look whether train and eval data differ; if not, run reestimate_bn_."
    )


def _find_share_of_start(layer: Any) -> float:
    """Return how much of the initial 0 and 1 is left, if the counter counts all updates."""
    steps = int(layer.num_batches_tracked or 0)
    if layer.momentum is None:  # a cumulative average: the first update replaces the start
        return 0.0 if steps else 1.0
    remaining: float = (1 - layer.momentum) ** steps
    return remaining


def _explains_gap(moments: Moments, left: float, gap: _Gap) -> bool:
    """Return whether a gap comes from the initial 0 and 1, and not from other data.

    The counter alone proves nothing: an old checkpoint has none, and after a re-estimation it
    counts few batches although nothing of the start is left.

    Args:
        moments: moments of the batch.
        left: share of the initial 0 and 1 that is left according to the counter.
        gap: the gap to explain.
    """
    mean, var = read_statistics(moments.layer)
    # Without an update the statistics must still be the initial ones.
    if left == 1:
        return not mean.any() and bool((var == 1).all())
    # The statistics after as many updates with this batch, beginning from 0 and 1.
    expected_mean = (1 - left) * moments.mean
    expected_var = left + (1 - left) * moments.population_var
    eps = moments.layer.eps
    mean_rest = _root_mean((mean - expected_mean).square() / (moments.population_var + eps))
    var_rest = _root_mean(((var + eps) / (expected_var + eps)).log().square())
    return mean_rest <= _bound_rest(gap.mean) and var_rest <= _bound_rest(gap.var)


def _bound_rest(gap: float) -> float:
    """Return how much of a gap may stay unexplained."""
    return max(_CLOSE, min(gap / 2, _DRIFT))
