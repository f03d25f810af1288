"""Rows of a batch, whatever it is made of: tensors, numbers and samples in nested containers.

A list says one of two things: its items are parts of each sample, as in [x, y], or they are the
samples, as in [image, image, image]. What fits all of the batch decides; a batch that can be read
in both ways is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from nbkit.base.nested import map_leaves, open_container, rebuild_container

FREE = None  # the rows of what may stand beside any number of rows
# From so many like items on, a whole batch may be a list of samples: [ids, mask, labels] is none,
# three images are.
MANY, MANY_IMAGES = 5, 3

Readings = set[int] | None


def count_rows(batch: Any) -> int:
    """Count the samples of a batch: its arrays' first dimension, or the length of its lists.

    Raises:
        ValueError: if nothing in the batch tells, or its parts do not agree.

    >>> import torch
    >>> count_rows((torch.zeros(8, 3), {"label": torch.zeros(8)}))
    8
    >>> count_rows(([torch.zeros(3, 32, 32)] * 8, [0] * 8))
    8
    """
    for pairs, numbers in ((False, True), (True, True), (False, False)):
        found = _read(batch, pairs, numbers, root=True)
        if found and len(found) > 1:
            raise ValueError(
                f"expected a batch that can be read in one way, got a {type(batch).__name__} that "
                f"may hold {' or '.join(map(str, sorted(found)))} samples: a list of tensors in it "
                f"may be a list of samples, or of the parts of each. Stack the samples into one "
                f"tensor, or put the parts into a dict."
            )
        if found:
            return found.pop()
    if found is FREE and _has_empty_list(batch):
        return 0
    sizes = sorted(_sizes(batch))
    told = f"of {sizes} rows" if sizes else "nowhere"
    raise ValueError(
        f"expected a batch of tensors that share their first dimension (in tuples, lists, dicts "
        f"and dataclasses), or lists with an item a sample, found tensors {told} in a "
        f"{type(batch).__name__}."
    )


def take_rows(batch: Any, start: int, stop: int) -> Any:
    """Cut out the rows from `start` to before `stop`, in a batch of the same form."""
    return _Cutter(batch).cut(batch, slice(start, stop), root=True)


def split_rows(batch: Any, parts: int) -> list[Any]:
    """Divide the batch into `parts` pieces, in order, whose lengths differ by one at most.

    >>> import torch
    >>> [len(part) for part in split_rows(torch.zeros(5), 2)]
    [2, 3]
    """
    cutter = _Cutter(batch)
    ends = [cutter.total * i // parts for i in range(parts + 1)]
    return [cutter.cut(batch, slice(*span), root=True) for span in pairwise(ends)]


def join_rows(batches: Sequence[Any]) -> Any:
    """Join batches of the same form, the inverse of `split_rows`; None if that is impossible.

    >>> import torch
    >>> join_rows([{"x": torch.zeros(2, 3)}, {"x": torch.zeros(1, 3)}])["x"].shape
    torch.Size([3, 3])
    """
    first = batches[0]
    if isinstance(first, torch.Tensor) and first.dim():
        alike = {(x.shape[1:], x.dtype, x.device) if x.dim() else None for x in batches}
        return torch.cat(list(batches)) if len(alike) == 1 else None
    opened = [open_container(batch) for batch in batches]
    if opened[0] is None or not all(children for children in opened):
        return None
    keys = [[key for key, _ in children or ()] for children in opened]
    if any(each != keys[0] for each in keys):
        return None
    columns = zip(*([child for _, child in children or ()] for children in opened), strict=True)
    joined = [join_rows(column) for column in columns]
    if any(part is None for part in joined):
        return None
    return rebuild_container(first, list(zip(keys[0], joined, strict=True)))


def _read(node: Any, pairs: bool, numbers: bool, root: bool = False) -> Readings:
    """The numbers of rows that a node may hold; FREE if it says nothing.

    Args:
        pairs: two arrays in a list may be two samples, not only two parts of each.
        numbers: a list of numbers or strings has an item a sample.
    """
    if _has_rows(node):
        return {node.shape[0]}
    children = open_container(node)
    if children is None:
        return FREE
    if _is_list(node) and _is_list_of_leaves(node):
        free = not numbers or (root and not isinstance(node, list))
        return FREE if free else {len(node)}
    together: Readings = FREE  # what all children agree on
    for _, child in children:
        found = _read(child, pairs, numbers)
        if found is not FREE:
            together = found if together is FREE else together & found
    if _is_list(node) and _may_be_samples(node, root):
        if _is_list(node[0]) and _is_list_of_leaves(node[0]) and not root:
            return {len(node)}  # lists of numbers in a list: a sample each, of any length
        if len(node) != 2 or pairs or not together or not _has_rows(node[0]):
            return (together or set()) | {len(node)}
    return together


class _Cutter:
    """Cuts rows out of a batch, knowing how many it has and how its samples are put together."""

    def __init__(self, batch: Any) -> None:
        self.total = count_rows(batch)
        self.stacked = _is_stacked(batch, root=True)
        self.listed = _is_listed(batch, root=True)

    def cut(self, node: Any, span: slice, root: bool = False) -> Any:
        """The rows of a node in a span."""
        if _has_rows(node):
            return node[span]
        children = open_container(node)
        if children is None or (_is_list(node) and all(child is None for child in node)):
            return _keep(node)
        if _is_list(node) and self._holds_samples(node, root):
            return node[span]
        if _is_list(node) and _is_list_of_leaves(node) and not root:
            raise TypeError(
                f"a {type(node).__name__} of {len(node)} numbers or strings beside {self.total} "
                f"rows cannot be divided by rows. Give it an item a sample, or leave it out of the "
                f"batch."
            )
        return rebuild_container(node, [(key, self.cut(child, span)) for key, child in children])

    def _holds_samples(self, node: Any, root: bool) -> bool:
        """Whether a list is cut between its items, not through each of them."""
        if len(node) != self.total:
            return False
        if _is_list_of_leaves(node):
            return not root or isinstance(node, list)
        parts = _read_parts(node)
        if not _may_be_samples(node, root) or not parts or self.total not in parts:
            return _may_be_samples(node, root)
        if (self.listed and not self.stacked) or _is_list_of_leaves(node[0]):
            return True
        if len(node) == 2 and _has_rows(node[0]):  # two views, or two inputs
            return False
        raise ValueError(
            f"cannot tell how to divide a batch of {self.total} rows: its list of {len(node)} "
            f"tensors may hold the samples, or {len(node)} parts of each. Stack the samples into "
            f"one tensor, or put the parts into a dict."
        )


def _read_parts(node: Any) -> Readings:
    """The rows of a list that holds the parts of each sample."""
    found = [reading for child in node if (reading := _read(child, True, True)) is not FREE]
    return set.intersection(*found) if found else FREE


def _keep(leaf: Any) -> Any:
    """What every piece of a batch gets as it is: a single number, nothing."""
    alone = leaf is None or isinstance(leaf, (bool, int, float, tuple, list))
    if alone or getattr(leaf, "shape", None) == ():
        return leaf
    raise TypeError(
        f"a {type(leaf).__name__} in a batch cannot be divided by rows; expected tensors in "
        f"tuples, lists and dicts. Turn it into a tensor, or leave it out of the batch."
    )


def _is_stacked(node: Any, root: bool = False) -> bool:
    """Whether a tensor stands outside of every list that may be a list of samples."""
    if _has_rows(node):
        return True
    if _is_list(node) and _may_be_samples(node, root):
        return False
    return any(_is_stacked(child) for _, child in open_container(node) or ())


def _is_listed(node: Any, root: bool = False) -> bool:
    """Whether a list of numbers or strings has an item a sample."""
    if _is_list(node) and not root and _is_list_of_leaves(node):
        return True
    return any(_is_listed(child) for _, child in open_container(node) or ())


def _has_rows(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", None) or ()) > 0


def _is_list(node: Any) -> bool:
    return isinstance(node, (tuple, list)) and not hasattr(node, "_fields")


def _is_list_of_leaves(node: Any) -> bool:
    """Whether a list holds numbers, strings or other things without rows, and not only None."""
    plain = all(open_container(item) is None and not _has_rows(item) for item in node)
    return plain and any(item is not None for item in node)


def _may_be_samples(node: Any, root: bool) -> bool:
    """Whether the items are alike, as samples are; at the top there must be many of them."""
    if not node:
        return False
    image = _has_rows(node[0]) and len(node[0].shape) > 2
    if root and len(node) < (MANY_IMAGES if image else MANY):
        return False
    kinds = {_kind(item) for item in node}
    return len(kinds) == 1 and kinds != {"leaf"}


def _kind(item: Any) -> object:
    """What two samples have in common whatever their sizes."""
    if _has_rows(item):
        return "array", len(item.shape), str(getattr(item, "dtype", ""))
    children = open_container(item)
    if children is None:
        return "leaf"
    if isinstance(item, Mapping):
        return "mapping", *sorted(str(key) for key, _ in children)
    kinds = [_kind(child) for _, child in children]
    if _is_list(item) and len(set(kinds)) < 2:
        return "list", *kinds[:1]
    return type(item).__name__, *kinds


def _has_empty_list(batch: Any) -> bool:
    children = open_container(batch)
    return children == [] or any(_has_empty_list(child) for _, child in children or ())


def _sizes(batch: Any) -> set[int]:
    """The first dimensions of all arrays, for a message."""
    sizes: set[int] = set()

    def note(leaf: Any) -> None:
        if _has_rows(leaf):
            sizes.add(leaf.shape[0])

    map_leaves(note, batch)
    return sizes
