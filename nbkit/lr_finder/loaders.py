"""Batches for a run that begins them anew and leaves their loader as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader


def generators(batches: Iterable[Any]) -> list[torch.Generator]:
    """What a DataLoader or its samplers draw from, where that is not the global random state."""
    batch_sampler = getattr(batches, "batch_sampler", None)
    samplers = (getattr(batches, "sampler", None), batch_sampler)
    holders = (batches, *samplers, getattr(batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


@contextmanager
def fresh_workers(batches: Iterable[Any]) -> Iterator[None]:
    """Inside, a DataLoader with persistent workers has new ones; those that it had wait.

    A worker's random state, and whatever else its dataset keeps, cannot be put back from here. So
    the run draws from workers of its own, which are shut down on every way out.
    """
    if not (isinstance(batches, DataLoader) and batches.persistent_workers):
        yield
        return
    before, batches._iterator = batches._iterator, None
    try:
        yield
    finally:
        own, batches._iterator = batches._iterator, before
        if own is not None:
            own._shutdown_workers()


def again(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, over and over, until they give none, as an iterator does the second time.

    Batches that refuse to be begun again have ended too; a warning says why they did.
    """
    stream = iter(batches)
    while True:
        found = False
        for batch in stream:
            found = True
            yield batch
        if not found:
            return
        try:
            stream = iter(batches)
        except Exception as error:
            warnings.warn(f"the batches cannot be begun again: {error!r}.", stacklevel=2)
            return
