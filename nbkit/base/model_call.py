"""Run a user's model on one of their batches, for a diagnosis."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.nested import list_tensors, map_tensors, move_tensors


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and torch.compile.

    It runs without collectives, and all of its hooks run.
    """
    inner = getattr(model, "_orig_mod", None)  # set by torch.compile
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner = model.module
    return unwrap_model(inner) if isinstance(inner, nn.Module) else model


def call_model(model: nn.Module, batch: object, device: torch.device | str | None = None) -> object:
    """Compute the model's output for a batch, on `device` or where the first parameter is.

    Of a tuple or list, as a loader gives it, the first item is the input (as in torch's
    `update_bn`); a dict is passed as keywords.
    """
    if device is None:
        # A model without parameters and buffers takes the batch where it is.
        first = next(chain(model.parameters(), model.buffers()), None)
        device = None if first is None else first.device

    # What follows the input in a batch is for the loss.
    inputs = move_tensors(batch[0] if isinstance(batch, (tuple, list)) else batch, device)
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def run_eagerly() -> AbstractContextManager[Any]:
    """Run compiled parts of a model as they were written, while the context lasts.

    `unwrap_model` unwraps the model itself. A part of it that was compiled earlier has no hooks of
    the diagnosis in it: they would stay silent, as if its layers had not been called.
    """
    # Where dynamo is not loaded nothing is compiled, and loading it takes seconds.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def copy_batch(batch: Any) -> Any:
    """Copy the tensors of a batch: a model may work in place, and fill `.grad`."""
    return map_tensors(_copy_tensor, batch)


def was_written(batch: Any) -> bool:
    """Say whether something was written into a batch from `copy_batch`, or may have been."""
    # A tensor made in inference mode does not count what is written into it.
    return any(tensor.is_inference() or tensor._version > 0 for tensor in list_tensors(batch))


def _copy_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
