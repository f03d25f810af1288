"""Compute the gradient of a loss on one batch, and refuse a batch that the model cannot take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.model_call import copy_batch, unwrap_model

Gradients = dict[str, Tensor]
LossFunction = Callable[[Any, Any], Tensor]


def compute_gradients(
    model: nn.Module, loss_fn: LossFunction, batch: Any, seed: int = 0
) -> Gradients:
    """Compute the gradient of `loss_fn(model(x), y)`, from zero and from one random state.

    The batch stays as it is, also where the model works in place.
    """
    return differentiate_loss(model, loss_fn, batch, seed)[0]


def differentiate_loss(
    model: nn.Module, loss_fn: LossFunction, batch: Any, seed: int = 0
) -> tuple[Gradients, float]:
    """Compute the gradient as `compute_gradients` does, and return the loss beside it."""
    # One random state, so that dropout draws the same masks each time.
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    x, y = read_pair(copy_batch(batch))
    loss = loss_fn(apply_model(model, x), y)
    loss.backward()
    return copy_gradients(model), float(loss.detach())


def copy_gradients(model: nn.Module) -> Gradients:
    """Copy the gradient of each parameter that requires one; zeros where there is none."""
    copies: Gradients = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            copies[name] = torch.zeros_like(parameter)
        else:
            copies[name] = parameter.grad.detach().clone().to_dense()
    return copies


def read_pair(batch: Any) -> tuple[Any, Any]:
    """Split a batch into the model's input and what the loss takes beside the output.

    A mapping, as a Hugging Face loader gives it, is both.

    Raises:
        TypeError: if the batch is neither a mapping nor a pair.
    """
    if isinstance(batch, Mapping):
        return batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TypeError(
        f"batch must be a pair (x, y), or a dict of the model's keywords, got a "
        f"{type(batch).__name__}{size}. Put more inputs into x and more targets into y, as in "
        f"((x1, x2), y), and take them apart in the model and in loss_fn."
    )


def apply_model(model: nn.Module, x: Any) -> Any:
    """Call the model with x; a mapping is passed as keywords if its keys are arguments."""
    if isinstance(x, Mapping) and _describe_misfit(model, (), x) is None:
        return model(**x)
    return model(x)


def check_batch(model: nn.Module, batch: Any) -> None:
    """Refuse a batch that the model cannot be called with, before anything is computed.

    Raises:
        TypeError: if the keys of the batch are not arguments of the model's forward.
    """
    x, _ = read_pair(batch)
    # A model may also take the mapping itself, as its only argument.
    if not isinstance(x, Mapping) or _describe_misfit(model, (x,), {}) is None:
        return
    misfit = _describe_misfit(model, (), x)
    if misfit is not None:
        raise TypeError(
            f"the batch's keys must be arguments of the model's forward, got "
            f"{', '.join(map(str, x))}: {misfit}. Leave out the keys that it does not take, or "
            f"give a pair (x, y)."
        )


def _describe_misfit(
    model: nn.Module, args: tuple[Any, ...], keywords: Mapping[Any, Any]
) -> str | None:
    """Say why the model's forward does not take these arguments; None if it does."""
    try:
        signature = inspect.signature(unwrap_model(model).forward)
    except ValueError:  # a scripted model has no signature: its call will tell
        return None
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        return str(error)
    return None
