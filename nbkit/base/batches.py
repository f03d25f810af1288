"""Count, cut and join the rows of a batch of tensors, numbers and nested containers.

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

FREE = None  # the reading of what goes with any number of rows, such as a single number
# A whole batch may be a list of samples from this many like items on: [ids, mask, labels] is not
# one, three images are.
MANY, MANY_IMAGES = 5, 3

Readings = set[int] | None  # the numbers of rows that a batch may have


def count_rows(batch: Any) -> int:
    """Count the samples of a batch: its arrays' first dimension, or the length of its lists.

    Raises:
        ValueError: if nothing in the batch has rows, or its parts do not agree.

    >>> import torch
    >>> count_rows((torch.zeros(8, 3), {"label": torch.zeros(8)}))
    8
    >>> count_rows(([torch.zeros(3, 32, 32)] * 8, [0] * 8))
    8
    """
    # The strictest reading first: only where it finds nothing may a list be more than parts.
    for pairs, numbers in ((False, True), (True, True), (False, False)):
        found = _read_row_counts(batch, pairs, numbers, root=True)
        # Two readings of one batch, such as 2 views of 8 rows or 2 samples: the user must say.
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
    sizes = sorted(_list_first_dimensions(batch))
    received = f"tensors of {sizes} rows" if sizes else "no tensors"
    raise ValueError(
        f"expected a batch of tensors that share their first dimension (in tuples, lists, dicts "
        f"and dataclasses), or lists with an item a sample, found {received} in a "
        f"{type(batch).__name__}."
    )


def split_rows(batch: Any, parts: int) -> list[Any]:
    """Divide the batch into `parts` pieces, in order, whose lengths differ by one at most.

    >>> import torch
    >>> [len(part) for part in split_rows(torch.zeros(5), 2)]
    [2, 3]
    """
    cutter = _Cutter(batch)
    # Rounding each end down spreads what does not divide evenly over the pieces.
    ends = [cutter.total * i // parts for i in range(parts + 1)]
    return [cutter.cut_node(batch, slice(*span), root=True) for span in pairwise(ends)]


def join_rows(batches: Sequence[Any]) -> Any:
    """Join batches of the same form, the inverse of `split_rows`; None if that is impossible.

    >>> import torch
    >>> join_rows([{"x": torch.zeros(2, 3)}, {"x": torch.zeros(1, 3)}])["x"].shape
    torch.Size([3, 3])
    """
    first = batches[0]
    if isinstance(first, torch.Tensor) and first.dim():
        return torch.cat(list(batches)) if _fit_together(batches) else None
    children = open_container(first)
    if not children:
        return None
    keys = [key for key, _ in children]
    # One column for each key, with the child of every batch under it.
    columns: list[list[Any]] = [[] for _ in keys]
    for batch in batches:
        opened = open_container(batch) or []
        if [key for key, _ in opened] != keys:
            return None
        for column, (_, child) in zip(columns, opened, strict=True):
            column.append(child)
    joined = []
    for key, column in zip(keys, columns, strict=True):
        part = join_rows(column)
        if part is None:
            return None
        joined.append((key, part))
    return rebuild_container(first, joined)


def _fit_together(tensors: Sequence[torch.Tensor]) -> bool:
    """Say whether tensors differ in their first dimension only."""
    forms = set()
    for tensor in tensors:
        forms.add((tensor.shape[1:], tensor.dtype, tensor.device) if tensor.dim() else None)
    return len(forms) == 1


def _read_row_counts(node: Any, pairs: bool, numbers: bool, root: bool = False) -> Readings:
    """Return the numbers of rows that a node may hold; FREE if it says nothing.

    Args:
        node: a batch, or something in it.
        pairs: two arrays in a list may be two samples, not only two parts of each.
        numbers: a list of numbers or strings has an item a sample.
        root: whether the node is the whole batch.
    """
    if _has_rows(node):
        # (rows, ...)
        return {node.shape[0]}
    children = open_container(node)
    if children is None:
        return FREE
    if _is_plain_sequence(node) and _is_list_of_leaves(node):
        # At the top, numbers in a tuple are arguments; in a list they are samples.
        free = not numbers or (root and not isinstance(node, list))
        return FREE if free else {len(node)}
    together: Readings = FREE  # what all children agree on
    for _, child in children:
        found = _read_row_counts(child, pairs, numbers)
        if found is not FREE:
            together = found if together is FREE else together & found
    if _is_plain_sequence(node) and _may_be_samples(node, root):
        if _is_plain_sequence(node[0]) and _is_list_of_leaves(node[0]) and not root:
            # Lists of numbers in a list are a sample each, of any length, such as token ids.
            return {len(node)}
        # Like items may be samples, so their number is a reading too; two arrays only if `pairs`.
        if len(node) != 2 or pairs or not together or not _has_rows(node[0]):
            return (together or set()) | {len(node)}
    return together


class _Cutter:
    """Cut rows out of a batch, given how many it has and how its samples are put together."""

    def __init__(self, batch: Any) -> None:
        self.total = count_rows(batch)
        self.stacked = _has_stacked_tensor(batch, root=True)
        self.listed = _has_listed_numbers(batch, root=True)

    def cut_node(self, node: Any, span: slice, root: bool = False) -> Any:
        """Return the rows of a node in a span."""
        if _has_rows(node):
            return node[span]
        children = open_container(node)
        if children is None or (_is_plain_sequence(node) and all(child is None for child in node)):
            return _keep_whole(node)
        if _is_plain_sequence(node) and self._holds_samples(node, root):
            return node[span]
        if _is_plain_sequence(node) and _is_list_of_leaves(node) and not root:
            raise TypeError(
                f"a {type(node).__name__} of {len(node)} numbers or strings beside {self.total} "
                f"rows cannot be divided by rows. Give it an item a sample, or leave it out of the "
                f"batch."
            )
        pieces = []
        for key, child in children:
            pieces.append((key, self.cut_node(child, span)))
        return rebuild_container(node, pieces)

    def _holds_samples(self, node: Any, root: bool) -> bool:
        """Say whether a list is cut between its items, not through each of them."""
        if len(node) != self.total:
            return False
        if _is_list_of_leaves(node):
            return not root or isinstance(node, list)
        parts = _read_parts(node)
        if not _may_be_samples(node, root) or not parts or self.total not in parts:
            return _may_be_samples(node, root)
        if (self.listed and not self.stacked) or _is_list_of_leaves(node[0]):
            return True
        # Two tensors are two views, or two inputs, of each sample.
        if len(node) == 2 and _has_rows(node[0]):
            return False
        raise ValueError(
            f"cannot tell how to divide a batch of {self.total} rows: its list of {len(node)} "
            f"tensors may hold the samples, or {len(node)} parts of each. Stack the samples into "
            f"one tensor, or put the parts into a dict."
        )


def _read_parts(node: Any) -> Readings:
    """Return the numbers of rows of a list that holds the parts of each sample."""
    together: Readings = FREE
    for child in node:
        found = _read_row_counts(child, True, True)
        if found is not FREE:
            together = found if together is FREE else together & found
    return together


def _keep_whole(leaf: Any) -> Any:
    """Return a leaf that every piece of a batch gets as it is: a single number, or None."""
    alone = leaf is None or isinstance(leaf, (bool, int, float, tuple, list))
    if alone or getattr(leaf, "shape", None) == ():
        return leaf
    raise TypeError(
        f"a {type(leaf).__name__} in a batch cannot be divided by rows; expected tensors in "
        f"tuples, lists and dicts. Turn it into a tensor, or leave it out of the batch."
    )


def _has_stacked_tensor(node: Any, root: bool = False) -> bool:
    """Say whether a tensor is outside of every list that may be a list of samples."""
    if _has_rows(node):
        return True
    if _is_plain_sequence(node) and _may_be_samples(node, root):
        return False
    return any(_has_stacked_tensor(child) for _, child in open_container(node) or ())


def _has_listed_numbers(node: Any, root: bool = False) -> bool:
    """Say whether a list of numbers or strings has an item a sample."""
    if _is_plain_sequence(node) and not root and _is_list_of_leaves(node):
        return True
    return any(_has_listed_numbers(child) for _, child in open_container(node) or ())


def _has_rows(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", None) or ()) > 0


def _is_plain_sequence(node: Any) -> bool:
    # A namedtuple has fields, so its items are parts of each sample, like a dict's.
    return isinstance(node, (tuple, list)) and not hasattr(node, "_fields")


def _is_list_of_leaves(node: Any) -> bool:
    """Say whether a list holds numbers, strings or other things without rows, not only None."""
    is_empty = True
    for item in node:
        if open_container(item) is not None or _has_rows(item):
            return False
        is_empty = is_empty and item is None
    return not is_empty


def _may_be_samples(node: Any, root: bool) -> bool:
    """Say whether the items are alike, as samples are; a whole batch must have many of them."""
    if not node:
        return False
    image = _has_rows(node[0]) and len(node[0].shape) > 2  # (channels, height, width)
    if root and len(node) < (MANY_IMAGES if image else MANY):
        return False
    # A set: one form means that the items are alike.
    kinds = {_describe_form(item) for item in node}
    return len(kinds) == 1 and kinds != {"leaf"}


def _describe_form(item: Any) -> object:
    """Describe what samples of one batch have in common; their sizes may differ."""
    if _has_rows(item):
        return "array", len(item.shape), str(getattr(item, "dtype", ""))
    children = open_container(item)
    if children is None:
        return "leaf"
    if isinstance(item, Mapping):
        return "mapping", *sorted(str(key) for key, _ in children)
    kinds = [_describe_form(child) for _, child in children]
    # Lists of equal kind may differ in length from sample to sample, as sentences do.
    if _is_plain_sequence(item) and len(set(kinds)) < 2:
        return "list", *kinds[:1]
    return type(item).__name__, *kinds


def _has_empty_list(batch: Any) -> bool:
    children = open_container(batch)
    return children == [] or any(_has_empty_list(child) for _, child in children or ())


def _list_first_dimensions(batch: Any) -> set[int]:
    """List the first dimensions of all arrays, for a message."""
    sizes: set[int] = set()

    def note_rows(leaf: Any) -> None:
        if _has_rows(leaf):
            sizes.add(leaf.shape[0])

    map_leaves(note_rows, batch)
    return sizes
