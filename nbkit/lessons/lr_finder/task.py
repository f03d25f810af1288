"""What one step of gradient descent delivers of the decrease that the gradient promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


def delivered(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    lrs: Sequence[float],
) -> list[float]:
    """For each lr the share of the promised decrease that one plain step brings on these samples.

        (loss(w) - loss(w - lr * g)) / (lr * |g|²)

    Where the loss is a plane the share is 1. It falls as the loss curves up along the gradient, is
    1/2 at the best lr for that step, and below 0 the step has overshot: on a parabola of curvature
    c it is exactly 1 - lr * c / 2.

    Args:
        model: not changed, nor its `.grad`; used in the mode that it is in.
        loss_fn: called as `loss_fn(model(x), y)`, gives one number.
        lrs: positive.
    Raises:
        ValueError: if the gradient is zero, and promises nothing.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> share = delivered(model, nn.functional.mse_loss, torch.ones(1, 1), torch.zeros(1, 1), [0.5])
    >>> [round(one, 6) for one in share]  # curvature 2: one step to the bottom
    [0.5]
    """
    weights = dict(model.named_parameters())
    loss = loss_fn(model(x), y)
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    squared = sum(float(gradient.square().sum()) for gradient in gradients.values())
    if squared == 0:
        raise ValueError("the gradient is zero here: no step promises anything. Move the weights.")

    shares = []
    with torch.no_grad():
        for lr in lrs:
            moved = {name: w - lr * gradients[name] for name, w in weights.items()}
            after = loss_fn(functional_call(model, moved, (x,)), y)
            shares.append(float(loss - after) / (lr * squared))
    return shares
