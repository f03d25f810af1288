"""Take a value apart, in the same order in every process: what a digest hashes.

A value ends in leaves: text, tensors, and the objects that have a place where their state is kept.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import types
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLAIN = {type(None), bool, int, float, complex, str, bytes}
NAMED = (type, types.FunctionType, types.BuiltinFunctionType)
# These stay the same objects: they hold no state, or none that belongs to who refers to them.
REFERENCES = (
    *NAMED,
    *(types.MethodType, types.ModuleType, types.CodeType, types.MappingProxyType),
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType),
    *(types.MethodDescriptorType, types.MethodWrapperType, types.ClassMethodDescriptorType),
    *(property, staticmethod, classmethod, functools.cached_property),
    *(weakref.ref, enum.Enum, BaseException),
    torch.utils.data.Dataset,
)
# These have no subclasses, and torch makes isinstance slow for some of them.
CONSTANTS = {torch.dtype, torch.device, torch.layout, torch.memory_format}
# Packages whose objects are handles: on a lock, a thread, a process, a socket, a log.
HANDLES = {
    *("_thread", "threading", "logging", "socket", "_socket", "ssl", "_ssl", "subprocess"),
    *("multiprocessing", "_multiprocessing", "concurrent", "asyncio", "_asyncio", "_queue"),
    *("contextvars", "_contextvars", "_weakref", "weakref", "_abc"),
}


class Places(dict[int, Any]):
    """The places found, by the id of their owner; and all that is kept as it is, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[int, object] = {}
        # A net has thousands of values of few types, and testing a type costs 3 microseconds.
        self.stays_by_type: dict[type, bool] = {}

    def holds_as_is(self, value: object) -> bool:
        """Say whether a value stays the same object, with nothing in it to put back."""
        if id(value) in self.references:
            return True
        kind = type(value)
        if value.__class__ is not kind:  # a wrapper that claims the class of what it wraps
            return is_reference(value)
        stays = self.stays_by_type.get(kind)
        if stays is None:
            stays = self.stays_by_type[kind] = is_reference(value)
        return stays


def is_reference(value: object) -> bool:
    """Say whether values like this one stay the same objects, whatever holds them."""
    if type(value) in CONSTANTS or isinstance(value, REFERENCES):
        return True
    package = type(value).__module__
    return package.partition(".")[0] in HANDLES or package.startswith("torch.fx.")


def list_leaves(value: Any, places: Places, refer: bool = True) -> list[Any]:
    """List what a value is made of: tensors and owners of places as they are, the rest as text.

    Args:
        value: anything.
        places: all places that were found.
        refer: name a handle, such as a lock, by its type; False takes it apart, which raises.
    """
    found: list[Any] = []
    _add_leaves(found, value, places, refer)
    return found


def _add_leaves(found: list[Any], value: Any, places: Places, refer: bool = True) -> None:
    kind = type(value)
    # In the order of how often they come: a net holds numbers, then objects that have places.
    if kind in PLAIN:
        if kind is int and value in places:
            found.append(places[value].owner)  # a GradScaler knows its optimizers by their id()
        else:
            found.append(f"{kind.__name__} {value!r}")
    elif id(value) in places or isinstance(value, Tensor):
        found.append(value)
    elif kind in (list, tuple) and PLAIN.issuperset(map(type, value)):
        found.append(f"{kind.__name__} {value!r}")
    elif isinstance(value, NAMED) or (refer and places.holds_as_is(value)):
        _add_reference(found, value, places)
    else:
        parts = take_apart(value)
        found.append(f"{kind.__name__} of {len(parts)}")
        for part in parts:
            _add_leaves(found, part, places, refer)


def _add_reference(found: list[Any], value: Any, places: Places) -> None:
    """Add the name of what stays as it is; of a function also what it does."""
    if isinstance(value, weakref.ref):
        value = value()  # a dead one is the text of None
    if id(value) in places or value is None:
        return _add_leaves(found, value, places)
    kind = type(value)
    found.append(f"{kind.__module__}.{kind.__qualname__}")
    if isinstance(value, dict):  # hooks, which a place lists
        return None
    if isinstance(value, NAMED):
        found.append(str(getattr(value, "__module__", "")))
        found.append(str(getattr(value, "__qualname__", "")))
        if isinstance(value, type):
            return None
    if kind in CONSTANTS or isinstance(value, enum.Enum):
        found.append(str(value))
    for inner in ("__func__", "__wrapped__", "fget", "fset"):  # of a method, of a property
        function = getattr(value, inner, None)
        if isinstance(function, types.FunctionType):
            found.append(describe_code(function.__code__))
    if isinstance(value, types.FunctionType):
        found.append(describe_code(value.__code__))
    if isinstance(value, types.MethodType) and id(value.__self__) in places:
        found.append(value.__self__)
    return None


def describe_code(code: types.CodeType) -> str:
    """Write down what a function does: two lambdas have one name and different code."""
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(describe_code(constant))
        elif isinstance(constant, frozenset):  # its order changes with the process
            constants.append(repr(sorted(map(repr, constant))))
        else:
            constants.append(repr(constant))
    return f"{code.co_name} {code.co_code.hex()} {constants} {code.co_names} {code.co_freevars}"


def take_apart(value: Any) -> Sequence[Any]:
    """Take an object apart as copy.deepcopy and pickle do."""
    if isinstance(value, dict):
        # Keys and values by turns: a dict's order counts.
        parts: list[Any] = []
        for key_and_value in value.items():
            parts += key_and_value
        return parts
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    # Otherwise by the protocol of pickle: constructor, arguments, state, items.
    reduce = copyreg.dispatch_table.get(type(value))
    reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    return (reduced,) if isinstance(reduced, str) else reduced


def name_child(name: str, key: object) -> str:
    """Name what an object holds under a key: `net.layer`, `net.sizes[0]`."""
    if isinstance(key, str) and key in ("_parameters", "_buffers", "_modules"):
        return name  # torch's own containers show their items as attributes
    if isinstance(key, str):
        return f"{name}.{key}"
    return f"{name}[{key!r}]" if type(key) in PLAIN else f"{name}[...]"
