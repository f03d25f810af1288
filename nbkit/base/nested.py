"""Walk over nested tuples, lists, mappings and dataclasses.

They are the containers; everything else is a leaf: a tensor, a number, a string, a module, None.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Children = list[tuple[Any, Any]]


def open_container(value: Any) -> Children | None:
    """List what a container holds, each child with its key, index or field; None for a leaf.

    >>> open_container({"x": 1}), open_container((2, 3)), open_container("text")
    ([('x', 1)], [(0, 2), (1, 3)], None)
    """
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Tensor, torch.nn.Module)):
        children: Children = []
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):  # one with init=False may not be set yet
                children.append((field.name, getattr(value, field.name)))
        return children
    return None


def rebuild_container(value: Any, children: Children) -> Any:
    """Build a container like `value` from other children, under the same keys; `value` stays."""
    if isinstance(value, Mapping):
        return _rebuild_mapping(value, dict(children))
    items = [child for _, child in children]
    if isinstance(value, tuple):
        return _rebuild_tuple(value, items)
    rebuilt = copy.copy(value)
    if isinstance(value, list):
        rebuilt[:] = items
        return rebuilt
    for name, child in children:
        object.__setattr__(rebuilt, name, child)  # also where the dataclass is frozen
    return rebuilt


def walk_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its place, such as `batch['x'][0]`; the only item of a list has none.

    A container that holds itself is opened once.

    >>> list(walk_leaves({"x": [1, 2]}, "batch"))
    [("batch['x'][0]", 1), ("batch['x'][1]", 2)]
    """
    return _walk_nested(value, name, frozenset())


def walk_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its place.

    >>> [place for place, _ in walk_tensors((torch.zeros(2), {"y": torch.ones(2), "n": 3}))]
    ['[0]', "[1]['y']"]
    """
    for place, leaf in walk_leaves(value, name):
        if isinstance(leaf, Tensor):
            yield place, leaf


def list_tensors(value: Any) -> list[Tensor]:
    """List every tensor, in order; one that is held twice counts twice."""
    return [tensor for _, tensor in walk_tensors(value)]


def map_leaves(function: Callable[[Any], Any], value: Any, *, whole: tuple[type, ...] = ()) -> Any:
    """Build the same nested containers with `function` applied to every leaf.

    A container of a type in `whole` is passed to `function` in one piece.

    Raises:
        ValueError: if a container holds itself.

    >>> map_leaves(lambda leaf: leaf + 1, {"x": (1, 2), "y": [3]})
    {'x': (2, 3), 'y': [4]}
    """
    return _map_nested(function, value, whole, frozenset())


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Build the same nested containers with `function` applied to every tensor."""
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def move_tensors(value: Any, device: torch.device | str | None) -> Any:
    """Build the same nested containers with everything that has a `.to` on the device.

    A PackedSequence moves by its own `.to`, since its batch sizes stay on the CPU. Without a
    device the value comes back as it is.
    """
    if device is None:
        return value

    def move(leaf: Any) -> Any:
        return leaf.to(device) if hasattr(leaf, "to") else leaf

    return map_leaves(move, value, whole=(PackedSequence,))


def _walk_nested(value: Any, name: str, above: frozenset[int]) -> Iterator[tuple[str, Any]]:
    children = open_container(value)
    if children is None:
        yield name, value
        return
    if id(value) in above:  # it holds itself
        return
    above |= {id(value)}
    for key, child in children:
        yield from _walk_nested(child, name + _label_child(value, key), above)


def _map_nested(
    function: Callable[[Any], Any], value: Any, whole: tuple[type, ...], above: frozenset[int]
) -> Any:
    children = None if isinstance(value, whole) else open_container(value)
    if children is None:
        return function(value)
    if id(value) in above:
        raise ValueError(
            f"expected nested containers, got a {type(value).__name__} that holds itself. Take the "
            f"reference to itself out of it."
        )
    above |= {id(value)}
    mapped = []
    for key, child in children:
        mapped.append((key, _map_nested(function, child, whole, above)))
    return rebuild_container(value, mapped)


def _label_child(container: Any, key: Any) -> str:
    if isinstance(container, Mapping):
        return f"[{key!r}]"
    if isinstance(container, (tuple, list)):
        return f"[{key}]" if len(container) > 1 else ""
    return f".{key}"


def _rebuild_mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Build a mapping of the same type where it can be copied and filled, otherwise a dict."""
    if type(value) is dict:
        return items
    if hasattr(value, "__setitem__"):  # such as a tokenizer's BatchEncoding, or a defaultdict
        rebuilt: Any = copy.copy(value)
        for key, child in items.items():
            rebuilt[key] = child
        return rebuilt
    # A read-only mapping takes its items when it is made, if its constructor is like dict's.
    try:
        rebuilt = type(value)(items)  # type: ignore[call-arg]
    except TypeError:
        return items
    return rebuilt if isinstance(rebuilt, Mapping) and dict(rebuilt) == items else items


def _rebuild_tuple(value: tuple[Any, ...], items: list[Any]) -> Any:
    if all(old is new for old, new in zip(value, items, strict=True)):
        return value  # nothing to change; torch.Size, for one, takes nothing but integers
    if hasattr(value, "_make"):  # a namedtuple
        return type(value)._make(items)
    try:
        return type(value)(items)
    except TypeError:  # a subclass with a constructor of another form
        return tuple.__new__(type(value), items)
