"""Kaiming by hand: the reference passes, plausible wrong versions fail and are told why."""

import math

import pytest
import torch

from nbkit.lab.exercise import load_exercise

KAIMING = load_exercise("initialization", "kaiming")


def by_outputs(weight, gain=2**0.5):
    weight.detach().normal_(0, gain / math.sqrt(weight.shape[0]))


def variance_for_deviation(weight, gain=2**0.5):
    weight.detach().normal_(0, gain**2 / weight[0].numel())


def xavier(weight, gain=2**0.5):
    torch.nn.init.xavier_normal_(weight, gain)


def pytorchs_own(weight, gain=2**0.5):
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def forgets_the_gain(weight, gain=2**0.5):
    weight.detach().normal_(0, math.sqrt(2 / weight[0].numel()))


def forgets_the_kernel(weight, gain=2**0.5):
    weight.detach().normal_(0, gain / math.sqrt(weight.shape[1]))


def bounds_for_deviation(weight, gain=2**0.5):
    std = gain / math.sqrt(weight[0].numel())
    weight.detach().uniform_(-std, std)


def positive(weight, gain=2**0.5):
    std = gain / math.sqrt(weight[0].numel())
    weight.detach().normal_(5 * std, std)


def gives_a_new_one(weight, gain=2**0.5):
    return torch.randn_like(weight) * gain / math.sqrt(weight[0].numel())


def one_row_for_all(weight, gain=2**0.5):
    weight.detach()[:] = torch.randn_like(weight[0]) * gain / math.sqrt(weight[0].numel())


def records_it(weight, gain=2**0.5):
    weight.normal_(0, gain / math.sqrt(weight[0].numel()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (by_outputs, "for a Linear of 512 inputs and 256 outputs expected a standard deviation"),
        (variance_for_deviation, "expected a standard deviation of 0.062, got 0.004"),
        (xavier, "for a Linear of 512 inputs and 256 outputs expected a standard deviation"),
        (pytorchs_own, "expected a standard deviation of 0.062, got 0.025"),
        (forgets_the_gain, "for a Linear of 512 inputs and gain=1.0"),
        (forgets_the_kernel, "whose units sum 288 numbers"),
        (bounds_for_deviation, "expected a standard deviation of 0.062, got 0.036"),
        (positive, "expected numbers of mean 0"),
        (gives_a_new_one, "got all zeros: fill it in place"),
        (one_row_for_all, "expected 256 different rows in a weight of shape (256, 512), got 1"),
        (
            records_it,
            "for kaiming(<tensor of shape (256, 512)>) it raised RuntimeError: a leaf Variable",
        ),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in KAIMING.check(wrong)


def test_the_reference_passes_and_the_stub_does_not():
    assert KAIMING.check(KAIMING.reference) is None
    assert KAIMING.check(KAIMING.stub) == (
        "expected random numbers in a weight of shape (256, 512) that came as zeros, got all "
        "zeros: fill it in place."
    )


def test_the_check_does_not_move_the_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert KAIMING.check(KAIMING.reference) is None
    assert torch.equal(torch.get_rng_state(), before)
