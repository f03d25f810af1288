"""The exercise of weight_norm: right solutions pass, wrong ones get a reason."""

import re

import pytest
import torch
from torch.nn.functional import normalize

from nbkit.lab.exercise import load_exercise

EXERCISE = load_exercise("weight_norm", "normed_weight")


def by_normalize(g, v):
    return (g[:, None] * normalize(v.flatten(1), dim=1)).view(v.shape)


def by_square_root(g, v):
    dims = tuple(range(1, v.dim()))
    lengths = v.square().sum(dims, keepdim=True).sqrt()
    return v / lengths * g.view(lengths.shape)


def by_torch(g, v):
    return torch._weight_norm(v, g.view(-1, *[1] * (v.dim() - 1)), 0)


def freeze_length(g, v):
    """The right weight, with the length taken for a constant."""
    dims = tuple(range(1, v.dim()))
    lengths = v.detach().square().sum(dims, keepdim=True).sqrt()
    return v / lengths * g.view(lengths.shape)


@pytest.mark.parametrize("right", [by_normalize, by_square_root, by_torch])
def test_right_solutions_pass(right):
    assert EXERCISE.check(right) is None


def test_the_reference_passes_and_the_stub_does_not():
    assert EXERCISE.check(EXERCISE.reference) is None
    assert EXERCISE.check(EXERCISE.stub)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda g, v: g[:, None] * v, "expected rows of the lengths g"),
        (lambda g, v: g[:, None] * v / v.norm(), "expected rows of the lengths g"),
        (lambda g, v: v / v.norm(dim=1, keepdim=True), "expected rows of the lengths g"),
        (lambda g, v: -by_normalize(g, v), "cosine 1"),
        (lambda g, v: g[:, None] * normalize(v, dim=1), "v of shape \\(3, 2, 3, 3\\)"),
        (lambda g, v: by_normalize(g, v.detach()), "got none in v"),
        (lambda g, v: by_normalize(g.detach(), v), "got none in g"),
        (freeze_length, "also points along"),
    ],
)
def test_a_wrong_solution_reads_what_was_expected(wrong, reason):
    assert re.search(reason, EXERCISE.check(wrong) or "")
