"""What a gap between running and batch statistics means: fresh, stale, too early, noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nbkit.base.nested import list_tensors
from nbkit.batchnorm.moments import Moments, running

_CLOSE = 0.15  # a smaller gap is not worth a word
_NOISY = 0.25  # standard error of a mean, in standard deviations, from which a batch tells nothing
_FEW = 0.05  # what may be left of the initial 0 and 1

NO_STATISTICS = (
    "no running statistics (track_running_stats=False): it normalises by the batch at hand, in "
    "eval mode too; build it with track_running_stats=True if predictions must not depend on "
    "their batch"
)


def judge(
    moments: Moments, noises: list[Tensor], frozen: bool
) -> tuple[float | None, float | None, str]:
    """Mean gap, variance gap and verdict of a layer that has seen one batch."""
    if moments.layer.running_mean is None:
        return None, None, NO_STATISTICS
    if not moments.count:
        return None, None, "not called with this batch"
    mean_noise, var_noise, independent = torch.stack(noises).mean(0).tolist()
    mean_gap, var_gap = gaps(moments)
    within = _within(mean_gap, mean_noise, independent) and _within(var_gap, var_noise, independent)
    tells = mean_noise <= _NOISY**2
    return mean_gap, var_gap, _verdict(moments, mean_gap, var_gap, within, tells, frozen)


def _within(gap: float, squared_noise: float, independent: float) -> bool:
    """Whether a gap is too small to matter, or no larger than noise makes it now and then."""
    return gap <= max(_CLOSE, math.sqrt(squared_noise) * (1 + 2 / math.sqrt(2 * independent)))


def gaps(moments: Moments) -> tuple[float, float]:
    """From the running statistics to those in `moments`, root mean square over channels."""
    eps = moments.layer.eps
    mean, var = running(moments.layer)
    scale = moments.var + eps
    mean = (mean - moments.mean).square() / scale
    var = ((var + eps) / scale).log().square()
    return mean.mean().sqrt().item(), var.mean().sqrt().item()


def _verdict(
    moments: Moments, mean_gap: float, var_gap: float, within: bool, tells: bool, frozen: bool
) -> str:
    layer = moments.layer
    if not running(layer).isfinite().all() or (running(layer)[1] < 0).any():
        return (
            "poisoned by non-finite values: the running statistics hold NaN, inf or a negative "
            "variance and never recover; run reestimate_bn_ on clean data, and train with guard_bn"
        )
    if not math.isfinite(mean_gap + var_gap):
        return "the batch is not finite here: look for NaN or inf in it and in the weights before"
    if within and not tells:
        return (
            "batch too small: its statistics are too noisy to tell, and to train on; take a "
            "larger batch, or GroupNorm"
        )
    if within:
        return "frozen, and fresh" if frozen else "fresh"
    off = (
        f"the mean is off by {mean_gap:.2g} standard deviations, the variance by a factor of "
        f"{math.exp(min(var_gap, 99.0)):.2g}"
    )
    if frozen:
        return f"frozen at other data's statistics: {off}; right only if the freeze is on purpose"
    steps = int(layer.num_batches_tracked)
    left = 0.0 if layer.momentum is None else (1 - layer.momentum) ** steps
    if left > _FEW:
        return (
            f"too few steps for this momentum: after {steps} at {layer.momentum:g}, {left:.0%} of "
            f"the initial 0 and 1 is left ({off}); run reestimate_bn_, or raise the momentum"
        )
    return f"stale: {off}; run reestimate_bn_, and look whether train and eval data differ"


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
