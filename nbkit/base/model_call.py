"""How a diagnosis runs somebody's model on one of their batches."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.nested import list_tensors, map_tensors, move_tensors


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile: no collectives, all hooks run."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner = model.module
    return unwrap_model(inner) if isinstance(inner, nn.Module) else model


def call_model(model: nn.Module, batch: object, device: torch.device | str | None = None) -> object:
    """The model's output for a batch, moved to `device` or to where the first parameter is.

    Of a tuple or list, as a loader gives it, the first item is the input (as in torch's
    `update_bn`); a dict is passed as keywords.
    """
    if device is None:
        device = next((t.device for t in chain(model.parameters(), model.buffers())), None)

    inputs = move_tensors(batch[0] if isinstance(batch, (tuple, list)) else batch, device)
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def run_eagerly() -> AbstractContextManager:
    """In this context what torch.compile has compiled runs as it was written.

    `unwrap_model` unwraps the model itself. A compiled part of it was compiled without the hooks
    of a diagnosis: these would stay silent, and its layers look as if they had not been called.
    """
    # Where dynamo is not loaded nothing is compiled, and loading it takes seconds.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def copy_batch(batch: Any) -> Any:
    """The batch with tensors of its own: a model may work in place, and fill `.grad`."""
    return map_tensors(_copy_tensor, batch)


def was_written(batch: Any) -> bool:
    """Whether something was written into a batch from `copy_batch`, or may have been."""
    # What inference mode makes counts no writes.
    return any(t.is_inference() or t._version > 0 for t in list_tensors(batch))


def _copy_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
