"""How a diagnosis runs somebody's model on one of their batches."""

import copy
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


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


def eagerly() -> AbstractContextManager:
    """In this context what torch.compile has compiled runs as it was written.

    `bare` unwraps the model itself. A compiled part of it was compiled without the hooks of a
    diagnosis: these would stay silent, and its layers look as if they had not been called.
    """
    # Where dynamo is not loaded nothing is compiled, and loading it takes seconds.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def own(batch: Any) -> Any:
    """The batch with tensors of its own: a model may work in place, and fill `.grad`."""
    return tree_map(_own_leaf, batch)


def written(batch: Any) -> bool:
    """Whether something was written into a batch from `own`, or may have been."""
    return any(_written_leaf(leaf) for leaf in tree_leaves(batch))


def _own_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)
    if isinstance(leaf, Mapping) and hasattr(leaf, "__setitem__"):  # such as a tokenizer's
        leaf = copy.copy(leaf)
        for key, value in list(leaf.items()):
            leaf[key] = own(value)
    return leaf


def _written_leaf(leaf: Any) -> bool:
    if isinstance(leaf, Mapping):
        return written(dict(leaf))
    if not isinstance(leaf, Tensor):
        return False
    return leaf.is_inference() or leaf._version > 0  # what inference mode makes counts no writes
