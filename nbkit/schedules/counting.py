"""Count the updates that a training will make."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Literal

from nbkit.base.numbers import read_integer


def updates(
    loader: Sized | int,
    epochs: int,
    accumulate: int = 1,
    *,
    last: Literal["flush", "drop"] = "flush",
) -> int:
    """Count the optimizer updates of a training, with the incomplete window at an epoch's end.

        flush:  epochs * ceil(batches / accumulate)
        drop:   epochs * floor(batches / accumulate)

    Args:
        loader: a DataLoader or another object whose length is its number of batches; or that
            number.
        epochs: number of passes over the loader, at least 1.
        accumulate: number of micro-batches for one update, as `steps` of `nbkit.accumulate`.
        last: what becomes of fewer micro-batches at the end of an epoch, as in
            `nbkit.accumulate`: "flush" makes an update of them, "drop" none.
    Returns:
        The number of updates, for `lr_schedule(kind, updates)`.
    Raises:
        TypeError: if the loader has no length, as one over an IterableDataset.
        ValueError: if a number is below 1, or nothing would be updated.

    A window without any loss term makes no update, and updates that a loss scale skips are not
    made either. `Scheduled` counts what was really done, so such a training ends a few updates
    before its schedule does.

    >>> updates(10, epochs=3, accumulate=4)  # windows of 4, 4 and 2 batches in each epoch
    9
    """
    batches = _count_batches(loader)
    passes = _read_whole_number("epochs", epochs)
    window = _read_whole_number("accumulate", accumulate)
    if last not in ("flush", "drop"):
        raise ValueError(
            f'last must be "flush" (an update at the end of an epoch) or "drop", got {last!r}.'
        )

    # Each epoch has windows of its own: an incomplete one does not continue in the next epoch.
    each = batches // window if last == "drop" else -(-batches // window)
    if each == 0:
        raise ValueError(
            f"expected at least one update in an epoch, but {batches} batches in windows of "
            f"{window} make none with last={last!r}. Accumulate fewer batches."
        )
    return passes * each


def _count_batches(loader: Any) -> int:
    """Return the number of batches of a loader, or the number itself."""
    count = read_integer(loader)
    if count is None:
        try:
            count = len(loader)
        except TypeError as error:
            raise TypeError(
                f"expected a loader with a length or the number of batches in an epoch, got a "
                f"{type(loader).__name__} without a length ({error}). Pass the number."
            ) from None
    if count < 1:
        raise ValueError(f"expected at least one batch in an epoch, got {count}.")
    return count


def _read_whole_number(name: str, value: Any) -> int:
    """Return a whole number of at least 1."""
    count = read_integer(value)
    if count is None or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return count
