"""A module: what it registers, its hooks, its attributes, its classes, its extra state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from nbkit.base.attributes import Attributes, list_class_places
from nbkit.base.containers import Hooks, have_same_items
from nbkit.base.place import LOADED, Place, name_items

REGISTERED = ("_parameters", "_buffers", "_modules")
# Modules that are the Python side of an engine: DDP's buckets, compiled code, a script. Their plain
# attributes must agree with what the engine knows, so only what every module has is put back.
ENGINES = ("torch.nn.parallel.", "torch._dynamo.", "torch.jit.", "torch.fx.")


class ModuleState(Attributes):
    """A module with its hooks, its classes, its extra state and all of its attributes."""

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List hooks, classes, extra state, then the attributes: they hold what is registered."""
        yield from list_hooks(self)
        yield from list_extra_state(self.name, self.owner)
        yield from list_class_places(self)
        yield from super().list_children()


class EngineState(Place):
    """A module of an engine: its mode and what is registered in it under which name."""

    def __init__(self, name: str, module: nn.Module) -> None:
        registered = {key: dict(getattr(module, key).items()) for key in REGISTERED}
        kept = vars(module)["_non_persistent_buffers_set"]
        value = {"__class__": type(module), "training": module.training}
        value = {**value, **registered, "kept": kept}
        super().__init__(name, module, value, self._put_registered_back)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List hooks, classes, extra state and what is registered."""
        yield from list_hooks(self)
        yield from list_extra_state(self.name, self.owner)
        yield from list_class_places(self)
        for key in REGISTERED:
            yield from name_items(self.name, self.value[key])
        yield self.name, self.value["kept"]

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Keep which object each item is."""
        self.saved = self.value

    def _put_registered_back(self, saved: dict[str, Any]) -> None:
        # Only where they differ: an engine may react when they are set.
        for key in ("__class__", "training"):
            if getattr(self.owner, key) != saved[key]:
                setattr(self.owner, key, saved[key])
        for key in REGISTERED:
            _refill_registered(self.owner, getattr(self.owner, key), saved[key])


def _refill_registered(module: nn.Module, container: Any, items: Mapping[str, object]) -> None:
    if have_same_items(dict(container.items()), items):
        return
    for name in items:
        vars(module).pop(name, None)  # a plain attribute would hide it
    container.clear()
    container.update(items)


def make_module_place(name: str, module: nn.Module) -> Place:
    """Make the place for a module of any kind."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith(ENGINES):
            return EngineState(name, module)
    return ModuleState(name, module)


def list_hooks(place: Place) -> Iterator[tuple[str, Hooks]]:
    """List the dicts of hooks of a module or an optimizer as one place."""
    attributes = vars(place.owner)
    dicts: dict[str, dict[int, Any]] = {}
    for key in sorted(key for key in attributes if "hooks" in key):
        value = attributes[key]
        if isinstance(value, dict):
            dicts[key] = value
            place.places.references[id(value)] = value  # not a container like others
    yield place.name, Hooks(f"{place.name}'s hooks", dicts)


class _Extra:
    """The owner of the extra state of one module: the state itself is made anew at each call."""


def list_extra_state(name: str, module: nn.Module) -> Iterator[tuple[str, Place]]:
    """List what a module's own `get_extra_state` gives, where it has one."""
    # torch's own method raises: a module without extra state does not define it.
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        put_back = partial(_put_extra_state, module)
        yield name, Place(name, _Extra(), module.get_extra_state(), put_back, LOADED)


def _put_extra_state(module: nn.Module, saved: Any) -> None:
    module.set_extra_state(saved)
