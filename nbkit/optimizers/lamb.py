"""LAMB: Adam's direction, and for each parameter a step in proportion to its norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm


class Lamb(torch.optim.Optimizer):
    """Adam's direction, with each parameter's step in proportion to its norm; torch has no LAMB.

        direction = mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + eps) + decay * weight
        weight -= lr * |weight| / |direction| * direction

    Both bias corrections come before the ratio, so the first step is lr times the norm of the
    weights. Where one of the norms is 0 the ratio is 1, so weights that start at 0 can leave it.
    The gradients are not clipped, and no ratio is.

    Args:
        params: parameters or groups of them.
        lr: step length over the norm of the weights.
        betas: weights of the old means of the gradient and of its square.
        eps: added to the root, so that it is not 0.
        weight_decay: decoupled from the means; part of the direction.

    Source: You et al. 2020, "Large batch optimization for deep learning", algorithm 2 with the
    identity as phi.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update each parameter that has a gradient; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move_parameter(parameter, group)
        return loss

    def _move_parameter(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None  # for the type checker: `step` has looked
        if not state:
            zeros = torch.zeros_like(parameter)
            state.update(step=0, mean=zeros, square=zeros.clone())
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = square.sqrt() / math.sqrt(1 - beta2 ** state["step"])
        direction = mean / (1 - beta1 ** state["step"]) / (root + group["eps"])
        direction += group["weight_decay"] * parameter
        ratio = divide_norms(parameter.flatten()[None], direction.flatten()[None]).item()
        parameter.sub_(direction * (group["lr"] * ratio))


def divide_norms(weight: Tensor, direction: Tensor) -> Tensor:
    """Return |weight| / |direction| of each row, or 1 where one of them is 0: (rows, 1)."""
    above, below = vector_norm(weight, dim=1), vector_norm(direction, dim=1)
    is_defined = (above > 0) & (below > 0)
    return torch.where(is_defined, above / below, 1.0)[:, None]
