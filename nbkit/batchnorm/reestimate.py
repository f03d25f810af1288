"""The running statistics of BatchNorm: how far off they are, and how to keep them right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model, was_written
from nbkit.base.report import Report
from nbkit.base.state import preserve_state
from nbkit.batchnorm.gap import NO_STATISTICS, BNVerdict, difference, gaps, judge, noise
from nbkit.batchnorm.moments import (
    Moments,
    batch_norms,
    group_singles,
    is_frozen,
    normalising_by_batch,
    over_ranks,
    running,
    watching,
)


@dataclass
class BNLayer:
    """One BatchNorm layer; a gap is a root mean square over channels, None where unknown.

    Attributes:
        mean_gap: between two means, in standard deviations.
        var_gap: between two variances, as |log(ratio)|: 0.69 is a factor of two.
        verdict: a code, such as BNVerdict.STALE.
        advice: a sentence on what is behind it and what to do; empty if there is nothing to do.
    """

    name: str
    mean_gap: float | None
    var_gap: float | None
    verdict: BNVerdict
    advice: str = ""


@dataclass
class BNReport(Report):
    """The BatchNorm layers of a model, in order.

    Attributes:
        output_gap: the norm of the difference between the outputs in train and in eval mode, over
            the norm of the former; None where it was not measured.
    """

    layers: list[BNLayer]
    output_gap: float | None = None

    def table(self):
        """One row a layer."""
        rows = [(x.name, x.mean_gap, x.var_gap, x.verdict, x.advice) for x in self.layers]
        summary = f"{len(rows)} BatchNorm layers" if rows else "no BatchNorm layer in this model"
        if self.output_gap is not None:
            summary += f"; outputs in train and eval mode differ by {self.output_gap:.1%}"
        return summary, ("layer", "mean_gap", "var_gap", "verdict", "advice"), rows


@torch.no_grad()
def reestimate_bn_(
    model: nn.Module,
    batches: Iterable,
    *,
    reset: bool = True,
    device: torch.device | str | None = None,
) -> BNReport:
    """Set the running statistics of every BatchNorm layer to those of the whole data, in place.

        mean = sum_b n_b mean_b / N
        var  = sum_b (M2_b + n_b (mean_b - mean)^2) / N

    with n_b values a channel in batch b: a ragged last batch counts for what it is, and the
    variance between batches is kept. `var` is the population's (training averages unbiased ones).

    Args:
        model: in any mode. Layers of `freeze_bn_`, and layers in eval mode inside a model in
            train mode, are frozen: they are left as they are.
        batches: inputs of the model. Of a tuple or list the first item is the input; a dict is
            passed as keywords.
        reset: False moves the statistics by one update with the layer's momentum, as if the data
            were one more batch, instead of setting them.
        device: where the inputs go; by default to the model's first parameter.
    Returns:
        BNReport: per layer, how far the old statistics were from the new ones.
    Raises:
        ValueError: if batches is empty, or the data gives a layer one value a channel or
            statistics that are not finite, also in the dtype of its buffers. As after any
            exception, the model is as it was.

    While the data passes, these layers normalise by the batch and everything else is in eval
    mode. So the inputs of a deeper layer depend a little on how the data is cut into batches. A
    batch of one sample that gives a layer one value a channel has no variance: 16 of them, and at
    most 31, pass as one batch. Where they cannot, since their sizes differ or a single one is left,
    it is normalised by the statistics so far. With a process group every rank calls this on its
    own data, and all get the statistics of all the data.

    Source: Wu & Johnson 2021 (PreciseBN); Chan, Golub & LeVeque 1979 (merging moments).

    >>> bn = nn.BatchNorm1d(1)
    >>> _ = reestimate_bn_(bn, [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0]])])
    >>> bn.running_mean, bn.running_var
    (tensor([4.]), tensor([18.6667]))
    """
    model = unwrap_model(model)
    layers = batch_norms(model)
    seen = {
        name: Moments(layer)
        for name, layer in layers.items()
        if layer.running_mean is not None and not is_frozen(layer, model)
    }
    count = over_ranks(seen, lambda: _pass_data(model, seen, batches, device)) if seen else 0
    _refuse_unusable(seen, count, reset)

    report = BNReport([_old_to_new(name, x, seen.get(name)) for name, x in layers.items()])
    for moments in seen.values():
        _write(moments, count, reset)
    return report


def _pass_data(model, seen: dict[str, Moments], batches: Iterable, device) -> int:
    count, in_place = 0, True

    def counted() -> Iterator[Any]:
        nonlocal count
        for batch in batches:
            count += 1
            yield batch

    with preserve_state(model), run_eagerly(), normalising_by_batch(model, seen):
        starves = partial(_starves, model, seen, device)
        for batch in group_singles(counted(), starves):
            # Copies only for a model that writes into its inputs, which a copy of the first tells.
            given = copy_batch(batch) if in_place else batch
            call_model(model, given, device)
            in_place = in_place and was_written(given)
    return count


def _starves(model, seen: dict[str, Moments], device, batch: Any) -> bool:
    """Whether a batch of one sample gives some layer a single value; nothing is noted of it."""
    kept = {name: moments.save() for name, moments in seen.items()}
    call_model(model, copy_batch(batch), device)
    starves = any(moments.lent for moments in seen.values())
    for name, moments in seen.items():
        moments.load(kept[name])
    return starves


def _refuse_unusable(seen: dict[str, Moments], count: int, reset: bool) -> None:
    unchanged = "The statistics of all layers are as they were."
    if seen and count == 0:
        raise ValueError(
            f"batches gave no batch: is it empty, or a generator that was used before? {unchanged}"
        )
    for name, moments in seen.items():
        layer = moments.layer
        if moments.count == 1:
            raise ValueError(
                f"Layer {name!r} saw one value a channel, which has no variance: pass more data. "
                f"{unchanged}"
            )
        if not (moments.mean + moments.m2).isfinite().all():
            raise ValueError(
                f"The inputs of layer {name!r} are not finite on this data: look for NaN or inf "
                f"in the data and in the weights before it. {unchanged}"
            )
        top = torch.finfo(layer.running_var.dtype).max
        if (moments.var > top).any():  # the mean is in the range of the inputs
            raise ValueError(
                f"The variance of layer {name!r} on this data is beyond {top:.3g}, the largest "
                f"{layer.running_var.dtype} number, so that running_var would be inf: make the "
                f"layer float32 or scale its inputs down. {unchanged}"
            )
        if not reset and not running(layer).isfinite().all():
            raise ValueError(
                f"The running statistics of layer {name!r} are not finite, and reset=False builds "
                f"on them: use reset=True. {unchanged}"
            )


def _old_to_new(name: str, layer: _BatchNorm, moments: Moments | None) -> BNLayer:
    if layer.running_mean is None:
        return BNLayer(name, None, None, *NO_STATISTICS)
    if moments is None:
        return BNLayer(name, None, None, BNVerdict.FROZEN, "Left as it was.")
    if not moments.count:
        advice = "The model did not call it with this data: left as it was."
        return BNLayer(name, None, None, BNVerdict.NOT_CALLED, advice)
    advice = f"From {moments.count:.0f} values a channel."
    return BNLayer(name, *gaps(moments, *running(layer)), BNVerdict.ESTIMATED, advice)


def _write(moments: Moments, count: int, reset: bool) -> None:
    if not moments.count:
        return
    layer = moments.layer
    if reset:
        layer.running_mean.copy_(moments.mean)
        layer.running_var.copy_(moments.var)
        layer.num_batches_tracked.fill_(count)
        return
    layer.num_batches_tracked += 1
    weight = layer.momentum
    if weight is None:
        weight = 1.0 / layer.num_batches_tracked.item()
    for old, new in ((layer.running_mean, moments.mean), (layer.running_var, moments.var)):
        old.mul_(1 - weight).add_(new.to(old), alpha=weight)


@torch.no_grad()
def bn_gap(model: nn.Module, batch: object) -> BNReport:
    """Compare what BatchNorm uses in eval mode with what this batch gives it in train mode.

    Args:
        batch: inputs of the model, as for `reestimate_bn_`.
    Returns:
        BNReport: per layer the gap between running and batch statistics with a verdict (fresh,
            stale, too few steps for its momentum, batch too small to tell, frozen at other
            statistics, poisoned by values that are not finite) and advice; and the gap between
            the outputs of the two modes.

    Nothing is changed. Dropout is off in both modes, so that BatchNorm alone makes the
    difference. A gap counts beyond 0.15 and beyond what the batch's own noise explains, with
    samples taken as independent, the positions inside one sample not. "Too few steps" takes a
    gap that the initial 0 and 1 explain; a low `num_batches_tracked` alone proves nothing.

    >>> batch = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> bn_gap(nn.BatchNorm1d(4), batch).layers[0].verdict
    'fresh'
    """
    model = unwrap_model(model)
    seen = {name: Moments(layer) for name, layer in batch_norms(model).items()}
    if not seen:
        return BNReport([])
    frozen = {name for name, moments in seen.items() if is_frozen(moments.layer, model)}
    noises: dict[str, list[Tensor]] = {name: [] for name in seen}

    with preserve_state(model), run_eagerly():
        with normalising_by_batch(model, seen, frozen), ExitStack() as hooks:
            for name, moments in seen.items():
                note = partial(_note_noise, noises[name], moments.layer.eps)
                hooks.enter_context(watching(moments.layer, note))
            in_train = call_model(model, copy_batch(batch))
        model.eval()
        in_eval = call_model(model, copy_batch(batch))
    rows = [BNLayer(name, *judge(seen[name], noises[name], name in frozen)) for name in seen]
    return BNReport(rows, difference(in_train, in_eval))


def _note_noise(noises: list[Tensor], eps: float, x: Tensor) -> None:
    noises.append(noise(x, eps))
