"""Stack R models of the same make into one with a leading run dimension, or refuse them by name."""

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
    """Stack models into one that does what each of them does to its own run.

        (R, batch, ...) -> (R, batch, ...)

    Args:
        models: of the same layers, each with its own weights; they are copied.
    Raises:
        ValueError: if a layer has hooks, shares its parameters or buffers with another, drops out
            at random or is otherwise known not to stack. `check_stack` finds what shows only on
            samples.

    Linear, convolutions, BatchNorm and pooling have fast kernels here; any other module goes
    through torch.func.vmap, whatever its forward.

    >>> import torch
    >>> model = stack([nn.Sequential(nn.Linear(3, 2), nn.Tanh()) for _ in range(5)])
    >>> model(torch.randn(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """
    for model in models:
        _refuse_unstackable(model)
    return stack_layers(models)


def stack_layers(layers: Sequence[nn.Module]) -> nn.Module:
    """Stack layers, or whole models, that have been checked."""
    first: Any = layers[0]
    stacked: nn.Module
    if type(first) is nn.Sequential:
        stacked = nn.Sequential(*[stack_layers(inner) for inner in zip(*layers, strict=True)])
    elif type(first) is nn.Linear:  # a subclass may have another forward, and goes through vmap
        stacked = StackedLinear(layers)
    elif type(first) is nn.Flatten:
        # Dimensions counted from the front move behind the run dimension, negative ones stay.
        start, end = first.start_dim, first.end_dim
        stacked = nn.Flatten(start + (start >= 0), end + (end >= 0))
    elif type(first) in ELEMENTWISE:
        # No weights, and the same for every number: one of them serves all runs.
        stacked = first
    elif type(first) in WIDE:
        stacked = Wide(layers)
    else:
        stacked = Vmapped(layers)
    return stacked


def _refuse_unstackable(model: nn.Module) -> None:
    """Refuse a model with something that a stack would lose silently."""
    for module in model.modules():
        name = type(module).__name__
        if _has_any(module, HOOKS):
            raise make_refusal(f"a {name} with hooks")
        if isinstance(module, DROPOUTS) and module.training and _read_dropout(module):
            raise make_refusal(f"a {name} that drops out: its random numbers would be others")
        if isinstance(module, nn.RNNBase) and module.proj_size:
            raise make_refusal(f"a {name} with proj_size")
        if isinstance(module, nn.Embedding) and _has_any(module, UNUSUAL):
            raise make_refusal(f"a {name} with one of {', '.join(UNUSUAL)}")
    # Named with their duplicates, shared tensors count twice.
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise make_refusal("parameters that two layers share")
    if len(list(model.named_buffers(remove_duplicate=False))) > len(list(model.buffers())):
        raise make_refusal("buffers that two layers share, such as those of a BatchNorm used twice")


def _has_any(module: nn.Module, names: Sequence[str]) -> bool:
    """Return whether one of these attributes is set."""
    return any(getattr(module, name) for name in names)


def _read_dropout(module: Any) -> Any:
    """Read the probability of a layer that may drop out."""
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else module.dropout


def make_refusal(what: str) -> ValueError:
    """Make the error that names what cannot be stacked, and the way out."""
    return ValueError(
        f"train_runs cannot batch {what}. "
        f"Pass vectorize=False to train the runs one by one: the same result, slower."
    )
