"""The exercise of initialization: write Kaiming's initialisation yourself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nbkit.base.state import preserve_state
from nbkit.lab.exercise import Exercise

ROOT_TWO = math.sqrt(2)


def stub(weight: Tensor, gain: float = ROOT_TWO) -> None:
    """What the learner starts from."""


def reference(weight: Tensor, gain: float = ROOT_TWO) -> None:
    """Random numbers of mean zero and standard deviation gain / sqrt(fan_in), in place."""
    fan_in = weight[0].numel()
    weight.detach().normal_(0, gain / math.sqrt(fan_in))


def _filled(attempt: Callable, *shape: int, **options: float) -> nn.Parameter:
    """A parameter of zeros as the attempt leaves it; the notebook's random state is not moved."""
    weight = nn.Parameter(torch.zeros(shape))
    with preserve_state():
        torch.manual_seed(0)
        attempt(weight, **options)
    return weight


def _spread(weight: Tensor, wanted: float, what: str) -> str | None:
    found = float(weight.detach().std())
    if math.isclose(found, wanted, rel_tol=0.05):
        return None
    return f"{what} expected a standard deviation of {wanted:.3f}, got {found:.3f}."


def it_fills_in_place(attempt: Callable) -> str | None:
    """The weight itself holds the numbers, none of them zero any more."""
    weight = _filled(attempt, 256, 512)
    if bool((weight == 0).all()):
        return (
            "expected random numbers in a weight of shape (256, 512) that came as zeros, got all "
            "zeros: fill it in place."
        )
    return None


def no_two_units_are_alike(attempt: Callable) -> str | None:
    """Each row is drawn anew."""
    weight = _filled(attempt, 256, 512)
    rows = len(torch.unique(weight.detach(), dim=0))
    if rows < 256:
        return f"expected 256 different rows in a weight of shape (256, 512), got {rows}."
    return None


def a_linear_layer_has_the_spread(attempt: Callable) -> str | None:
    """A standard deviation of gain / sqrt(inputs), whichever of the two dimensions is larger."""
    for outputs, inputs in ((256, 512), (512, 256)):
        what = f"for a Linear of {inputs} inputs and {outputs} outputs"
        weight = _filled(attempt, outputs, inputs)
        if failure := _spread(weight, ROOT_TWO / math.sqrt(inputs), what):
            return failure
    return None


def its_mean_is_zero(attempt: Callable) -> str | None:
    """A mean of zero: another would add up over all inputs."""
    found = float(_filled(attempt, 256, 512).detach().mean())
    if abs(found) > 0.1 * ROOT_TWO / math.sqrt(512):
        return f"expected numbers of mean 0 in a weight of shape (256, 512), got {found:.3f}."
    return None


def the_gain_counts(attempt: Callable) -> str | None:
    """The gain that is handed over is the one that is used."""
    weight = _filled(attempt, 256, 512, gain=1.0)
    return _spread(weight, 1 / math.sqrt(512), "for a Linear of 512 inputs and gain=1.0")


def a_convolution_sums_its_kernel(attempt: Callable) -> str | None:
    """gain / sqrt(channels * height * width): so many numbers does a unit of it sum."""
    what = "for a Conv2d weight of shape (64, 32, 3, 3), whose units sum 288 numbers,"
    weight = _filled(attempt, 64, 32, 3, 3)
    return _spread(weight, ROOT_TWO / math.sqrt(288), what)


EXERCISES = [
    Exercise(
        "kaiming",
        stub,
        reference,
        [
            it_fills_in_place,
            no_two_units_are_alike,
            a_linear_layer_has_the_spread,
            its_mean_is_zero,
            the_gain_counts,
            a_convolution_sums_its_kernel,
        ],
    )
]
