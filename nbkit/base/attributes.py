"""The attributes of an object and of its class."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nbkit.base.leaves import PLAIN
from nbkit.base.place import Place, copy_items, name_items

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
        # Sorted, so that the order of the assignments does not change the digest.
        value: dict[str, Any] = {"__class__": type(owner)}
        for key in sorted(attributes):
            value[key] = attributes[key]
        super().__init__(name, owner, value, self._put_attributes_back, strict=strict)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List the attributes."""
        yield from name_items(self.name, self.value)

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the attributes, but not what has a place."""
        self.saved = copy_items(self.value, memo)

    def _put_attributes_back(self, saved: dict[str, Any]) -> None:
        if type(self.owner) is not saved["__class__"]:
            # Past the class's own __setattr__, which may refuse or react.
            object.__setattr__(self.owner, "__class__", saved["__class__"])
        now = read_attributes(self.owner)
        # What the block added goes; what it changed or deleted comes back.
        for key in now.keys() - saved.keys():
            _delete_attribute(self.owner, key)
        for key, was in self.value.items():
            value = self.prefer_original(was, saved[key])
            if key != "__class__" and (key not in now or now[key] is not value):
                _write_attribute(self.owner, key, value)


class BesideState(Place):
    """What an object keeps beside its state_dict, which may leave some out.

    That is what has a place, and numbers. But where `load_state_dict` leaves a note for later, as a
    loader does for its next iteration, that note stays: None is not put back, nor written over.
    Objects inside are the state_dict's.
    """

    def __init__(self, name: str, owner: Any, kinds: tuple[Any, ...]) -> None:
        kept = {}
        for key, value in sorted(vars(owner).items()):
            is_number = type(value) in PLAIN and value is not None
            if is_number or isinstance(value, kinds):
                kept[key] = value
        super().__init__(name, vars(owner), kept, self._put_attributes_back, strict=False)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List what is kept."""
        yield from name_items(self.name, self.value)

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which object each attribute is: all of them have places."""
        self.saved = self.value

    def _put_attributes_back(self, saved: dict[str, Any]) -> None:
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
        name = f"class {owner.__name__}"
        super().__init__(name, owner, value, self._put_attributes_back, strict=False)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List the attributes."""
        yield from name_items(self.name, self.value)

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which object each attribute is: those that hold data have places."""
        self.saved = dict(self.value)

    def _put_attributes_back(self, saved: dict[str, Any]) -> None:
        # A list, because deleting changes what vars() shows.
        for key in list(vars(self.owner)):
            if key not in saved and key not in BOOKKEEPING:
                type.__delattr__(self.owner, key)
        for key, value in saved.items():
            # `self` stands for a missing attribute: no class has this place as a value.
            if vars(self.owner).get(key, self) is not value:
                type.__setattr__(self.owner, key, value)


def list_class_places(place: Place) -> Iterator[tuple[str, ClassAttributes]]:
    """List the places of the classes of a module or optimizer that are not torch's.

    A parametrized layer has a class made at run time, with a property for each such tensor.
    """
    for kind in type(place.owner).__mro__:
        if kind in (nn.Module, Optimizer):
            return
        is_known = kind is object or id(kind) in place.places
        if not is_known and not _is_class_of_torch(kind):
            yield f"class {kind.__name__}", ClassAttributes(kind)


def _is_class_of_torch(kind: type) -> bool:
    """Say whether torch defines the class; one that it made at run time is in no module."""
    if kind.__module__.partition(".")[0] != "torch":
        return False
    return getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def has_attributes(thing: Any) -> bool:
    """Say whether an object is one of Python's: its state is in attributes, nowhere else."""
    kind: Any = type(thing)
    plain: Any = object
    if hasattr(thing, "__dict__"):
        # A `__reduce__` that is written in C knows of more than attributes.
        return kind.__reduce__ is plain.__reduce__ or hasattr(kind.__reduce__, "__code__")
    is_default = (kind.__reduce__, kind.__reduce_ex__) == (plain.__reduce__, plain.__reduce_ex__)
    return is_default and bool(_list_slots(kind))


def read_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes that an object has, in its dict and in slots."""
    found = dict(getattr(thing, "__dict__", {}))
    # A class with __slots__ keeps these outside of __dict__.
    for slot in _list_slots(type(thing)):
        if hasattr(thing, slot):
            found[slot] = getattr(thing, slot)
    return found


def _list_slots(kind: type) -> list[str]:
    slots: list[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]  # pickle uses it too
    return slots


def _write_attribute(thing: Any, key: str, value: object) -> None:
    """Set an attribute past its class: nn.Module would register some of them elsewhere."""
    attributes = getattr(thing, "__dict__", None)
    if attributes is None or key in _list_slots(type(thing)):
        object.__setattr__(thing, key, value)
    else:
        attributes[key] = value


def _delete_attribute(thing: Any, key: str) -> None:
    if key in getattr(thing, "__dict__", {}):
        del vars(thing)[key]
    else:
        object.__delattr__(thing, key)
