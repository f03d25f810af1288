"""Batches of one sample, which give a BatchNorm layer no variance: pass them in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbkit.base.batches import count_rows, join_rows
from nbkit.base.model_call import copy_batch
from nbkit.batchnorm.moments import ENOUGH_VALUES


def group_singles(batches: Iterable[Any], starves: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the batches, and those of one sample in groups if they would starve a layer alone.

    Args:
        batches: batches as a loader gives them; of a tuple or list the first item is the input.
        starves: whether a batch of one sample gives some layer a single value per channel. It is
            called once, for the first such batch.

    A group has 16 to 31 samples. If there are fewer samples in all, they are yielded at the end.
    After larger batches they are then yielded one by one, because the statistics of the larger
    batches normalise them better than statistics of so few samples.
    """
    waiting: list[Any] = []
    has_passed = False
    starves_alone: bool | None = None  # unknown before the first batch of one sample
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        is_single = starves_alone is not False and _is_single(inputs)
        if is_single and starves_alone is None:
            # One trial is enough: the samples of a loader have the same form.
            starves_alone = starves((inputs,))
        if not (is_single and starves_alone):
            has_passed = True
            yield batch
            continue
        # The loader may write its next sample into the same memory.
        waiting.append(copy_batch(inputs))
        # A group is passed once another full group could follow, so that no small group is left.
        if len(waiting) == 2 * ENOUGH_VALUES:
            has_passed = True
            yield from _join_samples(waiting[:ENOUGH_VALUES])
            del waiting[:ENOUGH_VALUES]
    if len(waiting) >= ENOUGH_VALUES or not has_passed:
        yield from _join_samples(waiting)
    else:
        yield from _wrap_samples(waiting)


def _join_samples(samples: list[Any]) -> list[tuple[Any]]:
    """Join the samples into one batch; if their sizes differ, keep them one by one."""
    if not samples:
        return []
    joined = join_rows(samples)
    return _wrap_samples(samples) if joined is None else [(joined,)]


def _wrap_samples(samples: list[Any]) -> list[tuple[Any]]:
    """Make each sample a batch, whose first item is the input."""
    return [(sample,) for sample in samples]


def _is_single(inputs: Any) -> bool:
    """Return whether the inputs are one sample; False if their rows cannot be counted."""
    try:
        return count_rows(inputs) == 1
    except ValueError:
        return False
