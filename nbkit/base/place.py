"""One place where an object keeps state: what it holds, and how to put that back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nbkit.base.leaves import Places, list_leaves, name_child

# Places are put back in this order. Memory first, because what load_state_dict is given holds
# tensors. Then load_state_dict, which may write anywhere; then what is exact and has the last word.
MEMORY, LOADED, EXACT, RANDOM = range(4)


@dataclass(eq=False)
class Place:
    """One place where state is kept: who holds it, what it is now, and how to put that back."""

    name: str
    owner: Any
    value: Any
    put: Callable[[Any], object]
    turn: int = EXACT
    # Of a strict place everything is put back or refused. A lenient one belongs to an object that
    # keeps its own account in state_dict, or to a class: what is unknown there stays as it is.
    strict: bool = True
    places: Places = field(init=False)  # all those found together

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the value, but not what the memo holds by id: owners are restored where they are."""
        self.saved = copy.deepcopy(self.value, memo)

    def content(self) -> bytes:
        """Return what a digest hashes beside the value."""
        return b""

    def describe(self, places: Places) -> list[Any]:
        """List what a digest hashes of the value."""
        return list_leaves(self.value, places)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List what may need a place too, by name."""
        yield self.name, self.value

    def prefer_original(self, was: Any, saved: Any) -> Any:
        """Choose what to put back: the value that was there if it is unchanged, else its copy."""
        if was is saved or type(was) is not type(saved):
            return saved
        same = list_leaves(was, self.places) == list_leaves(saved, self.places)
        return was if same else saved


class Source(Place):
    """A source of random numbers: long lists of them, read only when they are needed."""

    def __init__(self, name: str, owner: object, get: Callable[[], Any], put: Any) -> None:
        super().__init__(name, owner, None, put, RANDOM)
        self.get = get

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Ask for the numbers: what `get` returns is a copy."""
        self.saved = copy.deepcopy(self.get())

    def content(self) -> bytes:
        """Return the numbers."""
        return "\n".join(map(str, list_leaves(self.get(), Places()))).encode()


class Array(Place):
    """An array of numpy: its numbers go back into the same memory."""

    def __init__(self, name: str, owner: Any) -> None:
        super().__init__(name, owner, (str(owner.dtype), *owner.shape), self._put)

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the numbers."""
        self.saved = self.owner.copy()

    def _put(self, saved: Any) -> None:
        array = self.owner
        if array.shape != saved.shape:
            array.resize(saved.shape, refcheck=False)
        if array.tobytes() != saved.tobytes():  # one that is read-only cannot have changed
            array[...] = saved

    def content(self) -> bytes:
        """Return the numbers in the order of the indices."""
        return bytes(self.owner.tobytes())


def name_items(name: str, items: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """List keys and values of a dict by name: keys can be tensors, as in `optimizer.state`."""
    for key, value in items.items():
        yield name_child(name, "key"), key
        yield name_child(name, key), value
