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
# Of these there are no subclasses, and torch makes isinstance slow for some.
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


def is_reference(value: object) -> bool:
    """Say whether a value stays the same object, with nothing in it to put back."""
    if type(value) in CONSTANTS or isinstance(value, REFERENCES):
        return True
    package = type(value).__module__
    return package.partition(".")[0] in HANDLES or package.startswith("torch.fx.")


def list_leaves(value: Any, places: Places, refer: bool = True) -> list[Any]:
    """List what a value is made of: tensors and owners of places as they are, the rest as text.

    With `refer=False` a handle, such as a lock, is taken apart too, which raises.
    """
    found: list[Any] = []
    _add_leaves(found, value, places, refer)
    return found


def _add_leaves(found: list[Any], value: Any, places: Places, refer: bool = True) -> None:
    kind = type(value)
    if kind is int and value in places:
        value = places[value].owner  # a GradScaler knows its optimizers by their id()
    if isinstance(value, Tensor) or id(value) in places:
        found.append(value)
    elif kind in PLAIN or (kind in (list, tuple) and all(type(part) in PLAIN for part in value)):
        found.append(f"{kind.__name__} {value!r}")
    elif isinstance(value, NAMED) or (refer and _stays(value, places)):
        _add_reference(found, value, places)
    else:
        parts = take_apart(value)
        found.append(f"{kind.__name__} of {len(parts)}")
        for part in parts:
            _add_leaves(found, part, places, refer)


def _stays(value: object, places: Places) -> bool:
    return is_reference(value) or id(value) in places.references


def _add_reference(found: list[Any], value: Any, places: Places) -> None:
    if isinstance(value, weakref.ref):
        value = value()  # none left: it is the text of None
    if id(value) in places or value is None:
        return _add_leaves(found, value, places)
    found.append(f"{type(value).__module__}.{type(value).__qualname__}")
    if type(value) in CONSTANTS or isinstance(value, enum.Enum):
        found.append(str(value))
    for attribute in ("__module__", "__qualname__"):
        if isinstance(value, NAMED):
            found.append(str(getattr(value, attribute, "")))
    for inner in ("__func__", "__wrapped__", "fget", "fset"):  # of a method, of a property
        function = getattr(value, inner, None) if not isinstance(value, type) else None
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
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
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
