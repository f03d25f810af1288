"""LAMB as its paper has it: the defects of other implementations do not occur."""

import math

import pytest
import torch
from torch import nn

from nbkit import Lamb


def step_by_hand(weight, gradients, lr, decay, betas=(0.9, 0.999), eps=1e-6):
    """The last weight, in plain float64 Python: algorithm 2 of You et al. with phi(x) = x."""
    mean, square = [0.0] * len(weight), [0.0] * len(weight)
    for t, gradient in enumerate(gradients, 1):
        direction = []
        for i, g in enumerate(gradient):
            mean[i] = betas[0] * mean[i] + (1 - betas[0]) * g
            square[i] = betas[1] * square[i] + (1 - betas[1]) * g * g
            root = math.sqrt(square[i] / (1 - betas[1] ** t)) + eps
            direction.append(mean[i] / (1 - betas[0] ** t) / root + decay * weight[i])
        above, below = math.hypot(*weight), math.hypot(*direction)
        ratio = above / below if above and below else 1.0
        weight = [w - lr * ratio * d for w, d in zip(weight, direction, strict=True)]
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_equals_the_paper(decay):
    start, gradients = [0.3, -2.0, 0.5], [[0.1, 3.0, -0.2], [1.0, -1.0, 0.4], [0.0, 0.2, 0.1]]
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = Lamb([weight], lr=0.05, weight_decay=decay)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    assert weight.tolist() == pytest.approx(step_by_hand(start, gradients, 0.05, decay), rel=1e-12)


@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_the_first_step_is_lr_times_the_norm(size):
    # pytorch-optimizer 4.1 divides by 1 - beta1 outside of the ratio: ten times as long.
    weight = nn.Parameter(torch.full((4,), size))
    weight.grad = torch.tensor([1.0, -2.0, 3.0, 0.5])
    Lamb([weight], lr=0.1, weight_decay=0).step()
    moved = (weight.detach() - size).norm().item()
    assert moved == pytest.approx(0.1 * 2 * size, rel=1e-3)


def test_a_weight_of_zero_can_leave_it_by_a_step_of_adam():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1.0, -1.0, 2.0])
    Lamb([weight], lr=0.1, weight_decay=0).step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.1, 0.1, -0.1]), rtol=1e-4, atol=0)


def test_a_gradient_of_zero_moves_nothing():
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.zeros(3)
    Lamb([weight], lr=0.1, weight_decay=0).step()
    assert weight.tolist() == [1, 1, 1]


def test_gradients_are_not_clipped_and_their_scale_does_not_matter():
    ends = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.ones(3))
        weight.grad = scale * torch.tensor([1.0, -1.0, 2.0])
        kept = weight.grad.clone()
        Lamb([weight], lr=0.1).step()
        assert torch.equal(weight.grad, kept)
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=0)
