"""Find every place where modules, optimizers and the like keep state.

`find_places` walks from the objects to everything that they hold. Each kind of object has a place
that says what its value is and how to put one back. `_make_place` is the only list of these kinds:
`preserve_state` and `digest` learn a new kind there.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from nbkit.base.attributes import Attributes, BesideState, has_attributes
from nbkit.base.containers import CONTAINERS, ContainerState
from nbkit.base.leaves import PLAIN, Places, list_leaves, take_apart
from nbkit.base.module_state import make_module_place
from nbkit.base.optimizer_state import OptimizerState, drives_optimizer
from nbkit.base.place import LOADED, RANDOM, ArrayState, Place, RandomSource
from nbkit.base.tensor_state import TensorState


def find_places(objects: tuple[object, ...], rng: bool) -> Places:
    """Find every place that the objects reach, by the id of its owner, always in the same order.

    Args:
        objects: the arguments of `preserve_state` or `digest`.
        rng: whether the random state has places too.
    Raises:
        TypeError: for an object without state, or one that cannot be copied and put back.
    """
    places = Places()
    queue: list[Place] = []
    if rng:
        for place in _list_random_places():
            _add_place(places, queue, place)
    for position, thing in enumerate(objects, start=1):
        for place in _list_places_of(type(thing).__name__, thing, position):
            _add_place(places, queue, place)
    for place in queue:  # children are appended while it is read
        # What state_dict returned is new at each call; only the tensors in it are the object's.
        if place.turn == LOADED:
            _add_tensors(places, queue, place)
            continue
        for name, thing in place.list_children():
            _add_reached(places, queue, name, thing, place.strict)
    return places


def _add_place(places: Places, queue: list[Place], place: Place) -> None:
    """Add a place, unless its owner has one."""
    if id(place.owner) not in places:
        # The place holds its owner, so the id cannot be given to another object.
        places[id(place.owner)] = place
        place.places = places
        queue.append(place)


def _add_reached(places: Places, queue: list[Place], name: str, thing: Any, strict: bool) -> None:
    """Add the places of a thing that was reached, and of the parts of one that has none."""
    if type(thing) in PLAIN or id(thing) in places:
        return
    if isinstance(thing, Place):
        _add_place(places, queue, thing)
        return
    if places.holds_as_is(thing):
        places.references[id(thing)] = thing
        return
    place = _make_place(name, thing, strict)
    if place is not None:
        _add_place(places, queue, place)
        return
    try:
        parts = _take_apart_strictly(thing)
    except Exception as error:  # taking an object apart runs code of its own
        _refuse_or_refer(places, name, thing, strict, error)
        return
    for part in parts:
        _add_reached(places, queue, name, part, strict)


def _take_apart_strictly(thing: Any) -> Any:
    """Take an object apart, but no open file: its position is kept by the operating system."""
    if isinstance(thing, io.IOBase) and not isinstance(thing, io.BytesIO | io.StringIO):
        raise TypeError("cannot copy an open file")
    return take_apart(thing)


def _refuse_or_refer(places: Places, name: str, thing: Any, strict: bool, error: Exception) -> None:
    """Refuse what cannot be copied, unless it is a handle on something outside."""
    # A log that is open for writing, and torch's own handles, may stay as they are.
    is_log = isinstance(thing, io.IOBase) and not thing.closed and not thing.readable()
    is_engine = type(thing).__module__.partition(".")[0] == "torch"  # such as a process group
    if strict and not is_log and not is_engine:
        raise TypeError(
            f"{name} cannot be put back: it is a {type(thing).__qualname__} ({error}). Expected "
            f"tensors, numbers, text, objects that pickle, and containers of these. Keep it "
            f"outside the object meanwhile."
        ) from error
    places.references[id(thing)] = thing


def _make_place(name: str, thing: Any, strict: bool) -> Place | None:
    """Make the place of a thing, by its kind; None if it has to be taken apart."""
    if isinstance(thing, Tensor):
        return TensorState(name, thing)
    if isinstance(thing, nn.Module):
        return make_module_place(name, thing)
    if isinstance(thing, Optimizer):
        return OptimizerState(name, thing)
    if isinstance(thing, CONTAINERS):
        return ContainerState(name, thing, strict)
    if isinstance(thing, torch.Generator):
        return Place(name, thing, thing.get_state(), thing.set_state, RANDOM)
    if isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom):
        return RandomSource(name, thing, thing.getstate, thing.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(thing).__module__.partition(".")[0] == "numpy":
        return _make_numpy_place(numpy, name, thing)
    if isinstance(thing, DataLoader):
        return LoaderState(name, thing)
    if has_attributes(thing) and not isinstance(thing, io.IOBase):
        return Attributes(name, thing, strict)
    return None


def _make_numpy_place(numpy: Any, name: str, thing: Any) -> Place | None:
    """Make the place of an array or a random generator of numpy; None for its other objects."""
    # An array of Python objects is taken apart instead, like a list.
    if isinstance(thing, numpy.ndarray) and not thing.dtype.hasobject:
        return ArrayState(name, thing)
    if isinstance(thing, numpy.random.RandomState):
        return RandomSource(name, thing, partial(thing.get_state, False), thing.set_state)
    # A Generator keeps its numbers in the bit generator below it.
    if isinstance(thing, numpy.random.Generator):
        thing = thing.bit_generator
    if isinstance(thing, numpy.random.BitGenerator):
        return RandomSource(
            name, thing, partial(getattr, thing, "state"), partial(setattr, thing, "state")
        )
    return None


# What an object keeps in attributes of these kinds is put back beside its own state_dict.
STATEFUL = (Tensor, nn.Module, Optimizer, LRScheduler, GradScaler, random.Random, *CONTAINERS)


class LoaderState(Place):
    """A DataLoader or a sampler: its random generators, and its numbers.

    The samples are data, which no training changes.
    """

    def __init__(self, name: str, owner: Any) -> None:
        kept = {}
        for key, value in sorted(vars(owner).items()):
            # A data set may be huge, and is not changed by training.
            if key not in ("dataset", "data_source") and _draws_samples(value):
                kept[key] = value
        super().__init__(name, owner, kept, vars(owner).update, strict=False)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List generators, samplers, and containers."""
        for key, value in self.value.items():
            yield f"{self.name}.{key}", value


def _draws_samples(value: Any) -> bool:
    """Say whether an attribute of a sampler decides which samples come next."""
    kinds = (torch.Generator, random.Random, Sampler, DataLoader, Tensor, *CONTAINERS)
    is_numpy = type(value).__module__.partition(".")[0] == "numpy"
    return type(value) in PLAIN or isinstance(value, kinds) or is_numpy


def _list_places_of(name: str, thing: Any, position: int) -> Iterator[Place]:
    """List the places of an argument, which must have state, unlike the objects that it holds.

    Raises:
        TypeError: if it has none.
    """
    if isinstance(thing, Tensor | nn.Module | Optimizer | torch.Generator):
        place = _make_place(name, thing, strict=True)
        assert place is not None
        yield place
    elif isinstance(thing, Sampler) and not _has_state_dict(thing):
        yield LoaderState(name, thing)
    elif not isinstance(thing, type) and drives_optimizer(thing):
        yield Attributes(name, thing)
    elif _has_state_dict(thing):
        yield Place(name, thing, thing.state_dict(), thing.load_state_dict, LOADED)
        if hasattr(thing, "__dict__"):
            yield BesideState(name, thing, STATEFUL)
    else:
        raise TypeError(
            f"argument {position} ({name}) has no state that could be put back. Accepted: an "
            f"nn.Module, an Optimizer, a tensor, a torch.Generator, or an object with state_dict "
            f"and load_state_dict, such as a scheduler. Pass each one as a separate argument."
        )


def _has_state_dict(thing: object) -> bool:
    if isinstance(thing, type):  # a class has the methods, but no state to call them on
        return False
    can_save = callable(getattr(thing, "state_dict", None))
    return can_save and callable(getattr(thing, "load_state_dict", None))


def _list_random_places() -> Iterator[Place]:
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        name = f"torch's generator on {generator.device}"
        yield Place(name, generator, generator.get_state(), generator.set_state, RANDOM)
    # CUDA's generators do not exist before CUDA has started; the block may start it.
    if not torch.cuda.is_initialized():
        yield Place("torch.cuda", torch.cuda, torch.initial_seed(), _reseed_cuda, RANDOM)
    yield RandomSource("random", random, random.getstate, random.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        source = numpy.random
        yield RandomSource(
            "numpy.random", source, partial(source.get_state, False), source.set_state
        )


def _reseed_cuda(seed: int) -> None:
    """Seed CUDA's generators with torch's seed again, if the block was the first to start CUDA."""
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _add_tensors(places: Places, queue: list[Place], place: Place) -> None:
    """Add the tensors in a state that was handed out: each is restored where it is."""
    try:
        leaves = list_leaves(place.value, places, refer=False)
    except Exception as error:  # taking an object apart runs code of its own
        raise TypeError(
            f"{place.name} cannot be put back: something in it cannot be copied ({error}). "
            f"Expected tensors, numbers, text, objects that pickle, and containers of these."
        ) from error
    for leaf in leaves:
        if isinstance(leaf, Tensor) and id(leaf) not in places:
            _add_place(places, queue, TensorState(f"a tensor in {place.name}", leaf))
