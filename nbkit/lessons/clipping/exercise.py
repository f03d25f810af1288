"""The exercise of clipping: clip by the global norm yourself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.numbers import read_real
from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise


def stub_clip_by_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Change nothing: this is what the learner starts from."""
    return 0.0


def solve_clip_by_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Clip with one norm over all gradients and one factor for all of them."""
    # A list: a generator of parameters can be read only once.
    grads = [p.grad for p in parameters if p.grad is not None]
    total_norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
    # One factor for all keeps the direction of the gradient.
    if total_norm > max_norm:
        for grad in grads:
            grad.mul_(max_norm / total_norm)
    return total_norm


def make_parameters(*gradients: Sequence[float] | None) -> list[nn.Parameter]:
    """Make a parameter for each gradient; None means without one."""
    parameters = []
    for gradient in gradients:
        parameters.append(nn.Parameter(torch.zeros(len(gradient or [0.0]))))
        if gradient is not None:
            parameters[-1].grad = torch.tensor(gradient)
    return parameters


def read_rounded_gradients(parameters: Iterable[nn.Parameter]) -> list[list[float]]:
    """Read the gradients as they are now, rounded."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return [[round(value, 3) for value in grad.tolist()] for grad in grads]


def it_returns_the_norm_of_all(attempt: Callable[..., Any]) -> str | None:
    """The square root of the sum of all squares."""
    came = attempt(make_parameters([3.0], [4.0]), 10.0)
    norm = read_real(came)
    if norm is None or not math.isclose(norm, 5.0):
        return (
            f"for the gradients [3.0] and [4.0] expected the norm 5.0 to be returned, got {came}."
        )
    return None


def a_short_one_stays(attempt: Callable[..., Any]) -> str | None:
    """Below the threshold nothing is changed."""
    parameters = make_parameters([3.0], [4.0])
    attempt(parameters, 10.0)
    if read_rounded_gradients(parameters) != [[3.0], [4.0]]:
        return (
            f"the gradients [3.0] and [4.0] are shorter than max_norm=10.0, expected them "
            f"unchanged, got {read_rounded_gradients(parameters)}."
        )
    return None


def all_by_one_factor(attempt: Callable[..., Any]) -> str | None:
    """Above it all are multiplied by the same factor: the direction stays."""
    parameters = make_parameters([3.0, 0.0], [4.0])
    came = attempt(parameters, 1.0)
    if read_rounded_gradients(parameters) != [[0.6, 0.0], [0.8]]:
        return (
            f"for the gradients [3.0, 0.0] and [4.0] and max_norm=1.0 expected "
            f"[[0.6, 0.0], [0.8]], all by one factor, got {read_rounded_gradients(parameters)}."
        )
    if not math.isclose(float(came), 5.0):
        return (
            f"for the gradients [3.0, 0.0] and [4.0] and max_norm=1.0 expected the norm before "
            f"clipping to be returned, 5.0, got {float(came):.3g}."
        )
    return None


def one_without_a_gradient(attempt: Callable[..., Any]) -> str | None:
    """A frozen parameter, whose `grad` is None, is passed over."""
    parameters = make_parameters([3.0], None, [4.0])
    attempt(parameters, 1.0)
    if read_rounded_gradients(parameters) != [[0.6], [0.8]]:
        left = read_rounded_gradients(parameters)
        return f"with one parameter whose grad is None expected [[0.6], [0.8]], got {left}."
    return None


def a_generator_too(attempt: Callable[..., Any]) -> str | None:
    """The same for a generator: `model.parameters()` can be read only once."""
    parameters = make_parameters([3.0], [4.0])
    attempt((parameter for parameter in parameters), 1.0)
    if read_rounded_gradients(parameters) != [[0.6], [0.8]]:
        return (
            f"given a generator, as model.parameters() is, expected [[0.6], [0.8]], got "
            f"{read_rounded_gradients(parameters)}: a generator can be read only once."
        )
    return None


EXERCISES = [
    Exercise(
        "clip_by_norm",
        stub_clip_by_norm,
        solve_clip_by_norm,
        [
            it_returns_the_norm_of_all,
            a_short_one_stays,
            all_by_one_factor,
            one_without_a_gradient,
            a_generator_too,
        ],
    )
]

ANSWERS = {
    "parameters": Answer(
        choices="abc",
        right="c",
        why=(
            "`model.parameters()` is a generator. The first clip reads it to its end; from the "
            "second step on it is empty, its norm is 0, and nothing is clipped."
        ),
        hints={
            "a": "a list can be read again at each step.",
            "b": "what is left out here has no gradient, so that its share of the norm is 0.",
        },
    )
}
