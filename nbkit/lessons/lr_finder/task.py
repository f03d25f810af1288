"""The measurement of the lesson lr_finder: how much of the promised decrease one step delivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


def measure_delivery(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    lrs: Sequence[float],
) -> list[float]:
    """Measure, for each lr, the share of the promised decrease that one plain step delivers.

        (loss(w) - loss(w - lr * g)) / (lr * |g|²)

    Where the loss is a plane the share is 1. It falls as the loss curves up along the gradient, is
    1/2 at the best lr for that step, and below 0 the step has overshot: on a parabola of curvature
    c it is exactly 1 - lr * c / 2.

    Args:
        model: used in its current mode; its weights and `.grad` are not changed.
        loss_fn: called as `loss_fn(model(x), y)`; returns one number.
        x: samples (samples, ...); loss and gradient are those of this batch.
        y: their targets.
        lrs: positive.
    Raises:
        ValueError: if the gradient is zero, so that no decrease is promised.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> shares = measure_delivery(model, nn.functional.mse_loss, x, y, [0.5])
    >>> round(shares[0], 6)  # curvature 2: one step to the bottom
    0.5
    """
    weights = dict(model.named_parameters())
    loss = loss_fn(model(x), y)
    # autograd.grad returns the gradients and leaves `.grad` as it was.
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    squared = sum(float(gradient.square().sum()) for gradient in gradients.values())  # |g|²
    if squared == 0:
        raise ValueError("the gradient is zero here: no step promises anything. Move the weights.")

    shares = []
    with torch.no_grad():
        for lr in lrs:
            # w - lr * g, in new tensors: the model keeps its weights.
            moved = {name: w - lr * gradients[name] for name, w in weights.items()}
            after = loss_fn(functional_call(model, moved, (x,)), y)
            # The gradient promises lr * |g|² for a step of -lr * g.
            shares.append(float(loss - after) / (lr * squared))
    return shares
