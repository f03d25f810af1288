"""Dicts, lists and sets: each stays the same object and gets its items back."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbkit.base.leaves import PLAIN, Places, list_leaves, name_child
from nbkit.base.place import Place, copy_items, name_items

# An OrderedDict keeps its order beside the dict, so that dict.update would not restore it.
CONTAINERS: tuple[Any, ...] = (
    *(collections.OrderedDict, dict, list, set, collections.deque, bytearray),
)


class ContainerState(Place):
    """A container: its items, and the attributes of one whose class is not Python's."""

    def __init__(self, name: str, owner: Any, strict: bool = True) -> None:
        self.kind = _find_kind(owner)
        attributes = getattr(owner, "__dict__", None)
        if attributes is owner:  # a dict whose items are its attributes has them once
            attributes = None
        # The plain copy keeps which objects are in it; the owner itself stays in use.
        value = (read_items(owner), None if attributes is None else dict(attributes))
        super().__init__(name, owner, value, self._put_items_back, strict=strict)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List the items, and the attributes."""
        items, attributes = self.value
        if isinstance(items, dict):
            yield from name_items(self.name, items)
        elif isinstance(items, list):
            for position, item in enumerate(items):
                yield name_child(self.name, position), item
        yield from name_items(self.name, attributes or {})

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the items and the attributes, but not what has a place."""
        items, attributes = self.value
        self.saved = (copy_items(items, memo), copy_items(attributes, memo))

    def describe_value(self, places: Places) -> list[Any]:
        """List the items; those of a set in an order that is the same in every process."""
        items, attributes = self.value
        # The order of a set changes with the process.
        if self.kind is set:
            items = sorted(items, key=repr)
        return [type(self.owner).__name__, *list_leaves((items, attributes), places)]

    def _put_items_back(self, saved: Any) -> None:
        items, attributes = saved
        items = self._prefer_originals(self.value[0], items)
        # An unchanged container is not touched: others may iterate over it.
        if not have_same_items(read_items(self.owner), items):
            refill_container(self.kind, self.owner, items)
        if attributes is not None and dict(vars(self.owner)) != attributes:
            vars(self.owner).clear()
            vars(self.owner).update(attributes)

    def _prefer_originals(self, were: Any, saved: Any) -> Any:
        """Take each item that is unchanged as it was, and the copies of the others."""
        if isinstance(saved, dict):
            items = {}
            for (key, value), (key_copy, value_copy) in zip(
                were.items(), saved.items(), strict=True
            ):
                original = self.prefer_original(key, key_copy)
                items[original] = self.prefer_original(value, value_copy)
            return items
        if isinstance(saved, list):
            return [self.prefer_original(*pair) for pair in zip(were, saved, strict=True)]
        return saved


class Hooks(Place):
    """The dicts of hooks of one object, by number. A digest knows the order, not the numbers.

    The numbers count up in a process. What a hook collects is its owner's to keep. Hooks that
    compute a weight, such as `nn.utils.weight_norm`'s, are part of the module.
    """

    def __init__(self, name: str, dicts: dict[str, dict[int, Any]]) -> None:
        value = {key: dict(hooks) for key, hooks in dicts.items()}
        super().__init__(name, object(), value, self._put_hooks_back)
        self.dicts = dicts

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which hooks there are."""
        self.saved = self.value

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List the hooks of torch that compute a weight."""
        for hooks in self.value.values():
            for hook in hooks.values():
                if type(hook).__module__.startswith("torch.nn.utils."):
                    yield f"{self.name}: {type(hook).__name__}", hook

    def describe_value(self, places: Places) -> list[Any]:
        """List the hooks in their order; a hook that two dicts hold has one number in both."""
        found: list[Any] = []
        numbers: dict[int, int] = {}
        for key, hooks in self.value.items():
            for number, hook in hooks.items():
                found.append(f"{key} {numbers.setdefault(number, len(numbers))}")
                found += list_leaves(hook, places)
        return found

    def _put_hooks_back(self, saved: dict[str, dict[int, Any]]) -> None:
        for key, hooks in self.dicts.items():
            if not have_same_items(hooks, saved[key]):
                # The handles refer to the dict, so it stays the same object.
                refill_container(type(hooks), hooks, saved[key])


def _find_kind(container: Any) -> Any:
    """Find which of the known containers this is, or inherits from."""
    if type(container) in CONTAINERS:
        return type(container)
    return next(kind for kind in CONTAINERS if isinstance(container, kind))


def read_items(container: Any) -> Any:
    """Copy the items of a container into a plain dict, list or bytes."""
    if isinstance(container, dict):
        return dict(container.items())
    return bytes(container) if isinstance(container, bytearray) else list(container)


def have_same_items(items: Any, others: Any) -> bool:
    """Say whether two containers hold the same objects in the same order.

    An unchanged container is then left alone. Plain keys are compared by type and value, all else
    by identity.
    """
    if isinstance(items, Mapping):
        return len(items) == len(others) and _have_same_pairs(items, others)
    if isinstance(items, Sequence) and not isinstance(items, bytes):
        return len(items) == len(others) and all(map(_is_same_object, items, others))
    return bool(items == others)


def _have_same_pairs(items: Mapping[Any, Any], others: Mapping[Any, Any]) -> bool:
    pairs = zip(items.items(), others.items(), strict=True)
    for (key, value), (other_key, other) in pairs:
        if value is not other:
            return False
        if key is other_key:
            continue
        if type(key) is not type(other_key) or type(key) not in PLAIN or key != other_key:
            return False
    return True


def _is_same_object(first: object, second: object) -> bool:
    return first is second


def refill_container(kind: Any, container: Any, items: Any) -> None:
    """Put the items back into a container, without what its own class does at each insertion."""
    # kind is Python's own class, so that the methods of a subclass are passed by.
    kind.clear(container)
    if isinstance(items, dict):
        for key, value in items.items():
            kind.__setitem__(container, key, value)
    elif kind is set:
        kind.update(container, items)
    else:
        kind.extend(container, items)
