"""What hangs on an object: its attributes, its class, and what hangs on that."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nbkit.base.leaves import PLAIN
from nbkit.base.place import Place, name_items

# Python's own bookkeeping in a class; some of it is written when it is first asked for.
BOOKKEEPING = {
    *("__dict__", "__weakref__", "__doc__", "__annotations__", "__annotations_cache__"),
    *("__annotate__", "__annotate_func__", "__abstractmethods__", "_abc_impl", "__slots__"),
    *("__dataclass_fields__", "__dataclass_params__", "__orig_bases__", "__parameters__"),
    *("__static_attributes__", "__firstlineno__", "__type_params__", "__match_args__"),
}


class Attributes(Place):
    """An object: its class, and which object each of its attributes is."""

    def __init__(self, name: str, owner: Any, strict: bool = True) -> None:
        attributes = read_attributes(owner)
        value = {"__class__": type(owner), **{key: attributes[key] for key in sorted(attributes)}}
        super().__init__(name, owner, value, self._put, strict=strict)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List the attributes."""
        yield from name_items(self.name, self.value)

    def _put(self, saved: dict[str, Any]) -> None:
        if type(self.owner) is not saved["__class__"]:
            object.__setattr__(self.owner, "__class__", saved["__class__"])
        now = read_attributes(self.owner)
        for key in now.keys() - saved.keys():
            _delete(self.owner, key)
        for key, was in self.value.items():
            value = self.prefer_original(was, saved[key])
            if key != "__class__" and (key not in now or now[key] is not value):
                _write(self.owner, key, value)


class BesideState(Place):
    """Beside the state_dict of an object, which may leave some out: what has a place, and numbers.

    But where `load_state_dict` leaves a note for later, as a loader does for its next iteration,
    that note stays: None is not put back, nor written over. Objects inside are the state_dict's.
    """

    def __init__(self, name: str, owner: Any, kinds: tuple[Any, ...]) -> None:
        kept = {
            key: value
            for key, value in sorted(vars(owner).items())
            if type(value) in (PLAIN - {type(None)}) or isinstance(value, kinds)
        }
        super().__init__(name, vars(owner), kept, self._put, strict=False)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List what is kept."""
        yield from name_items(self.name, self.value)

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which object each attribute is: all of them have places."""
        self.saved = self.value

    def _put(self, saved: dict[str, Any]) -> None:
        for key, value in saved.items():
            if self.owner.get(key) is not None and self.owner[key] is not value:
                self.owner[key] = value


class ClassAttributes(Place):
    """A class: its methods and attributes, which a parametrization writes to, and a patch.

    Lenient: what a class refers to beside data is shared by all its objects.
    """

    def __init__(self, owner: type) -> None:
        found = vars(owner)
        value = {key: found[key] for key in sorted(found) if key not in BOOKKEEPING}
        super().__init__(f"class {owner.__name__}", owner, value, self._put, strict=False)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List the attributes."""
        yield from name_items(self.name, self.value)

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which object each attribute is: those that hold data have places."""
        self.saved = dict(self.value)

    def _put(self, saved: dict[str, Any]) -> None:
        for key in [key for key in vars(self.owner) if key not in saved]:
            if key not in BOOKKEEPING:
                type.__delattr__(self.owner, key)
        for key, value in saved.items():
            if vars(self.owner).get(key, self) is not value:
                type.__setattr__(self.owner, key, value)


def list_classes(thing: object) -> Iterator[type]:
    """List the classes of a module or optimizer that are not torch's, or made at run time.

    A parametrized layer has a class of its own, with a property for each such tensor.
    """
    for kind in type(thing).__mro__:
        if kind in (nn.Module, Optimizer):
            return
        home = sys.modules.get(kind.__module__)
        is_torch = kind.__module__.partition(".")[0] == "torch"
        if kind is not object and not (is_torch and getattr(home, kind.__name__, None) is kind):
            yield kind


def has_attributes(thing: Any) -> bool:
    """Say whether an object is one of Python's: its state is in attributes, nowhere else."""
    kind: Any = type(thing)
    plain: Any = object
    if hasattr(thing, "__dict__"):
        # A `__reduce__` that is written in C knows of more than attributes.
        return kind.__reduce__ is plain.__reduce__ or hasattr(kind.__reduce__, "__code__")
    is_default = (kind.__reduce__, kind.__reduce_ex__) == (plain.__reduce__, plain.__reduce_ex__)
    return is_default and bool(copyreg._slotnames(kind))  # type: ignore[attr-defined]


def read_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes that an object has, in its dict and in slots."""
    found = dict(getattr(thing, "__dict__", {}))
    for slot in copyreg._slotnames(type(thing)):  # type: ignore[attr-defined]
        if hasattr(thing, slot):
            found[slot] = getattr(thing, slot)
    return found


def _write(thing: Any, key: str, value: object) -> None:
    """Set an attribute past its class: nn.Module would register some of them elsewhere."""
    attributes = getattr(thing, "__dict__", None)
    if attributes is None or key in copyreg._slotnames(type(thing)):  # type: ignore[attr-defined]
        object.__setattr__(thing, key, value)
    else:
        attributes[key] = value


def _delete(thing: Any, key: str) -> None:
    if key in getattr(thing, "__dict__", {}):
        del vars(thing)[key]
    else:
        object.__delattr__(thing, key)
