"""The exercise of the lesson embeddings: a lookup as a product with one-hot rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain


def stub_embed(words: Tensor, table: Tensor) -> Tensor | None:
    """Return nothing: the learner starts from here."""
    return None


def solve_embed(words: Tensor, table: Tensor) -> Tensor:
    """Look up rows by a matrix product: words (...) of int64, table (vocabulary, numbers)."""
    # (..., vocabulary) @ (vocabulary, numbers) -> (..., numbers)
    return one_hot(words, len(table)).to(table.dtype) @ table


def _make_table() -> Tensor:
    """Make a table whose numbers tell word and place: row k holds 10 k, 10 k + 1, 10 k + 2."""
    return 10.0 * torch.arange(5.0)[:, None] + torch.arange(3.0)


def _check_rows(found: Any, words: Tensor, table: Tensor) -> str | None:
    """Compare with torch's own indexing, in a sentence if they differ."""
    wanted = table.detach()[words]
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
        return (
            f"for words of shape {tuple(words.shape)} and a table of shape {tuple(table.shape)} "
            f"expected a tensor of shape {tuple(wanted.shape)}, got {got}."
        )
    if not torch.allclose(found.detach(), wanted):
        return (
            f"for words {words.tolist()} expected the rows {wanted.tolist()}, "
            f"got {found.detach().tolist()}."
        )
    return None


def it_finds_the_rows(attempt: Attempt) -> str | None:
    """It returns the row of each word, in order."""
    words, table = torch.tensor([4, 0, 2]), _make_table()
    return _check_rows(attempt(words, table), words, table)


def it_takes_a_batch(attempt: Attempt) -> str | None:
    """Words of shape (samples, length) give (samples, length, numbers)."""
    words, table = torch.tensor([[1, 1, 3], [0, 4, 2]]), _make_table()
    return _check_rows(attempt(words, table), words, table)


def the_last_word_may_be_missing(attempt: Attempt) -> str | None:
    """It works for words that do not include the last of the vocabulary."""
    words, table = torch.tensor([0, 1]), _make_table()
    return _check_rows(attempt(words, table), words, table)


def only_rows_read_get_gradients(attempt: Attempt) -> str | None:
    """A row's gradient is the sum over the places where its word stands, zero for other words."""
    words, table = torch.tensor([1, 3, 1]), _make_table().requires_grad_()
    total = attempt(words, table).sum()
    # A result without a history would make `backward` raise an error that names no cause.
    if total.requires_grad:
        total.backward()
    if table.grad is None:
        return "expected a gradient in the table, got none: no detach, no .data."
    # Word 1 stands twice, word 3 once.
    wanted = [0.0, 2.0, 0.0, 1.0, 0.0]
    got = table.grad[:, 0].tolist()
    if got != wanted:
        return f"for the sum over the words [1, 3, 1] expected row gradients {wanted}, got {got}."
    return None


EXERCISES = [
    Exercise(
        "embed",
        stub_embed,
        solve_embed,
        [
            it_finds_the_rows,
            it_takes_a_batch,
            the_last_word_may_be_missing,
            only_rows_read_get_gradients,
        ],
    )
]

ANSWERS = {
    "table": Answer(
        choices="abc",
        right="c",
        why="the second argument of normal_ is the mean. The table gets a mean of 0.1 and keeps "
        "the default standard deviation of 1, ten times what was meant.",
        hints={
            "a": "std= is named, and the mean keeps its default of 0.",
            "b": "PyTorch's table has a spread of 1, so a tenth of it has a spread of 0.1.",
        },
    )
}
