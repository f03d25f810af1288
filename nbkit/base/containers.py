"""Dicts, lists and sets: each stays the same object and gets its items back."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

from nbkit.base.leaves import PLAIN, Places, list_leaves, name_child
from nbkit.base.place import Place, name_items

# An OrderedDict keeps its order beside the dict, so that dict.update would pass it by.
KINDS: tuple[Any, ...] = (
    *(collections.OrderedDict, dict, list, set, collections.deque, bytearray),
)


class Items(Place):
    """A container: its items, and what hangs on it as attributes where its class is somebody's."""

    def __init__(self, name: str, owner: Any, strict: bool = True) -> None:
        self.kind = next(kind for kind in KINDS if isinstance(owner, kind))
        attributes = getattr(owner, "__dict__", None)
        if attributes is owner:  # a dict whose items are its attributes has them once
            attributes = None
        value = (read_items(owner), None if attributes is None else dict(attributes))
        super().__init__(name, owner, value, self._put, strict=strict)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List the items, and the attributes."""
        items, attributes = self.value
        if isinstance(items, dict):
            yield from name_items(self.name, items)
        elif isinstance(items, list):
            yield from ((name_child(self.name, n), item) for n, item in enumerate(items))
        yield from name_items(self.name, attributes or {})

    def describe(self, places: Places) -> list[Any]:
        """List the items; those of a set in an order that is the same in every process."""
        items, attributes = self.value
        if self.kind is set:
            items = sorted(items, key=repr)
        return [type(self.owner).__name__, *list_leaves((items, attributes), places)]

    def _put(self, saved: Any) -> None:
        (items, attributes), (were, _) = saved, self.value
        if isinstance(items, dict):
            pairs = zip(were.items(), items.items(), strict=True)
            items = {
                self.prefer_original(key, copied): self.prefer_original(value, copy)
                for (key, value), (copied, copy) in pairs
            }
        elif isinstance(items, list):
            items = [self.prefer_original(*pair) for pair in zip(were, items, strict=True)]
        if identify_items(read_items(self.owner)) != identify_items(items):
            refill(self.kind, self.owner, items)
        if attributes is not None and dict(vars(self.owner)) != attributes:
            vars(self.owner).clear()
            vars(self.owner).update(attributes)


class Hooks(Place):
    """The dicts of hooks of one object, by number. A digest knows the order, not the numbers.

    They count up in a process. A hook is somebody's: what it collects is theirs to keep. Those that
    compute a weight, such as `nn.utils.weight_norm`'s, are part of the module.
    """

    def __init__(self, name: str, dicts: dict[str, dict[int, Any]]) -> None:
        value = {key: dict(hooks) for key, hooks in dicts.items()}
        super().__init__(name, object(), value, self._put)
        self.dicts = dicts

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which hooks there are."""
        self.saved = self.value

    def children(self) -> Iterator[tuple[str, Any]]:
        """List the hooks of torch's own that compute a weight."""
        for hooks in self.value.values():
            for hook in hooks.values():
                if type(hook).__module__.startswith("torch.nn.utils."):
                    yield f"{self.name}: {type(hook).__name__}", hook

    def describe(self, places: Places) -> list[Any]:
        """List the hooks in their order; two dicts that speak of one hook give it one number."""
        found: list[Any] = []
        numbers: dict[int, int] = {}
        for key, hooks in self.value.items():
            for number, hook in hooks.items():
                found.append(f"{key} {numbers.setdefault(number, len(numbers))}")
                found += list_leaves(hook, places)
        return found

    def _put(self, saved: dict[str, dict[int, Any]]) -> None:
        for key, hooks in self.dicts.items():
            if identify_items(hooks) != identify_items(saved[key]):
                refill(type(hooks), hooks, saved[key])  # handles refer to the dict: it stays


def read_items(container: Any) -> Any:
    """Copy the items of a container into a plain dict, list or bytes."""
    if isinstance(container, dict):
        return dict(container.items())
    return bytes(container) if isinstance(container, bytearray) else list(container)


def identify_items(items: Any) -> Any:
    """Say which objects are in a container, in their order, so that an unchanged one is left."""
    if isinstance(items, dict):
        return [
            (type(key), key if type(key) in PLAIN else id(key), id(value))
            for key, value in items.items()
        ]
    return [id(item) for item in items] if isinstance(items, list) else items


def refill(kind: Any, container: Any, items: Any) -> None:
    """Give a container its items back, past whatever its own class does at each insertion."""
    kind.clear(container)
    if isinstance(items, dict):
        for key, value in items.items():
            kind.__setitem__(container, key, value)
    elif kind is set:
        kind.update(container, items)
    else:
        kind.extend(container, items)
