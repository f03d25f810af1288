"""Rows of a batch, whatever it is made of: tensors in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any


def rows(batch: Any) -> int:
    """How many samples a batch holds: the first dimension that its tensors share.

    >>> import torch
    >>> rows((torch.zeros(8, 3), {"label": torch.zeros(8)}))
    8
    """
    lengths: set[int] = set()
    _add_lengths(batch, lengths)
    if len(lengths) != 1:
        found = f"of {sorted(lengths)} rows" if lengths else "nowhere"
        raise ValueError(
            f"expected a batch of tensors that share their first dimension (in tuples, lists and "
            f"dicts), found tensors {found} in a {type(batch).__name__}."
        )
    return lengths.pop()


def take(batch: Any, start: int, stop: int) -> Any:
    """The rows from `start` to before `stop`, in a batch of the same form."""

    def cut(leaf: Any) -> Any:
        if _has_rows(leaf):
            return leaf[start:stop]
        if leaf is None or isinstance(leaf, (bool, int, float)):
            return leaf
        raise TypeError(
            f"a {type(leaf).__name__} in a batch cannot be divided by rows; expected tensors in "
            f"tuples, lists and dicts. Turn it into a tensor, or leave it out of the batch."
        )

    return over_leaves(cut, batch)


def split(batch: Any, parts: int) -> list[Any]:
    """The batch in `parts` pieces, in order, whose lengths differ by one at most.

    >>> import torch
    >>> [len(part) for part in split(torch.zeros(5), 2)]
    [2, 3]
    """
    total = rows(batch)
    ends = [total * i // parts for i in range(parts + 1)]
    return [take(batch, start, stop) for start, stop in pairwise(ends)]


def over_leaves(function: Callable[[Any], Any], batch: Any) -> Any:
    """The batch with `function` applied to everything that is not a tuple, a list or a dict."""
    if isinstance(batch, Mapping):
        return {key: over_leaves(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(over_leaves(function, value) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(over_leaves(function, value) for value in batch)
    return function(batch)


def _add_lengths(batch: Any, lengths: set[int]) -> None:
    if isinstance(batch, (tuple, list)):
        for value in batch:
            _add_lengths(value, lengths)
    elif shape := getattr(batch, "shape", None):
        lengths.add(shape[0])
    elif isinstance(batch, Mapping):
        for value in batch.values():
            _add_lengths(value, lengths)


def _has_rows(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", ())) > 0
