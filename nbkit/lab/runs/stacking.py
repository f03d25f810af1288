"""Models stacked: R of one make become one with a leading run dimension, or are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from nbkit.lab.runs.stacked_layers import WIDE, StackedLinear, Vmapped, Wide

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
UNUSUAL = ("max_norm", "scale_grad_by_freq", "sparse")  # options of an Embedding
DROPOUTS = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """One model that does what each of these does to its own run.

        (R, batch, ...) -> (R, batch, ...)

    Args:
        models: of one make, with weights of their own; they are copied.
    Raises:
        ValueError: if a layer has hooks, shares its parameters or buffers with another, drops out
            at random or is otherwise known not to be stacked. What only a sample shows, `compare`
            finds.

    Linear, convolutions, BatchNorm and pooling have kernels of their own here; any other module
    goes through torch.func.vmap, whatever its forward.

    >>> import torch
    >>> model = stack([nn.Sequential(nn.Linear(3, 2), nn.Tanh()) for _ in range(5)])
    >>> model(torch.randn(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """
    for model in models:
        _check(model)
    return stack_layers(models)


def stack_layers(layers: Sequence[nn.Module]) -> nn.Module:
    """One layer of these, which have been checked."""
    first: Any = layers[0]
    if type(first) is nn.Sequential:
        return nn.Sequential(*[stack_layers(inner) for inner in zip(*layers, strict=True)])
    if type(first) is nn.Linear:
        return StackedLinear(layers)
    if type(first) is nn.Flatten:
        return nn.Flatten(*(dim + (dim >= 0) for dim in (first.start_dim, first.end_dim)))
    if type(first) in ELEMENTWISE:
        return first
    if type(first) in WIDE:
        return Wide(layers)
    return Vmapped(layers)


def _check(model: nn.Module) -> None:
    """Refuse what stacking would lose without a word."""
    for module in model.modules():
        name = type(module).__name__
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise refusal(f"a {name} with hooks")
        if isinstance(module, DROPOUTS) and module.training and _dropout(module):
            raise refusal(f"a {name} that drops out: its random numbers would be others")
        if isinstance(module, nn.RNNBase) and module.proj_size:
            raise refusal(f"a {name} with proj_size")
        if isinstance(module, nn.Embedding) and any(getattr(module, of) for of in UNUSUAL):
            raise refusal(f"a {name} with one of {', '.join(UNUSUAL)}")
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise refusal("parameters that two layers share")
    if len(list(model.named_buffers(remove_duplicate=False))) > len(list(model.buffers())):
        raise refusal("buffers that two layers share, such as those of a BatchNorm used twice")


def _dropout(module: Any) -> float:
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else module.dropout


def refusal(what: str) -> ValueError:
    """The error that says what is not batched, and the way out."""
    return ValueError(
        f"train_runs cannot batch {what}. "
        f"Pass vectorize=False to train the runs one by one: the same result, slower."
    )
