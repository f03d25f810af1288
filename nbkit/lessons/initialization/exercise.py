"""The exercise of the lesson initialization: write Kaiming's initialisation yourself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.state import preserve_state
from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain
ROOT_TWO = math.sqrt(2)  # the gain of ReLU


def stub_kaiming(weight: Tensor, gain: float = ROOT_TWO) -> None:
    """Leave the weight as it is: the learner starts from here."""


def solve_kaiming(weight: Tensor, gain: float = ROOT_TWO) -> None:
    """Fill a weight in place: mean zero, standard deviation gain / sqrt(fan_in)."""
    # weight[0] holds the numbers of one unit: (inputs,), or (channels, height, width).
    fan_in = weight[0].numel()
    weight.detach().normal_(0, gain / math.sqrt(fan_in))


def _fill_weight(attempt: Attempt, *shape: int, **options: float) -> nn.Parameter:
    """Let the attempt fill a parameter of zeros; the notebook's random state is restored."""
    weight = nn.Parameter(torch.zeros(shape))
    with preserve_state():
        torch.manual_seed(0)
        attempt(weight, **options)
    return weight


def _check_deviation(weight: Tensor, wanted: float, what: str) -> str | None:
    """Compare the standard deviation of a weight with the wanted one, in a sentence if it fails."""
    found = float(weight.detach().std())
    # 5 %: the weights of these checks have 18,000 numbers or more, which stray by half a percent.
    if math.isclose(found, wanted, rel_tol=0.05):
        return None
    return f"{what} expected a standard deviation of {wanted:.3f}, got {found:.3f}."


def it_fills_in_place(attempt: Attempt) -> str | None:
    """It fills the weight itself with numbers that are not zero."""
    weight = _fill_weight(attempt, 256, 512)
    if bool((weight == 0).all()):
        return (
            "expected random numbers in a weight of shape (256, 512) that came as zeros, got all "
            "zeros: fill it in place."
        )
    return None


def no_two_units_are_alike(attempt: Attempt) -> str | None:
    """It draws each row anew."""
    weight = _fill_weight(attempt, 256, 512)
    # Equal rows stay equal under training, so they count as one unit.
    rows = len(torch.unique(weight.detach(), dim=0))
    if rows < 256:
        return f"expected 256 different rows in a weight of shape (256, 512), got {rows}."
    return None


def a_linear_layer_has_the_spread(attempt: Attempt) -> str | None:
    """Its standard deviation is gain / sqrt(inputs), also where there are more outputs."""
    # Both orders of the two sizes, to tell fan_in from fan_out, the smaller and the larger size.
    for outputs, inputs in ((256, 512), (512, 256)):
        what = f"for a Linear of {inputs} inputs and {outputs} outputs"
        weight = _fill_weight(attempt, outputs, inputs)
        if failure := _check_deviation(weight, ROOT_TWO / math.sqrt(inputs), what):
            return failure
    return None


def its_mean_is_zero(attempt: Attempt) -> str | None:
    """Its mean is zero: any other would add up over all inputs."""
    found = float(_fill_weight(attempt, 256, 512).detach().mean())
    # A tenth of the standard deviation; the mean of so many numbers strays by a 360th of it.
    if abs(found) > 0.1 * ROOT_TWO / math.sqrt(512):
        return f"expected numbers of mean 0 in a weight of shape (256, 512), got {found:.3f}."
    return None


def the_gain_counts(attempt: Attempt) -> str | None:
    """It uses the gain that is passed in."""
    weight = _fill_weight(attempt, 256, 512, gain=1.0)
    return _check_deviation(weight, 1 / math.sqrt(512), "for a Linear of 512 inputs and gain=1.0")


def a_convolution_sums_its_kernel(attempt: Attempt) -> str | None:
    """Its deviation is gain / sqrt(channels * height * width): a unit sums so many numbers."""
    what = "for a Conv2d weight of shape (64, 32, 3, 3), whose units sum 288 numbers,"
    weight = _fill_weight(attempt, 64, 32, 3, 3)
    return _check_deviation(weight, ROOT_TWO / math.sqrt(288), what)


EXERCISES = [
    Exercise(
        "kaiming",
        stub_kaiming,
        solve_kaiming,
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

ANSWERS = {
    "fill": Answer(
        choices="abc",
        right="b",
        why="b is what torch.nn.Linear.reset_parameters does. Its `a` is not a gain but "
        "the slope of a leaky ReLU, whose gain is sqrt(2 / (1 + a²)) = sqrt(1/3). "
        "With the ReLU after it a layer multiplies the signal by 0.41.",
        hints={
            "a": "a leaky ReLU of slope 0, which is the default, is a ReLU.",
            "c": "with as many outputs as inputs, Xavier with Kaiming's gain is Kaiming.",
        },
    )
}
