"""Check that DDP computes the gradient that one process computes on the whole batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nbkit.base.batch_gradients import LossFunction, check_batch, compute_gradients, read_pair
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
from nbkit.base.model_copy import copy_model
from nbkit.base.nested import move_tensors
from nbkit.base.numbers import read_integer
from nbkit.base.suspect_layers import find_starved_layers, list_suspects, switch_off_layers
from nbkit.ddp.group import rank, world_size
from nbkit.ddp.launching import launch


def check_ddp_equivalence(
    build_model: Callable[[], nn.Module],
    loss_fn: LossFunction,
    batch: Any,
    *,
    nproc: int = 2,
) -> EquivalenceReport:
    """Compare the gradient of `nproc` ranks under DDP with that of one process on the whole batch.

    Args:
        build_model: builds the model, on each rank; all ranks then take rank 0's weights.
        loss_fn: called as `loss_fn(model(x), y)`.
        batch: a pair (x, y), divided over the ranks by rows as `shard` does; or a dict, which the
            model takes as keywords and `loss_fn` as its second argument.
        nproc: number of processes, as for `launch`. Inside a launched function the check uses the
            group that is there, and every rank has to call it, so one launch can run many checks.
    Returns:
        EquivalenceReport: the error and, if it is more than rounding, the causes with advice, such
        as batchnorm, dropout, ragged shards, a sum, unused parameters, a mean of means.
    Raises:
        ValueError: if the batch has fewer rows than `nproc`.
        LaunchError: as for `launch`.
    """
    read_pair(batch)  # refuses what is neither a pair nor a dict
    is_inside = "NBKIT_RANK" in os.environ
    nproc = world_size() if is_inside else _read_nproc(nproc)
    if count_rows(batch) < nproc:
        raise ValueError(
            f"the batch has {count_rows(batch)} rows, fewer than nproc={nproc}: each rank needs "
            f"one."
        )
    if is_inside:
        return _check_on_rank(build_model, loss_fn, batch)
    report: EquivalenceReport = launch(_check_on_rank, build_model, loss_fn, batch, nproc=nproc)[0]
    return report


def _read_nproc(nproc: Any) -> int:
    count = read_integer(nproc)
    if count is None or count < 1:
        raise ValueError(f"nproc must be a whole number of processes, at least 1, got {nproc}.")
    return count


def _check_on_rank(
    build_model: Callable[[], nn.Module], loss_fn: LossFunction, batch: Any
) -> EquivalenceReport:
    """Run the check on one rank; all make the same comparisons, and rank 0's result counts."""
    model = build_model()
    device = next(model.parameters()).device
    batch = move_tensors(batch, device)
    check_batch(model, batch)
    parts = split_rows(batch, world_size())
    # Every rank asks about the same, smallest part: if only one rank found starved layers, the
    # others would wait for it forever.
    starved = find_starved_layers(model, min(parts, key=count_rows))
    off: Kinds = frozenset({EquivalenceCause.BATCHNORM}) if starved else frozenset()
    unused = _find_unused(model, loss_fn, batch, off)

    weigh_parts = partial(_explain_weights, [count_rows(part) for part in parts])
    report = explain_difference(
        list_suspects(model),
        partial(_compare_ranks, model, loss_fn, batch, parts, bool(unused)),
        partial(find_remaining_cause, model, loss_fn, batch, parts, weigh_parts),
        starved,
    )
    if unused:
        # The comparisons above let DDP search for unused parameters, to find the other causes.
        # The report shows what DDP does by default.
        others = report.causes
        report = _compare_ranks(model, loss_fn, batch, parts, False, off)
        advice = (
            f"DDP waits for the gradients of unused parameters ({', '.join(unused[:3])}) and "
            f"averages nothing meanwhile. Pass find_unused_parameters=True, or freeze them."
        )
        report.causes = {EquivalenceCause.UNUSED_PARAMETERS: advice, **others}
    return report


def _find_unused(model: nn.Module, loss_fn: LossFunction, batch: Any, off: Kinds) -> list[str]:
    """Find the trained parameters that the loss does not reach; leaves gradients on the model."""
    with switch_off_layers(model, off):
        compute_gradients(model, loss_fn, batch)
    unused = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            unused.append(name)
    return unused


def _compare_ranks(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    parts: Sequence[Any],
    find_unused: bool,
    off: Kinds,
) -> EquivalenceReport:
    """Compare the whole batch on one process with this rank's part of it under DDP."""
    alone, together = copy_model(model), copy_model(model)
    with switch_off_layers(alone, off), switch_off_layers(together, off):
        reference = compute_gradients(alone, loss_fn, batch)
        ddp = DistributedDataParallel(together, find_unused_parameters=find_unused)
        own = compute_gradients(ddp, loss_fn, parts[rank()], seed=rank())
    # DDP calls the wrapped model `module`.
    measured = {name.removeprefix("module."): gradient for name, gradient in own.items()}
    report = compare_gradients(reference, measured, find_largest_entry([measured]))
    # All ranks go on with rank 0's report, so that they take the same branches.
    shared = [report]
    dist.broadcast_object_list(shared)
    return shared[0]


def _explain_weights(sizes: list[int], fitted: list[float]) -> Advised:
    """Explain the weights with which the parts' gradients add up to that of the batch.

    Args:
        sizes: rows of each part.
        fitted: the weight of each part's gradient.
    """
    if are_ones(fitted):
        return (
            EquivalenceCause.SUM_REDUCTION,
            "DDP averages over the ranks, so a sum comes out divided by their number. Use a mean, "
            "or multiply the loss by world_size().",
        )
    if _match_row_shares(fitted, sizes):
        return (
            EquivalenceCause.RAGGED_SHARDS,
            f"DDP averages the means of ragged shards (of {', '.join(map(str, sizes))} rows) as if "
            f"they were equal. accumulate(shard(batches), 1, model=model) weights them.",
        )
    return (
        EquivalenceCause.MEAN_OF_MEANS,
        "The loss averages over something other than rows. Give accumulate(..., weight=) the "
        "number of its terms.",
    )


def _match_row_shares(weights: Sequence[float], sizes: Sequence[int]) -> bool:
    """Return whether each weight is its part's share of the rows, to within 0.01."""
    total = sum(sizes)
    for weight, size in zip(weights, sizes, strict=True):
        if not abs(weight - size / total) < 0.01:
            return False
    return True
