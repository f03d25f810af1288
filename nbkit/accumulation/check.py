"""Compare an accumulated gradient with the gradient of the whole batch, and name the cause."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from nbkit.accumulation.windows import accumulate
from nbkit.base.batch_gradients import (
    apply_model,
    check_batch,
    compute_gradients,
    copy_gradients,
    read_pair,
)
from nbkit.base.batches import count_rows, split_rows
from nbkit.base.equivalence import (
    EquivalenceCause,
    EquivalenceReport,
    compare_gradients,
    find_largest_entry,
)
from nbkit.base.equivalence_causes import (
    Advised,
    Kinds,
    are_ones,
    explain_difference,
    find_remaining_cause,
)
from nbkit.base.model_call import copy_batch
from nbkit.base.numbers import read_integer
from nbkit.base.state import preserve_state
from nbkit.base.suspect_layers import find_starved_layers, list_suspects, switch_off_layers

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
        EquivalenceReport: the error and, if it is larger than rounding, the causes with advice,
        such as batchnorm, dropout, a mean of means (the loss averages over something other than
        `weight` counts) or a sum.
    Raises:
        ValueError: if the batch has fewer rows than `steps`.
        TypeError: if the batch is neither a pair nor a dict, or its keys do not fit the model.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> batch = (torch.randn(8, 3), torch.randn(8, 4))
    >>> report = check_accumulation(model, nn.MSELoss(), batch, 4)
    >>> report.equivalent, report.cause
    (False, 'batchnorm')
    """
    check_batch(model, batch)
    count = read_integer(steps)
    if count is None or not 1 <= count <= count_rows(batch):
        raise ValueError(
            f"steps must be from 1 to the batch's number of rows, {count_rows(batch)}, got {steps}."
        )

    parts = split_rows(batch, count)
    # A loss that is a module may change in its forward too.
    kept = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
    # A BatchNorm layer that gets one value per channel starves first in the smallest part.
    smallest = min(parts, key=count_rows)
    with preserve_state(*kept):
        return explain_difference(
            list_suspects(model),
            partial(_compare_parts, model, loss_fn, batch, parts, weight),
            partial(find_remaining_cause, model, loss_fn, batch, parts, _explain_fitted_weights),
            find_starved_layers(model, smallest),
        )


def _compare_parts(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    parts: list[Any],
    weight: Callable[[Any], Any] | None,
    off: Kinds,
) -> EquivalenceReport:
    """Compare both gradients while the layers of the kinds in `off` are in eval mode."""
    with switch_off_layers(model, off):
        reference = compute_gradients(model, loss_fn, batch)
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
                    loss.backward()
                # The rounding error of a sum is relative to its largest partial sum.
                largest_term = max(largest_term, find_largest_entry([copy_gradients(model)]))
        return compare_gradients(reference, copy_gradients(model), largest_term)


def _explain_fitted_weights(fitted: list[float]) -> Advised:
    """Return cause and advice for a difference that disappears if the parts have these weights."""
    if are_ones(fitted):
        return (
            EquivalenceCause.SUM_REDUCTION,
            "The loss is a sum, so each part counts in full. Leave out the weight.",
        )
    shown = ", ".join(f"{weight:.3g}" for weight in fitted[:4])
    if len(fitted) > 4:  # the report is one line: a few weights show the pattern
        shown += ", ..."
    return (
        EquivalenceCause.MEAN_OF_MEANS,
        f"The loss averages over something other than what weight counts; the weights {shown} "
        f"would fit. Pass weight=, for example lambda batch: (batch[1] != -100).sum().",
    )
