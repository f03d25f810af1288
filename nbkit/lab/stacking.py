"""Models stacked: R of one make become one with a leading run dimension, or are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.lab._stacked_layers import WIDE, StackedLinear, Vmapped, Wide
from nbkit.state import preserve_state

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
        ValueError: if a layer has hooks, shares its parameters with another, drops out at random
            or is otherwise known not to be stacked. What only a sample shows, `compare` finds.

    Linear, convolutions, BatchNorm and pooling have kernels of their own here; any other module
    goes through torch.func.vmap, whatever its forward.

    >>> model = stack([nn.Sequential(nn.Linear(3, 2), nn.Tanh()) for _ in range(5)])
    >>> model(torch.randn(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """
    for model in models:
        _check(model)
    return _stack(models)


def compare(stacked: nn.Module, models: Sequence[nn.Module], x: Tensor) -> None:
    """Refuse models whose stack does not give, on these samples, what each of them gives.

    It finds a forward that vmap cannot follow, that draws random numbers, or that depends on what
    differs between the models and is no tensor of theirs; and gradients of another size. Copies are
    called: none is changed. Linear, Flatten and activations alone leave nothing to find.
    """
    if not any(isinstance(module, Vmapped | Wide) for module in stacked.modules()):
        return
    name = type(models[0]).__name__
    with preserve_state(), torch.enable_grad():
        alone = [_answer(copy.deepcopy(model), x, 1) for model in models]
        expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
        try:
            found = _answer(copy.deepcopy(stacked), x.expand(len(models), *x.shape), len(models))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise _refusal(f"the forward of {name} ({reason})") from error
    for what, theirs, ours in zip(("outputs", "gradients"), expected, found, strict=True):
        if not _close(ours, theirs):
            raise _refusal(f"{name}: stacked, it gives other {what} than each model alone")


def _answer(model: nn.Module, x: Tensor, runs: int) -> tuple[Tensor, Tensor]:
    """Each run's outputs, and the length of its gradient for a weighted sum of them."""
    y = model(x).reshape(runs, -1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = []
    if y.requires_grad:
        ramp = torch.linspace(-1, 1, y.shape[1], dtype=y.dtype, device=y.device)
        gradients = torch.autograd.grad((y * ramp).sum(), parameters, allow_unused=True)
    squares = [g.reshape(runs, -1).square().sum(1) for g in gradients if g is not None]
    return y.detach(), torch.stack([y.new_zeros(runs), *squares]).sum(0).sqrt()


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    finite = expected.isfinite()  # weights may be so large that nothing can be compared
    expected, found = expected.where(finite, 0.0), found.where(finite, 0.0)
    least = 1e-3 * expected.abs().max().item()  # rounding, of what is next to nothing
    return torch.allclose(found, expected, rtol=1e-3, atol=least)


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
    if type(first) in WIDE:
        return Wide(layers)
    return Vmapped(layers)


def _check(model: nn.Module) -> None:
    """Refuse what stacking would lose without a word."""
    for module in model.modules():
        name = type(module).__name__
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise _refusal(f"a {name} with hooks")
        if isinstance(module, DROPOUTS) and module.training and _dropout(module):
            raise _refusal(f"a {name} that drops out: its random numbers would be others")
        if isinstance(module, nn.RNNBase) and module.proj_size:
            raise _refusal(f"a {name} with proj_size")
        if isinstance(module, nn.Embedding) and any(getattr(module, of) for of in UNUSUAL):
            raise _refusal(f"a {name} with one of {', '.join(UNUSUAL)}")
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise _refusal("parameters that two layers share")


def _dropout(module: Any) -> float:
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else module.dropout


def _refusal(what: str) -> ValueError:
    return ValueError(
        f"train_runs cannot batch {what}. "
        f"Pass vectorize=False to train the runs one by one: the same result, slower."
    )
