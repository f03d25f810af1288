"""The exercise of amp: a step with a loss scale, or no step at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise


def stub_scaled_step(loss: Tensor, optimizer: Optimizer, scale: float) -> tuple[bool, float]:
    """Step blindly: this is what the learner starts from."""
    (loss * scale).backward()
    optimizer.step()
    return True, scale


def solve_scaled_step(loss: Tensor, optimizer: Optimizer, scale: float) -> tuple[bool, float]:
    """Unscale the gradients; step if all are finite, else halve the scale."""
    # Scaled before the backward pass, so that small gradients survive in half precision.
    (loss * scale).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grads = [p.grad for p in parameters if p.grad is not None]
    for grad in grads:
        grad /= scale
    if not all(grad.isfinite().all() for grad in grads):
        return False, scale / 2
    optimizer.step()
    return True, scale


def _make_weights(count: int) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Make `count` weights of 1, one parameter group each; SGD at lr 1 subtracts the gradient."""
    weights = [nn.Parameter(torch.ones(1)) for _ in range(count)]
    return weights, torch.optim.SGD([{"params": [weight]} for weight in weights], lr=1.0)


def the_step_takes_the_true_gradient(attempt: Callable[..., Any]) -> str | None:
    """The scale is taken out again before the step."""
    (weight,), optimizer = _make_weights(1)
    attempt(3 * weight.sum(), optimizer, 1024.0)
    if weight.item() != -2.0:
        return (
            f"for a weight of 1 with gradient 3, SGD at lr 1 and scale 1024, expected the weight "
            f"1 - 3 = -2, got {weight.item():g} after the step."
        )
    return None


def every_group_is_unscaled(attempt: Callable[..., Any]) -> str | None:
    """Every parameter group is unscaled, and a weight without a gradient stays as it is."""
    weights, optimizer = _make_weights(3)
    attempt(3 * weights[0].sum() + 5 * weights[1].sum(), optimizer, 1024.0)
    found = [weight.item() for weight in weights]
    if found != [-2.0, -4.0, 1.0]:
        return (
            f"for three groups with gradients 3, 5 and None, expected the weights [-2.0, -4.0, "
            f"1.0], got {found}."
        )
    return None


def a_lost_gradient_stops_the_step(attempt: Callable[..., Any]) -> str | None:
    """Infinity or NaN in one gradient: no weight moves, the others neither."""
    for lost in (math.inf, math.nan):
        weights, optimizer = _make_weights(2)
        stepped, _ = attempt(3 * weights[0].sum() + lost * weights[1].sum(), optimizer, 1024.0)
        found = [weight.item() for weight in weights]
        if found != [1.0, 1.0] or stepped is not False:
            return (
                f"for two weights with gradients 3 and {lost}, expected no step: False, and the "
                f"weights [1.0, 1.0]; got {stepped}, and {found}."
            )
    return None


def a_finite_loss_is_not_enough(attempt: Callable[..., Any]) -> str | None:
    """No step where the gradient is lost, though the loss is finite."""
    weights, optimizer = _make_weights(1)
    with torch.no_grad():
        weights[0].zero_()
    stepped, _ = attempt(weights[0].sqrt().sum(), optimizer, 1024.0)
    if weights[0].item() != 0.0 or stepped is not False:
        return (
            f"for the loss sqrt(w) at w = 0, which is 0 and has an infinite gradient, expected no "
            f"step: False, and w = 0; got {stepped}, and w = {weights[0].item():g}."
        )
    return None


def the_scale_falls_after_a_skip(attempt: Callable[..., Any]) -> str | None:
    """Half of it after a skipped step, the same after a good one."""
    for factor, expected in ((3.0, (True, 1024.0)), (math.inf, (False, 512.0))):
        (weight,), optimizer = _make_weights(1)
        told = attempt(factor * weight.sum(), optimizer, 1024.0)
        if told != expected:
            return (
                f"for a gradient of {factor:g} and scale 1024, expected {expected} to be returned, "
                f"got {told}."
            )
    return None


EXERCISES = [
    Exercise(
        "scaled_step",
        stub_scaled_step,
        solve_scaled_step,
        [
            the_step_takes_the_true_gradient,
            every_group_is_unscaled,
            a_lost_gradient_stops_the_step,
            a_finite_loss_is_not_enough,
            the_scale_falls_after_a_skip,
        ],
    )
]

ANSWERS = {
    "float64": Answer(
        choices="abc",
        right="b",
        why="numpy.eye makes float64, and float32 minus a float64 tensor is float64.",
        hints={
            "a": "look again at how many dimensions that float64 tensor has.",
            "c": "look again at what numpy.float64(2.0) is: a number, not an array.",
        },
    )
}
