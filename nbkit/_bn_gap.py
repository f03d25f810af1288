"""What a gap between running and batch statistics means: fresh, stale, too early, noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nbkit._bn_moments import Moments, running

_CLOSE = 0.1  # a smaller gap is not worth a word
_NOISY = 0.25  # standard error of a mean, in standard deviations, from which a batch tells nothing
_FEW = 0.05  # what may be left of the initial 0 and 1

NO_STATISTICS = (
    "no running statistics (track_running_stats=False): it normalises by the batch at hand, in "
    "eval mode too; build it with track_running_stats=True if predictions must not depend on "
    "their batch"
)


def judge(
    moments: Moments, errors: list[Tensor], frozen: bool
) -> tuple[float | None, float | None, str]:
    """Mean gap, variance gap and verdict of a layer that has seen one batch."""
    if moments.layer.running_mean is None:
        return None, None, NO_STATISTICS
    if not moments.count:
        return None, None, "not called with this batch"
    mean_error, var_error = torch.stack(errors).cpu().double().mean(0)
    scale = moments.var + moments.layer.eps
    mean_noise = (mean_error / scale).mean().sqrt().item()
    var_noise = (var_error / scale.square()).mean().sqrt().item()
    mean_gap, var_gap = gaps(moments)
    verdict = _verdict(moments, (mean_gap, mean_noise), (var_gap, var_noise), frozen)
    return mean_gap, var_gap, verdict


def gaps(moments: Moments) -> tuple[float, float]:
    """From the running statistics to those in `moments`, root mean square over channels."""
    eps = moments.layer.eps
    mean, var = running(moments.layer)
    scale = moments.var + eps
    mean = (mean - moments.mean).square() / scale
    var = ((var + eps) / scale).log().square()
    return mean.mean().sqrt().item(), var.mean().sqrt().item()


def _verdict(
    moments: Moments, mean: tuple[float, float], var: tuple[float, float], frozen: bool
) -> str:
    """In words; `mean` and `var` are a gap and the noise of a gap each."""
    layer = moments.layer
    if not running(layer).isfinite().all() or (running(layer)[1] < 0).any():
        return (
            "poisoned by non-finite values: the running statistics hold NaN, inf or a negative "
            "variance and never recover; run reestimate_bn_ on clean data, and train with guard_bn"
        )
    if not math.isfinite(mean[0] + var[0]):
        return "the batch is not finite here: look for NaN or inf in it and in the weights before"
    if all(gap <= max(_CLOSE, 3 * noise) for gap, noise in (mean, var)):
        if mean[1] > _NOISY:
            return (
                "batch too small: its statistics are too noisy to tell, and to train on; take a "
                "larger batch, or GroupNorm"
            )
        return "frozen, and fresh" if frozen else "fresh"
    off = (
        f"the mean is off by {mean[0]:.2g} standard deviations, the variance by a factor of "
        f"{math.exp(min(var[0], 99.0)):.2g}"
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
    pairs = list(zip(_floats(a), _floats(b), strict=True))
    if not pairs:
        return None
    apart = math.hypot(*((x.cpu().double() - y.cpu().double()).norm().item() for x, y in pairs))
    size = math.hypot(*(x.cpu().double().norm().item() for x, _ in pairs))
    if size == 0:
        return math.inf if apart else 0.0
    return apart / size


def _floats(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (Mapping, tuple, list)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _floats(part)


def standard_errors(x: Tensor) -> Tensor:
    """Squared standard errors of a batch's mean and variance, by channel: two rows.

    From sample to sample: the positions inside one sample are not independent.
    """
    x = x.float().reshape(*x.shape[:2], -1)
    if len(x) < 2:
        return x.new_full((2, x.shape[1]), torch.inf)
    rest = x - x.mean((0, 2), keepdim=True)
    return torch.stack([rest.mean(2).var(0), rest.square().mean(2).var(0)]) / len(x)
