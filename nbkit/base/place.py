"""One place where an object keeps state: what it holds, and how to put that back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nbkit.base.leaves import PLAIN, Places, list_leaves, name_child

# Places are put back in this order. Tensors' memory first, because what load_state_dict is given
# holds tensors. Then load_state_dict, which may write anywhere; then what is exact and has the last
# word.
MEMORY, LOADED, EXACT, RANDOM = range(4)


@dataclass(eq=False)
class Place:
    """One place where state is kept: who holds it, what it is now, and how to put that back."""

    name: str
    owner: Any
    value: Any
    put_back: Callable[[Any], object]
    turn: int = EXACT
    # Of a strict place everything is put back or refused. A lenient one belongs to an object that
    # keeps its own account in state_dict, or to a class: what is unknown there stays as it is.
    strict: bool = True
    places: Places = field(init=False)  # all those found together

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the value, but not what the memo holds by id: owners are restored where they are."""
        self.saved = copy.deepcopy(self.value, memo)

    def read_content(self) -> bytes:
        """Return what a digest hashes beside the value."""
        return b""

    def describe_value(self, places: Places) -> list[Any]:
        """List what a digest hashes of the value."""
        return list_leaves(self.value, places)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List what may need a place too, by name."""
        yield self.name, self.value

    def prefer_original(self, was: Any, saved: Any) -> Any:
        """Choose what to put back: the value that was there if it is unchanged, else its copy."""
        if was is saved or type(was) is not type(saved):
            return saved
        same = list_leaves(was, self.places) == list_leaves(saved, self.places)
        return was if same else saved


class RandomSource(Place):
    """A source of random numbers: long lists of them, read only when they are needed."""

    def __init__(
        self, name: str, owner: object, get_numbers: Callable[[], Any], put_back: Any
    ) -> None:
        super().__init__(name, owner, None, put_back, RANDOM)
        self.get_numbers = get_numbers

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Ask for the numbers and copy them."""
        self.saved = copy.deepcopy(self.get_numbers())

    def read_content(self) -> bytes:
        """Return the numbers."""
        return "\n".join(map(str, list_leaves(self.get_numbers(), Places()))).encode()


class ArrayState(Place):
    """An array of numpy: its numbers go back into the same memory."""

    def __init__(self, name: str, owner: Any) -> None:
        super().__init__(name, owner, (str(owner.dtype), *owner.shape), self._put_numbers_back)

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the numbers."""
        self.saved = self.owner.copy()

    def _put_numbers_back(self, saved: Any) -> None:
        array = self.owner
        # The block may have resized it.
        if array.shape != saved.shape:
            array.resize(saved.shape, refcheck=False)
        if array.tobytes() != saved.tobytes():  # one that is read-only cannot have changed
            array[...] = saved

    def read_content(self) -> bytes:
        """Return the numbers in the order of the indices."""
        return bytes(self.owner.tobytes())


def name_items(name: str, items: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """List keys and values of a dict by name: keys can be tensors, as in `optimizer.state`.

    Plain values hold nothing, so they are left out: most attributes of a module are plain.
    """
    for key, value in items.items():
        if type(key) not in PLAIN:
            yield name_child(name, "key"), key
        if type(value) not in PLAIN:
            yield name_child(name, key), value


def copy_items(items: Any, memo: dict[int, Any]) -> Any:
    """Copy a dict or a list that only this module's caller holds, as copy.deepcopy does.

    deepcopy would make a call and a note for each of the plain values, which are most of them.
    """
    if isinstance(items, dict):
        copied = {}
        for key, value in items.items():
            copied[_copy_item(key, memo)] = _copy_item(value, memo)
        return copied
    if isinstance(items, list):
        return [_copy_item(item, memo) for item in items]
    return items


def _copy_item(item: Any, memo: dict[int, Any]) -> Any:
    return item if type(item) in PLAIN else copy.deepcopy(item, memo)
