"""Compare an accumulated gradient with the gradient of the whole batch, and name the cause."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from nbkit.accumulation.windows import accumulate
from nbkit.base.batches import count_rows, split_rows
from nbkit.base.equivalence import (
    EquivalenceReport,
    apply_model,
    check_batch,
    compare,
    explained,
    gradients,
    largest,
    read_pair,
    reason,
    starved_layers,
    suspects,
    taken,
    without,
)
from nbkit.base.model_call import copy_batch
from nbkit.base.numbers import read_integer
from nbkit.base.state import preserve_state

LossFunction = Callable[[Any, Any], torch.Tensor]


def check_accumulation(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    steps: int,
    *,
    weight: Callable[[Any], Any] | None = None,
) -> EquivalenceReport:
    """Compare the gradient accumulated over `steps` parts of a batch with that of the whole batch.

    Args:
        model: in the mode that you train it in. The model and the random state are restored.
        loss_fn: called as `loss_fn(model(x), y)`; returns a mean over the batch's loss terms.
        batch: a pair (x, y) of at least `steps` rows, or a dict, which the model takes as keywords
            and `loss_fn` as its second argument. A dict x is passed as keywords if they fit.
        steps: number of micro-batches to divide the batch into.
        weight: function that counts the loss terms of a part, as for `accumulate`.
    Returns:
        EquivalenceReport: the error and, if it is larger than rounding, its cause: BatchNorm,
        dropout, a mean of means (the loss does not average over what `weight` counts) or a sum.
    Raises:
        ValueError: if the batch has fewer rows than `steps`.
        TypeError: if the batch is neither a pair nor a dict, or its keys do not fit the model.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> batch = (torch.randn(8, 3), torch.randn(8, 4))
    >>> report = check_accumulation(model, nn.MSELoss(), batch, 4)
    >>> report.equivalent, report.cause.split(":")[0]
    (False, 'BatchNorm (1)')
    """
    check_batch(model, batch)
    count = read_integer(steps)
    if count is None or not 1 <= count <= count_rows(batch):
        raise ValueError(
            f"steps must be from 1 to the batch's number of rows, {count_rows(batch)}, got {steps}."
        )

    parts = split_rows(batch, count)
    kept = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
    # A BatchNorm layer that gets one value per channel starves first in the smallest part.
    smallest = min(parts, key=count_rows)
    with preserve_state(*kept):
        return explained(
            suspects(model),
            partial(_compare_parts, model, loss_fn, batch, parts, weight),
            partial(reason, model, loss_fn, batch, parts, _explain_fitted_weights),
            starved_layers(model, smallest),
        )


def _compare_parts(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    parts: list[Any],
    weight: Callable[[Any], Any] | None,
    off: frozenset[str],
) -> EquivalenceReport:
    """Compare both gradients while the layers of the kinds in `off` are in eval mode."""
    with without(model, off):
        reference = gradients(model, loss_fn, batch)
        # With the seed of the reference, the parts could draw its dropout masks piece by piece, and
        # the dropout would not show.
        torch.manual_seed(1)
        model.zero_grad(set_to_none=True)
        largest_term = 0.0
        # The parts are copied because a model may write into its inputs.
        for window in accumulate(copy_batch(parts), len(parts), weight=weight, model=model):
            for micro in window:
                x, y = read_pair(micro.batch)
                with micro.sync():
                    loss = loss_fn(apply_model(model, x), y) * micro.weight
                    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                # The rounding error of a sum is relative to its largest partial sum.
                largest_term = max(largest_term, largest([taken(model)]))
        return compare(reference, taken(model), largest_term)


def _explain_fitted_weights(fitted: list[float]) -> str:
    """Explain a difference that disappears if the parts have these weights."""
    if all(abs(weight - 1) < 0.01 for weight in fitted):
        return "sum reduction: the loss is a sum, so each part counts in full; leave out the weight"
    shown = ", ".join(f"{weight:.3g}" for weight in fitted[:4])
    if len(fitted) > 4:
        shown += ", ..."
    return (
        f"mean of means: the loss does not average over what weight counts; the weights {shown} "
        f"would fit. Pass weight=, for example lambda batch: (batch[1] != -100).sum()"
    )
