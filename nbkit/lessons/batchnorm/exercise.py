"""The exercise of batchnorm: the mean and the variance of data that comes in batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from nbkit.lab.exercise import Exercise


def stub(batches: Iterable[Tensor]):
    """What the learner starts from."""
    mean, var = 0.0, 1.0
    for _ in batches:
        pass
    return mean, var


def reference(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Count, sum and sum of squares, in float64: the last line subtracts what is nearly equal."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in batches:
        count += len(x)
        total = total + x.double().sum(0)
        squares = squares + (x.double() ** 2).sum(0)
    mean = total / count
    return mean, squares / count - mean**2


def _told(given: list, expected: tuple[list, list], attempt: Callable) -> str | None:
    """None where the attempt gives these means and variances for these batches."""
    found = attempt(torch.tensor(batch) for batch in given)
    means, variances = (torch.as_tensor(part).double() for part in found)
    wanted = [torch.tensor(part, dtype=torch.float64) for part in expected]
    for name, got, want in zip(("mean", "variance"), (means, variances), wanted, strict=True):
        if got.shape != want.shape or not torch.allclose(got, want, rtol=1e-3, atol=1e-6):
            said = [round(value, 4) for value in want.tolist()]
            return f"for the batches {given} expected the {name} {said}, got {_shown(got)}."
    return None


def _shown(values: Tensor) -> object:
    if values.ndim == 0:
        return round(values.item(), 4)
    return [round(value, 4) for value in values.flatten().tolist()]


def one_batch(attempt: Callable) -> str | None:
    """The mean and the population variance: divided by the count, not by one less."""
    return _told([[[0.0], [2.0]]], ([1.0], [1.0]), attempt)


def each_channel_for_itself(attempt: Callable) -> str | None:
    """One mean and one variance for each channel."""
    return _told([[[0.0, 1.0], [2.0, 5.0]]], ([1.0, 3.0], [1.0, 4.0]), attempt)


def a_ragged_batch_counts_for_what_it_is(attempt: Callable) -> str | None:
    """A batch of one sample has half the weight of a batch of two."""
    return _told([[[0.0], [2.0]], [[10.0]]], ([4.0], [56 / 3]), attempt)


def the_variance_between_batches_counts(attempt: Callable) -> str | None:
    """The variance between batches counts: without any inside they may lie far apart."""
    return _told([[[0.0], [0.0]], [[10.0], [10.0]]], ([5.0], [25.0]), attempt)


def far_from_zero_the_digits_last(attempt: Callable) -> str | None:
    """The right digits far from zero, where float32 has none left for a difference of squares."""
    given = [[[2000.0], [2000.5]], [[2001.0], [2001.5]]]
    return _told(given, ([2000.75], [0.3125]), attempt)


def one_batch_at_a_time(attempt: Callable) -> str | None:
    """A batch that has been counted is let go: the whole data may not fit into the memory."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def batches() -> Iterator[Tensor]:
        nonlocal most
        for value in range(20):
            x = torch.full((2, 1), float(value))
            alive.add(x)
            most = max(most, len(alive))
            yield x
            del x

    attempt(batches())
    if most > 3:  # the one that comes, the one that is counted, and one that is on its way out
        return f"for 20 batches expected one or two in memory at a time, there were {most}."
    return None


EXERCISES = [
    Exercise(
        "pooled",
        stub,
        reference,
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
