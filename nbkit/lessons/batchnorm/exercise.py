"""The exercise of the lesson batchnorm: the mean and the variance of data that comes in batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain
Batches = list[list[list[float]]]  # batch, sample, channel


def stub_pooled(batches: Iterable[Tensor]) -> tuple[float, float]:
    """Return mean 0 and variance 1 for any data: the learner starts from here."""
    mean, var = 0.0, 1.0
    # The loop shows the learner that the batches come one at a time.
    for _ in batches:
        pass
    return mean, var


def solve_pooled(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Add up count, sum and sum of squares in float64, and compute mean and variance from them.

    mean = total / count,  var = squares / count - mean^2
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in batches:
        count += len(x)
        # float64, since the last line subtracts two numbers that are nearly equal.
        total = total + x.double().sum(0)
        squares = squares + (x.double() ** 2).sum(0)
    mean = total / count
    return mean, squares / count - mean**2


class OnePass:
    """Batches that come once, as from a stream; it notes whether somebody asks for them again."""

    def __init__(self, batches: Batches) -> None:
        self._left = iter(batches)
        self._is_over = False
        self.was_asked_again = False

    def __iter__(self) -> OnePass:
        return self

    def __next__(self) -> Tensor:
        # An iterator that has ended is asked once more by a second loop only.
        self.was_asked_again = self.was_asked_again or self._is_over
        try:
            return torch.tensor(next(self._left))
        except StopIteration:
            self._is_over = True
            raise


def _check_moments(
    given: Batches, mean: list[float], var: list[float], attempt: Attempt
) -> str | None:
    """Compare what the attempt returns for these batches with mean and variance, one a channel."""
    batches = OnePass(given)
    try:
        found = attempt(batches)
    except Exception:
        # What a second loop over nothing raises, such as a division by zero, is not the cause.
        if not batches.was_asked_again:
            raise
    if batches.was_asked_again:
        return (
            f"for the batches {given} expected one loop over them, got a second one, which finds "
            f"none left. The batches come once: keep what you need of each as it passes."
        )
    got_mean, got_var = (torch.as_tensor(part).double() for part in found)
    for name, got, expected in (("mean", got_mean, mean), ("variance", got_var, var)):
        wanted = torch.tensor(expected, dtype=torch.float64)
        if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-3, atol=1e-6):
            return (
                f"for the batches {given} expected the {name} {_round_values(wanted)}, "
                f"got {_round_values(got)}."
            )
    return None


def _round_values(values: Tensor) -> float | list[float]:
    """Round to four digits for a message: a number for a scalar, else a flat list."""
    if values.ndim == 0:
        return round(values.item(), 4)
    return [round(value, 4) for value in values.flatten().tolist()]


def one_batch(attempt: Attempt) -> str | None:
    """It returns the mean and the population variance: divided by the count, not by one less."""
    return _check_moments([[[0.0], [2.0]]], [1.0], [1.0], attempt)


def each_channel_for_itself(attempt: Attempt) -> str | None:
    """It returns one mean and one variance for each channel."""
    return _check_moments([[[0.0, 1.0], [2.0, 5.0]]], [1.0, 3.0], [1.0, 4.0], attempt)


def a_ragged_batch_counts_for_what_it_is(attempt: Attempt) -> str | None:
    """A batch of one sample has half the weight of a batch of two."""
    # (0 + 2 + 10) / 3 = 4; the mean of the two batches' means would be 5.5.
    return _check_moments([[[0.0], [2.0]], [[10.0]]], [4.0], [56 / 3], attempt)


def the_variance_between_batches_counts(attempt: Attempt) -> str | None:
    """The variance between batches counts: without any inside they may lie far apart."""
    # Within each batch the variance is 0; between them it is 25.
    return _check_moments([[[0.0], [0.0]], [[10.0], [10.0]]], [5.0], [25.0], attempt)


def far_from_zero_the_digits_last(attempt: Attempt) -> str | None:
    """Its digits are right far from zero, where a difference of squares in float32 has none."""
    given = [[[2000.0], [2000.5]], [[2001.0], [2001.5]]]
    return _check_moments(given, [2000.75], [0.3125], attempt)


def one_batch_at_a_time(attempt: Attempt) -> str | None:
    """It keeps no batch that has been counted: all the data may not fit into memory."""
    # A weak set holds the batches that somebody else still refers to.
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def count_alive() -> Iterator[Tensor]:
        nonlocal most
        for value in range(20):
            x = torch.full((2, 1), float(value))
            alive.add(x)
            most = max(most, len(alive))
            yield x
            del x

    attempt(count_alive())
    # Three are fine: the next batch, the one being counted, and a loop variable not yet replaced.
    if most > 3:
        return f"for 20 batches expected one or two in memory at a time, there were {most}."
    return None


EXERCISES = [
    Exercise(
        "pooled",
        stub_pooled,
        solve_pooled,
        [
            one_batch,
            each_channel_for_itself,
            a_ragged_batch_counts_for_what_it_is,
            the_variance_between_batches_counts,
            far_from_zero_the_digits_last,
            one_batch_at_a_time,
        ],
    )
]

ANSWERS = {
    "freezing": Answer(
        choices="abc",
        right="a",
        why="it stops the training of weight and bias only. The forward pass moves the running "
        "statistics, and they have no gradient to switch off.",
        hints={
            "b": "look again at what the mode decides. In eval mode a layer moves nothing, until "
            "somebody calls model.train().",
            "c": "look again at measure_transfer: with freeze_bn_ the second training kept the "
            "statistics of the first.",
        },
    )
}
