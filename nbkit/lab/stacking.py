"""Models of ordinary layers, stacked: R of one make become one with a leading run dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """One model that does what each of these does to its own run.

        (R, batch, ...) -> (R, batch, ...)

    Args:
        models: of one make, with weights of their own; they are copied.
    Raises:
        ValueError: if a layer is none of those that can be stacked, has hooks or shares its
            parameters with another.

    >>> model = stack([nn.Sequential(nn.Linear(3, 2), nn.Tanh()) for _ in range(5)])
    >>> model(torch.randn(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """
    for model in models:
        _check(model)
    return _stack(models)


class StackedLinear(nn.Module):
    """R linear layers as one: (R, batch, inputs) -> (R, batch, outputs)."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.weight = _stacked_parameter([layer.weight.mT for layer in layers])
        has_bias = layers[0].bias is not None
        self.bias = _stacked_parameter([layer.bias[None] for layer in layers]) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Each run's samples through its own weights."""
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)


def _stack(layers: Sequence[nn.Module]) -> nn.Module:
    first: Any = layers[0]
    if type(first) is nn.Sequential:
        return nn.Sequential(*[_stack(inner) for inner in zip(*layers, strict=True)])
    if type(first) is nn.Linear:
        return StackedLinear(layers)
    if type(first) is nn.Flatten:
        return nn.Flatten(*(dim + (dim >= 0) for dim in (first.start_dim, first.end_dim)))
    if type(first) in ELEMENTWISE:
        return first
    raise _refusal(f"a layer of type {type(first).__name__}")


def _check(model: nn.Module) -> None:
    """Refuse what stacking would lose without a word."""
    for module in model.modules():
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise _refusal(f"a {type(module).__name__} with hooks")
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise _refusal("parameters that two layers share")


def _stacked_parameter(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack(list(tensors)).detach(), tensors[0].requires_grad)


def _refusal(what: str) -> ValueError:
    names = ", ".join(kind.__name__ for kind in ELEMENTWISE)
    return ValueError(
        f"train_runs cannot batch {what}; it batches Sequential, Linear, Flatten, {names}. "
        f"Pass vectorize=False to train the runs one by one: the same result, slower."
    )
