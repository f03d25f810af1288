"""Re-estimate the running statistics of BatchNorm from the whole data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model, was_written
from nbkit.base.state import preserve_state
from nbkit.batchnorm.layers import find_batch_norms, is_frozen, read_statistics
from nbkit.batchnorm.moments import Moments
from nbkit.batchnorm.passes import normalise_by_batch, pass_on_all_ranks
from nbkit.batchnorm.report import NO_STATISTICS_ADVICE, BNLayer, BNReport, BNVerdict
from nbkit.batchnorm.singles import group_singles
from nbkit.batchnorm.verdicts import measure_gaps

Device = torch.device | str | None
_UNCHANGED = "The statistics of all layers are as they were."


@torch.no_grad()
def reestimate_bn_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    reset: bool = True,
    device: torch.device | str | None = None,
) -> BNReport:
    """Set the running statistics of every BatchNorm layer to those of the whole data, in place.

        mean = sum_b n_b mean_b / N
        var  = sum_b (M2_b + n_b (mean_b - mean)^2) / N

    n_b is the number of values per channel in batch b, so a smaller last batch counts less, and the
    variance between batches is included. `var` is the population variance (in training, BatchNorm
    averages unbiased variances).

    Args:
        model: a model in any mode. Layers frozen by `freeze_bn_`, and layers in eval mode inside a
            model in train mode, are left unchanged.
        batches: inputs of the model. Of a tuple or list the first item is the input; a dict is
            passed as keywords.
        reset: True sets the statistics. False moves them by one update with the layer's momentum,
            as if the data were one more batch.
        device: the device to move the inputs to; by default that of the model's first parameter.
    Returns:
        BNReport: per layer, how far the old statistics were from the new ones.
    Raises:
        ValueError: if batches is empty, or if the data gives a layer one value per channel, or
            statistics that are not finite or overflow the dtype of its buffers. After this and any
            other exception, the model is as it was.

    While the data passes, these layers normalise by the batch and everything else is in eval
    mode. So the inputs of a deeper layer depend a little on how the data is divided into batches. A
    batch of one sample that gives a layer one value per channel has no variance: such batches pass
    in groups of 16 to 31. If that is impossible, because their sizes differ or too few are left,
    each is normalised by the statistics so far. With a process group, every rank calls this on its
    part of the data, and all ranks get the statistics of all the data.

    Source: Wu & Johnson 2021 (PreciseBN); Chan, Golub & LeVeque 1979 (merging moments).

    >>> bn = nn.BatchNorm1d(1)
    >>> _ = reestimate_bn_(bn, [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0]])])
    >>> bn.running_mean, bn.running_var
    (tensor([4.]), tensor([18.6667]))
    """
    model = unwrap_model(model)
    layers = find_batch_norms(model)
    seen: dict[str, Moments] = {}
    for name, layer in layers.items():
        if layer.running_mean is not None and not is_frozen(layer, model):
            seen[name] = Moments(layer)
    count = 0
    if seen:
        count = pass_on_all_ranks(seen, partial(_pass_data, model, seen, batches, device))
    # Up to here nothing is written, so an error leaves the model as it was.
    _refuse_unusable(seen, count, reset)

    # Report first: this reads the old statistics, which are then overwritten.
    report = BNReport([])
    for name, layer in layers.items():
        report.layers.append(_report_change(name, layer, seen.get(name)))
    for moments in seen.values():
        _write_statistics(moments, count, reset)
    return report


def _pass_data(
    model: nn.Module, seen: dict[str, Moments], batches: Iterable[Any], device: Device
) -> int:
    """Pass the batches through the model, collect the moments, and return how many there were."""
    count = 0

    def count_batches() -> Iterator[Any]:
        nonlocal count
        for batch in batches:
            count += 1
            yield batch

    # Some models write into their inputs. They get copies; whether the model does so shows in the
    # copy of the first batch.
    may_write = True
    with preserve_state(model), run_eagerly(), normalise_by_batch(model, seen):
        starves = partial(_starves_layer, model, seen, device)
        for batch in group_singles(count_batches(), starves):
            inputs = copy_batch(batch) if may_write else batch
            call_model(model, inputs, device)
            may_write = may_write and was_written(inputs)
    return count


def _starves_layer(model: nn.Module, seen: dict[str, Moments], device: Device, batch: Any) -> bool:
    """Return whether a batch of one sample gives some layer a single value per channel.

    The batch passes for this, and the moments forget it again.
    """
    # This trial must not count: the batch passes again later, in a group.
    saved = {name: moments.save_counts() for name, moments in seen.items()}
    call_model(model, copy_batch(batch), device)
    starves = any(moments.has_lent for moments in seen.values())
    for name, moments in seen.items():
        moments.load_counts(saved[name])
    return starves


def _refuse_unusable(seen: dict[str, Moments], count: int, reset: bool) -> None:
    """Raise if there was no batch, or a layer cannot use the moments of what it has seen."""
    if seen and count == 0:
        raise ValueError(
            f"batches gave no batch: is it empty, or a generator that was used before? {_UNCHANGED}"
        )
    for name, moments in seen.items():
        # A layer without any value was not called, and is left unchanged.
        if moments.count == 1:
            raise ValueError(
                f"Layer {name!r} saw one value a channel, which has no variance: pass more data. "
                f"{_UNCHANGED}"
            )
        _refuse_nonfinite_moments(name, moments)
        if not reset and not read_statistics(moments.layer).isfinite().all():
            raise ValueError(
                f"The running statistics of layer {name!r} are not finite, and reset=False builds "
                f"on them: use reset=True. {_UNCHANGED}"
            )


def _refuse_nonfinite_moments(name: str, moments: Moments) -> None:
    """Raise if moments are not finite, or would not be in the dtype of the layer's buffers."""
    if not (moments.mean + moments.m2).isfinite().all():
        raise ValueError(
            f"The inputs of layer {name!r} are not finite on this data: look for NaN or inf "
            f"in the data and in the weights before it. {_UNCHANGED}"
        )
    dtype = moments.layer.running_var.dtype
    largest = torch.finfo(dtype).max
    # The mean needs no check: it lies within the range of the inputs.
    if (moments.population_var > largest).any():
        raise ValueError(
            f"The variance of layer {name!r} on this data is beyond {largest:.3g}, the largest "
            f"{dtype} number, so that running_var would be inf: make the layer float32 or scale "
            f"its inputs down. {_UNCHANGED}"
        )


def _report_change(name: str, layer: _BatchNorm, moments: Moments | None) -> BNLayer:
    """Report how far a layer's statistics are from the moments of what it has seen."""
    if layer.running_mean is None:
        return BNLayer(name, None, None, BNVerdict.NO_STATISTICS, NO_STATISTICS_ADVICE)
    if moments is None:
        return BNLayer(name, None, None, BNVerdict.FROZEN, "Left as it was.")
    if not moments.count:
        advice = "The model did not call it with this data: left as it was."
        return BNLayer(name, None, None, BNVerdict.NOT_CALLED, advice)
    gaps = measure_gaps(moments, *read_statistics(layer))
    advice = f"From {moments.count:.0f} values a channel."
    return BNLayer(name, *gaps, BNVerdict.ESTIMATED, advice)


def _write_statistics(moments: Moments, count: int, reset: bool) -> None:
    """Write the moments into the layer's running statistics, in place.

    Args:
        moments: moments of what the layer has seen; without any the layer is left unchanged.
        count: number of batches, for the layer's counter.
        reset: whether to set the statistics or to move them by one update.
    """
    if not moments.count:
        return
    layer = moments.layer
    if reset:
        # In place: other objects may hold the same buffers, and their dtype stays.
        layer.running_mean.copy_(moments.mean)
        layer.running_var.copy_(moments.population_var)
        layer.num_batches_tracked.fill_(count)
        return
    layer.num_batches_tracked += 1
    weight = layer.momentum
    if weight is None:  # a cumulative average: the n-th batch has the weight 1/n
        weight = 1.0 / layer.num_batches_tracked.item()
    # running <- (1 - m) running + m new
    updates = (layer.running_mean, moments.mean), (layer.running_var, moments.population_var)
    for old, new in updates:
        old.mul_(1 - weight).add_(new.to(old), alpha=weight)
