"""Judge the gap between running and batch statistics: fresh, stale, too early, noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nbkit.base.nested import list_tensors
from nbkit.base.report import Word
from nbkit.batchnorm.moments import Moments, running

_CLOSE = 0.15  # a smaller gap is not worth a word
_NOISY = 0.25  # standard error of a mean, in standard deviations, from which a batch tells nothing
_FEW = 0.05  # what may be left of the initial 0 and 1
# The initial 0 and 1 are to blame for a gap if, with them taken into account, no more than half of
# it is left, and no more than this: so far do the layers before move in a few steps of training.
_DRIFT = 0.35


class BNVerdict(Word):
    """What there is to say of one BatchNorm layer."""

    FRESH = "fresh"
    STALE = "stale"
    TOO_FEW_STEPS = "too few steps"
    BATCH_TOO_SMALL = "batch too small"
    FROZEN = "frozen"
    POISONED = "poisoned"
    NOT_FINITE = "not finite"
    NO_STATISTICS = "no statistics"
    NOT_CALLED = "not called"
    ESTIMATED = "estimated"


NO_STATISTICS = (
    BNVerdict.NO_STATISTICS,
    "It has no running statistics (track_running_stats=False) and normalises by the batch at "
    "hand, in eval mode too. Build it with track_running_stats=True if predictions must not "
    "depend on their batch.",
)


def judge(
    moments: Moments, noises: list[Tensor], frozen: bool
) -> tuple[float | None, float | None, BNVerdict, str]:
    """Return mean gap, variance gap, verdict and advice of a layer that has seen one batch."""
    if moments.layer.running_mean is None:
        return None, None, *NO_STATISTICS
    if not moments.count:
        return None, None, BNVerdict.NOT_CALLED, "The model did not call it with this batch."
    mean_noise, var_noise, independent = torch.stack(noises).mean(0).tolist()
    mean_gap, var_gap = gaps(moments, *running(moments.layer))
    within = _within(mean_gap, mean_noise, independent) and _within(var_gap, var_noise, independent)
    tells = mean_noise <= _NOISY**2
    return mean_gap, var_gap, *_verdict(moments, mean_gap, var_gap, within, tells, frozen)


def _within(gap: float, squared_noise: float, independent: float) -> bool:
    """Whether a gap is too small to matter, or no larger than noise makes it now and then."""
    return gap <= max(_CLOSE, math.sqrt(squared_noise) * (1 + 2 / math.sqrt(2 * independent)))


def gaps(moments: Moments, mean: Tensor, var: Tensor) -> tuple[float, float]:
    """Measure from a mean and a variance to those in `moments`, root mean square over channels."""
    eps = moments.layer.eps
    scale = moments.var + eps
    mean = (mean - moments.mean).square() / scale
    var = ((var + eps) / scale).log().square()
    return mean.mean().sqrt().item(), var.mean().sqrt().item()


def _verdict(
    moments: Moments, mean_gap: float, var_gap: float, within: bool, tells: bool, frozen: bool
) -> tuple[BNVerdict, str]:
    layer = moments.layer
    if not running(layer).isfinite().all() or (running(layer)[1] < 0).any():
        return BNVerdict.POISONED, (
            "The running statistics hold NaN, inf or a negative variance and never recover. Run "
            "reestimate_bn_ on clean data, and train with guard_bn."
        )
    if not math.isfinite(mean_gap + var_gap):
        return BNVerdict.NOT_FINITE, (
            "The layer's input is not finite. Look for NaN or inf in the batch and in the weights "
            "before the layer."
        )
    if within and not tells:
        return BNVerdict.BATCH_TOO_SMALL, (
            "The batch's statistics are too noisy to judge by, and to train on. Take a larger "
            "batch, or GroupNorm."
        )
    if within:
        return BNVerdict.FRESH, "Frozen, at statistics that fit this batch." if frozen else ""
    off = (
        f"The mean is off by {mean_gap:.2g} standard deviations, the variance by a factor of "
        f"{math.exp(min(var_gap, 99.0)):.2g}"
    )
    if frozen:
        return BNVerdict.FROZEN, (
            f"{off}: the statistics are those of other data, and stay. That is right only if the "
            f"freeze is on purpose."
        )
    left = _share_of_start(layer)
    if left > _FEW and _explains_gap(moments, left, mean_gap, var_gap):
        momentum = "None" if layer.momentum is None else f"{layer.momentum:g}"
        return BNVerdict.TOO_FEW_STEPS, (
            f"{off}: after {int(layer.num_batches_tracked or 0)} steps at momentum {momentum}, "
            f"{left:.0%} of the initial 0 and 1 is left. Run reestimate_bn_, or raise the momentum."
        )
    return BNVerdict.STALE, (
        f"{off}. Look whether train and eval data differ; if not, run reestimate_bn_."
    )


def _share_of_start(layer: Any) -> float:
    """Return how much of the initial 0 and 1 is left, if the counter counts all updates."""
    steps = int(layer.num_batches_tracked or 0)
    if layer.momentum is None:  # a cumulative average keeps nothing of them
        return 0.0 if steps else 1.0
    return (1 - layer.momentum) ** steps


def _explains_gap(moments: Moments, left: float, mean_gap: float, var_gap: float) -> bool:
    """Whether a gap comes from the initial 0 and 1, rather than from other data.

    The counter alone proves nothing: an old checkpoint has none, and after a re-estimation it
    counts few batches, although nothing of the start is left.
    """
    mean, var = running(moments.layer)
    if left == 1:
        return not mean.any() and bool((var == 1).all())
    # What updates with this batch, again and again, would have made of 0 and 1.
    expected_mean = (1 - left) * moments.mean
    expected_var = left + (1 - left) * moments.var
    eps = moments.layer.eps
    mean_rest = (mean - expected_mean).square() / (moments.var + eps)
    var_rest = ((var + eps) / (expected_var + eps)).log().square()
    return all(
        rest.mean().sqrt().item() <= max(_CLOSE, min(gap / 2, _DRIFT))
        for rest, gap in ((mean_rest, mean_gap), (var_rest, var_gap))
    )


def difference(a: object, b: object) -> float | None:
    """Norm of the difference over norm of the first, over all tensors in two outputs."""
    floats = ([t for t in list_tensors(x) if t.is_floating_point()] for x in (a, b))
    pairs = list(zip(*floats, strict=True))
    if not pairs:
        return None
    apart = math.hypot(*((x.cpu().double() - y.cpu().double()).norm().item() for x, y in pairs))
    size = math.hypot(*(x.cpu().double().norm().item() for x, _ in pairs))
    if size == 0:
        return math.inf if apart else 0.0
    return apart / size


def noise(x: Tensor, eps: float) -> Tensor:
    """How far one batch's statistics may be from the population's: three numbers.

    Squared standard errors of the mean and of the variance, in the units of the gaps, averaged
    over channels; and how many independent channels the channels are worth. Samples count as
    independent, positions inside a sample do not.
    """
    x = x.float().reshape(*x.shape[:2], -1)
    if len(x) < 2:
        return x.new_tensor([math.inf, math.inf, 1.0])
    rest = x - x.mean((0, 2), keepdim=True)
    scale = rest.square().mean((0, 2)) + eps
    level = rest.mean(2) / scale.sqrt()
    spread = rest.square().mean(2) / scale
    correlation = level.T @ level
    independent = (correlation.trace().square() / correlation.square().sum()).nan_to_num(1.0)
    return torch.stack([level.var(0).mean() / len(x), spread.var(0).mean() / len(x), independent])
