"""Ask for this process's place in the process group, average over it, and divide batches by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nbkit.base.batches import split_rows


def rank() -> int:
    """Return this process's number in the process group; 0 without a group."""
    return dist.get_rank() if is_in_group() else 0


def world_size() -> int:
    """Return how many processes the group has; 1 without a group."""
    return dist.get_world_size() if is_in_group() else 1


def is_main() -> bool:
    """Return whether this process prints and saves: it is rank 0, or the only process."""
    return rank() == 0


def is_in_group() -> bool:
    """Return whether this process has joined a process group."""
    return dist.is_available() and dist.is_initialized()


def all_mean(tensor: Tensor) -> Tensor:
    """Average a tensor over the ranks, with the result on every rank.

    The tensor does not change, and no gradient flows through. Without a group it is returned as it
    is. Ranks that saw different numbers of samples need a mean of sums:
    `all_mean(loss_sum) / all_mean(count)`.

    >>> all_mean(torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    if not is_in_group():
        return tensor
    # A copy, because all_reduce works in place and wants contiguous memory.
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    total = total.float() if total.dtype == torch.bool else total
    dist.all_reduce(total)
    return total / dist.get_world_size()


def shard(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield this rank's rows of each batch; every sample goes to exactly one rank.

    The shares of a batch are in order and differ by at most one row, so all ranks get the same
    number of batches, even if the rows do not divide evenly. Shares of different sizes need
    weights: `accumulate(shard(batches), 1, model=model)` applies them. A share may have no rows.

    Args:
        batches: the same on every rank, in the same order (seed the shuffling); tensors in
            tuples, lists and dicts.

    >>> [len(batch) for batch in shard([torch.zeros(5), torch.zeros(2)])]
    [5, 2]
    """
    for batch in batches:
        yield split_rows(batch, world_size())[rank()]
