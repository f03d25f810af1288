"""How a diagnosis runs somebody's model on one of their batches."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn


def bare(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile: no collectives, all hooks run."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner = model.module
    return bare(inner) if isinstance(inner, nn.Module) else model


def call(model: nn.Module, batch: object, device: torch.device | str | None = None) -> object:
    """The model's output for a batch, moved to `device` or to where the first parameter is.

    Of a tuple or list, as a loader gives it, the first item is the input (as in torch's
    `update_bn`); a dict is passed as keywords.
    """
    if device is None:
        device = next((t.device for t in chain(model.parameters(), model.buffers())), None)

    def moved(thing):
        return thing.to(device) if hasattr(thing, "to") and device is not None else thing

    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    if isinstance(inputs, Mapping):
        return model(**{key: moved(value) for key, value in inputs.items()})
    return model(moved(inputs))
