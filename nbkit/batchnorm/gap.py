"""The gap between running and batch statistics, and between the outputs of both modes."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model
from nbkit.base.nested import list_tensors
from nbkit.base.state import preserve_state
from nbkit.batchnorm.layers import find_batch_norms, is_frozen
from nbkit.batchnorm.moments import Moments
from nbkit.batchnorm.passes import normalise_by_batch, watch_inputs
from nbkit.batchnorm.report import BNReport
from nbkit.batchnorm.verdicts import judge_layer


@torch.no_grad()
def bn_gap(model: nn.Module, batch: object) -> BNReport:
    """Compare the statistics that BatchNorm uses in eval mode with those of a batch in train mode.

    Args:
        model: a model in any mode.
        batch: inputs of the model, as for `reestimate_bn_`.
    Returns:
        BNReport: per layer the gap between running and batch statistics with a verdict (fresh,
            stale, too few steps for its momentum, batch too small to judge by, frozen at other
            statistics, poisoned by values that are not finite) and advice; and the gap between
            the outputs of the two modes.

    Nothing is changed. Dropout is off in both modes, so that the difference comes from BatchNorm
    alone. A gap counts if it is larger than 0.15 and than the batch's noise explains, where samples
    are taken as independent and the positions inside one sample are not. The verdict "too few
    steps" needs a gap that the initial 0 and 1 explain; a low `num_batches_tracked` alone proves
    nothing.

    >>> batch = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> bn_gap(nn.BatchNorm1d(4), batch).layers[0].verdict
    'fresh'
    """
    model = unwrap_model(model)
    seen = {name: Moments(layer) for name, layer in find_batch_norms(model).items()}
    if not seen:
        return BNReport([])
    frozen = {name for name, moments in seen.items() if is_frozen(moments.layer, model)}
    noises: dict[str, list[Tensor]] = {name: [] for name in seen}

    with preserve_state(model), run_eagerly():
        with normalise_by_batch(model, seen, frozen), ExitStack() as hooks:
            for name, moments in seen.items():
                note = partial(_note_noise, noises[name], moments.layer.eps)
                hooks.enter_context(watch_inputs(moments.layer, note))
            in_train = call_model(model, copy_batch(batch))
        # The statistics are unchanged: the layers above did not update them.
        model.eval()
        in_eval = call_model(model, copy_batch(batch))
    report = BNReport([], _measure_difference(in_train, in_eval))
    for name, moments in seen.items():
        report.layers.append(judge_layer(name, moments, noises[name], name in frozen))
    return report


def _note_noise(noises: list[Tensor], eps: float, x: Tensor) -> None:
    noises.append(_estimate_batch_noise(x, eps))


def _estimate_batch_noise(x: Tensor, eps: float) -> Tensor:
    """Estimate how far one batch's statistics may be from the population's.

    Args:
        x: input of a layer, shape (samples, channels, *positions).
        eps: the layer's eps, which is added to each variance.
    Returns:
        Tensor: three numbers. The squared standard errors of the mean and of the variance, in the
            units of the gaps and averaged over channels; and the number of independent channels
            that the channels amount to.

    Samples count as independent, positions inside a sample do not.
    """
    x = x.float().reshape(*x.shape[:2], -1)  # (samples, channels, positions)
    if len(x) < 2:
        return x.new_tensor([math.inf, math.inf, 1.0])
    rest = x - x.mean((0, 2), keepdim=True)
    scale = rest.square().mean((0, 2)) + eps  # variance of each channel
    # Of each sample and channel, (samples, channels): the mean in standard deviations, and the mean
    # squared deviation over the variance.
    level = rest.mean(2) / scale.sqrt()
    spread = rest.square().mean(2) / scale
    # Participation ratio of the channels' covariance C: (tr C)^2 / |C|^2 is the number of channels
    # if they are uncorrelated, and 1 if they are all the same.
    correlation = level.T @ level
    independent = (correlation.trace().square() / correlation.square().sum()).nan_to_num(1.0)
    # The squared standard error of a mean over n samples is the samples' variance over n.
    return torch.stack([level.var(0).mean() / len(x), spread.var(0).mean() / len(x), independent])


def _measure_difference(a: object, b: object) -> float | None:
    """Return the norm of the difference of two outputs over the norm of the first.

    Args:
        a: tensors in nested containers.
        b: tensors in containers of the same form.
    Returns:
        float | None: over all floating point tensors together; None if there are none.
    """
    pairs = list(zip(_list_floats(a), _list_floats(b), strict=True))
    if not pairs:
        return None
    differences, sizes = [], []
    for first, second in pairs:
        differences.append((first - second).norm().item())
        sizes.append(first.norm().item())
    # The norm of all tensors together is the root of the sum of their squared norms.
    apart, size = math.hypot(*differences), math.hypot(*sizes)
    if size == 0:
        return math.inf if apart else 0.0
    return apart / size


def _list_floats(output: object) -> list[Tensor]:
    """Return the floating point tensors of an output, in float64 on the CPU."""
    return [t.cpu().double() for t in list_tensors(output) if t.is_floating_point()]
