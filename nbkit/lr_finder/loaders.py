"""Draw the batches of a range test from a loader, and leave the loader as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from nbkit.base.batches import count_rows
from nbkit.base.nested import open_container


def find_generators(batches: Iterable[Any]) -> list[torch.Generator]:
    """Find the generators that a DataLoader and its samplers draw from.

    A loader without one draws from the global random state, which is preserved elsewhere.
    """
    batch_sampler = getattr(batches, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None)
    # A batch sampler draws through the sampler that it wraps.
    inner_sampler = getattr(batch_sampler, "sampler", None)
    found = []
    for holder in (batches, sampler, batch_sampler, inner_sampler):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            found.append(generator)
    return found


@contextmanager
def use_fresh_workers(batches: Iterable[Any]) -> Iterator[None]:
    """Give a DataLoader with persistent workers new workers inside this context.

    The random state of a worker, and everything that its dataset keeps, cannot be restored from
    this process. So the old workers are idle inside the context, and the new ones are shut down
    when it ends, in any way.
    """
    if not (isinstance(batches, DataLoader) and batches.persistent_workers):
        yield
        return
    # The loader keeps its workers in the iterator; without one it starts new workers.
    before, batches._iterator = batches._iterator, None
    try:
        yield
    finally:
        fresh, batches._iterator = batches._iterator, before
        if fresh is not None:
            # This method of torch is private, but only it ends the workers at once.
            fresh._shutdown_workers()


def repeat_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches again and again, until a pass is empty, as an iterator's second pass is.

    If the batches cannot be iterated over again, they end with a warning that says why.
    """
    # Outside the `try` below: batches that cannot be iterated over at all are an error.
    stream = iter(batches)
    while True:
        found = False
        for batch in stream:
            found = True
            yield batch
        if not found:
            return
        # A list begins again here; an iterator is used up, and its next pass is empty.
        try:
            stream = iter(batches)
        except Exception as error:
            warnings.warn(f"the batches cannot be begun again: {error!r}.", stacklevel=2)
            return


def draw_windows(
    batches: Iterable[Any], size: int, group: Any, device: torch.device
) -> Iterator[list[Any]]:
    """Yield the batches of each rung until some rank has none left.

    Args:
        batches: the user's batches, begun again when they end.
        size: batches per rung; the last rung may have fewer.
        group: process group of DistributedDataParallel, or None.
        device: the device for tensors that the ranks exchange.
    """
    stream = repeat_batches(batches)
    while True:
        # No batch beyond this rung is drawn.
        window = list(islice(stream, size))
        count = len(window)
        if group is not None:
            # All ranks take the same number, or one would wait for the others in its backward.
            count = _find_lowest_count(count, group, device)
        if not count:
            return
        yield window[:count]


def _find_lowest_count(count: int, group: Any, device: torch.device) -> int:
    """Return the lowest count of all ranks."""
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, op=dist.ReduceOp.MIN, group=group)
    return int(counts)


def weigh_batches(window: list[Any]) -> list[float]:
    """Return each batch's share of the window's samples."""
    if len(window) == 1:  # the number of samples need not be known
        return [1.0]
    lengths = [_count_samples(batch) for batch in window]
    total = sum(lengths)
    return [length / total for length in lengths]


def _count_samples(batch: Any) -> int:
    """Return the number of rows of a tensor or container, and `len` of a type we do not know."""
    # A tensor, or a container that may hold tensors; all other types must have a len().
    is_known = isinstance(batch, Tensor) or open_container(batch) is not None
    try:
        return count_rows(batch) if is_known else len(batch)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"accumulation_steps above 1 needs the number of samples of each batch, which "
            f"{describe_value(batch)} does not tell. Wrap the batch in a class whose len() is that "
            f"number, and give step. Cause: {error}"
        ) from error


def describe_value(value: object) -> str:
    """Describe a value for an error message, by its type and size."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, requires_grad={value.requires_grad}"
    size = f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
    return f"a {type(value).__name__}{size}"
