"""The exercise of embeddings: right solutions pass, wrong ones get a reason."""

import pytest
import torch
from torch.nn.functional import embedding, one_hot

from nbkit.lab.exercise import load_exercise

EXERCISE = load_exercise("embeddings", "embed")


def by_comparison(words, table):
    return (words[..., None] == torch.arange(len(table))).float() @ table


def by_identity(words, table):
    return torch.eye(len(table))[words] @ table


@pytest.mark.parametrize("right", [by_comparison, by_identity, embedding])
def test_right_solutions_pass(right):
    assert EXERCISE.check(right) is None


def test_the_reference_passes_and_the_stub_does_not():
    assert EXERCISE.check(EXERCISE.reference) is None
    assert EXERCISE.check(EXERCISE.stub)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda words, table: table, "expected a tensor of shape"),
        (lambda words, table: table[words - 1], "expected the rows"),
        (lambda words, table: one_hot(words, 5) @ table, "it raised RuntimeError"),
        (lambda words, table: one_hot(words).float() @ table, "it raised RuntimeError"),
        (lambda words, table: table.detach()[words], "expected a gradient in the table"),
        (lambda words, table: table[words].detach() + 0 * table[words], "row gradients"),
    ],
)
def test_a_wrong_solution_reads_what_was_expected(wrong, reason):
    assert reason in (EXERCISE.check(wrong) or "")
