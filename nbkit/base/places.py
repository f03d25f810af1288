"""Where modules, optimizers and the like keep their state: what preserve_state puts back.

Each kind of object has a function that yields its places; a place says what its value is and how to
put one back. A kind that `preserve_state` and `digest` do not know yet is added here, once.
"""

from __future__ import annotations

import copy
import ctypes
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

# Places are put back in this order. Memory first, because what load_state_dict is given holds
# tensors. Then load_state_dict, which may write anywhere; then what is exact and has the last word.
MEMORY, LOADED, EXACT, RANDOM = range(4)


@dataclass(eq=False)
class Place:
    """One place where state is kept: who holds it, what it is now, and how to put that back."""

    name: str
    owner: object
    value: Any
    put: Callable[[Any], object]
    turn: int = EXACT

    def save(self, owners: dict[int, Any], offload: bool) -> None:
        """Copy the value, but not the owners of places (by id): each is restored where it is."""
        self.saved = copy.deepcopy(self.value, owners)

    def content(self) -> bytes:
        """What a digest hashes beside the value."""
        return b""


class Memory(Place):
    """A tensor: the memory that it shows, the bytes there, and what autograd keeps beside it."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        _check(name, tensor)
        self.memory = tensor.data  # an alias, which stays where it is when the tensor is moved
        self.dense = tensor.layout is torch.strided
        self.leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.grad = tensor.grad if self.leaf else None
        # A sparse tensor has no memory of its own, but the two tensors inside it have.
        inside = () if self.dense else (tensor._indices(), tensor._values())
        layout = tensor.stride() if self.dense else tensor.is_coalesced()
        kind = f"{tensor.dtype} {tensor.device} {tuple(tensor.shape)} {layout} {self.requires_grad}"
        super().__init__(name, tensor, (kind, *inside, self.grad), self._put, MEMORY)

    def save(self, owners: dict[int, Any], offload: bool) -> None:
        """Copy the bytes."""
        self.saved = None
        if self.dense:
            self.nbytes = self.memory.untyped_storage().nbytes()
            self.saved = _each_once(self.memory).to("cpu" if offload else None, copy=True)

    def _put(self, saved: Tensor | None) -> None:
        tensor: Any = self.owner
        with torch.inference_mode(self.memory.is_inference()):  # such a tensor is fixed elsewhere
            if saved is not None:
                storage = self.memory.untyped_storage()
                if storage.nbytes() != self.nbytes:
                    storage.resize_(self.nbytes)
                _each_once(self.memory).copy_(saved)
            tensor.data = self.memory
            if self.leaf:
                if not tensor.is_leaf:
                    tensor.detach_()
                tensor.requires_grad_(self.requires_grad)
                tensor.grad = self.grad

    def content(self) -> bytes:
        """The bytes, in the order of the indices, whatever the strides."""
        if not self.dense:
            return b""
        memory = _each_once(self.memory)
        rows = torch.empty(memory.shape, dtype=memory.dtype, device="cpu").copy_(memory)
        return ctypes.string_at(rows.data_ptr(), rows.nbytes)


class Source(Place):
    """A source of random numbers: long lists of them, read only when they are needed."""

    def __init__(self, name: str, owner: object, get: Callable[[], Any], put: Any) -> None:
        super().__init__(name, owner, None, put, RANDOM)
        self.get = get

    def save(self, owners: dict[int, Any], offload: bool) -> None:
        """What `get` returns is a copy."""
        self.saved = self.get()

    def content(self) -> bytes:
        """The numbers."""
        return "\n".join(leaves(self.get(), {})).encode()


def find(objects: tuple[object, ...], rng: bool) -> dict[int, Place]:
    """Every place that the objects reach, by the id of its owner, always in the same order."""
    found = list(_random_places()) if rng else []
    for position, thing in enumerate(objects, start=1):
        found += _places_of(type(thing).__name__, thing, position)
    places: dict[int, Place] = {}
    for place in found:
        places.setdefault(id(place.owner), place)
    queue = list(places.values())
    for place in queue:  # grows while it is read: a value brings tensors, a tensor its grad
        for tensor in _tensors_in(place, places):
            if id(tensor) not in places:
                places[id(tensor)] = Memory(f"a tensor in {place.name}", tensor)
                queue.append(places[id(tensor)])
    return places


def _places_of(name: str, thing: Any, position: int) -> Iterator[Place]:
    if isinstance(thing, Tensor):
        yield Memory(name, thing)
    elif isinstance(thing, nn.Module):
        yield from _module_places(name, thing)
    elif isinstance(thing, Optimizer):
        yield from _optimizer_places(name, thing)
    elif isinstance(thing, GradScaler):
        # Its state_dict leaves out which optimizers are unscaled so far in an unfinished step.
        yield from _container_places(name, vars(thing))
    elif isinstance(thing, torch.Generator):
        yield Place(name, thing, thing.get_state(), thing.set_state, RANDOM)
    elif _has_state_dict(thing):
        yield Place(name, thing, thing.state_dict(), thing.load_state_dict, LOADED)
        yield from _optimizers_inside(name, thing)
    else:
        raise TypeError(
            f"argument {position} ({name}) has no state that could be put back. Accepted: an "
            f"nn.Module, an Optimizer, a tensor, a torch.Generator, or an object with state_dict "
            f"and load_state_dict, such as a scheduler; each as an argument of its own."
        )


def _has_state_dict(thing: object) -> bool:
    methods = [getattr(thing, name, None) for name in ("state_dict", "load_state_dict")]
    return not isinstance(thing, type) and all(map(callable, methods))


# What nn.Module registers by name, and what some of torch's own modules keep beside it.
REGISTERED = ("_parameters", "_buffers", "_modules")
BESIDE = {nn.RNNBase: "_flat_weights", nn.ParameterList: "_size", nn.ParameterDict: "_keys"}


def _module_places(name: str, root: nn.Module) -> Iterator[Place]:
    for path, module in root.named_modules(prefix=name):
        beside = [key for kind, key in BESIDE.items() if isinstance(module, kind)]
        value = {
            "__class__": type(module),  # nn.utils.parametrize changes it
            "training": module.training,
            "registered": {key: dict(getattr(module, key).items()) for key in REGISTERED},
            "beside": {key: vars(module)[key] for key in ("_non_persistent_buffers_set", *beside)},
        }
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            value["extra"] = module.get_extra_state()
        yield Place(path, module, value, partial(_put_module, module))
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield Memory(f"{path}.{key}", tensor)


def _put_module(module: nn.Module, saved: dict[str, Any]) -> None:
    for key in ("__class__", "training"):
        if getattr(module, key) != saved[key]:
            setattr(module, key, saved[key])
    for key, items in saved["registered"].items():
        if _identities(getattr(module, key)) != _identities(items):
            for name in items:
                vars(module).pop(name, None)  # a plain attribute would hide it
            _refill(getattr(module, key), items)
    vars(module).update(saved["beside"])
    if "extra" in saved:
        module.set_extra_state(saved["extra"])


def _identities(items: Mapping[str, object]) -> list[tuple[str, int]]:
    return [(name, id(item)) for name, item in items.items()]


def _optimizer_places(name: str, optimizer: Optimizer) -> Iterator[Place]:
    held = {"param_groups": optimizer.param_groups, "state": optimizer.state}
    yield Place(name, optimizer, held, partial(_put_optimizer, optimizer))
    for key, container in held.items():
        yield from _container_places(f"{name}.{key}", container)
    yield from _optimizers_inside(name, optimizer)


def _put_optimizer(optimizer: Optimizer, held: dict[str, Any]) -> None:
    for key, container in held.items():
        if getattr(optimizer, key) is not container:  # its load_state_dict exchanges both
            setattr(optimizer, key, container)


def _optimizers_inside(name: str, thing: object) -> Iterator[Place]:
    """The optimizer that a scheduler drives, or that another optimizer wraps."""
    for key, inner in getattr(thing, "__dict__", {}).items():
        if isinstance(inner, Optimizer):
            yield from _optimizer_places(f"{name}.{key}", inner)


def _container_places(name: str, container: Any) -> Iterator[Place]:
    """A dict or list, and those inside it: each stays the same object and gets its items back."""
    yield Place(name, container, copy.copy(container), partial(_refill, container))
    items = container.values() if isinstance(container, dict) else container
    for position, item in enumerate(items):
        if isinstance(item, dict | list):
            yield from _container_places(f"{name}[{position}]", item)


def _refill(container: Any, items: Any) -> None:
    container.clear()
    container.update(items) if isinstance(container, dict) else container.extend(items)


def _random_places() -> Iterator[Place]:
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        name = f"torch's generator on {generator.device}"
        yield Place(name, generator, generator.get_state(), generator.set_state, RANDOM)
    if not torch.cuda.is_initialized():
        yield Place("torch.cuda", torch.cuda, torch.initial_seed(), _reseed_cuda, RANDOM)
    yield Source("random", random, random.getstate, random.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        source = numpy.random
        yield Source("numpy.random", source, partial(source.get_state, False), source.set_state)


def _reseed_cuda(seed: int) -> None:
    """Where the block was the first to start CUDA, its generators begin again at torch's seed."""
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _check(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose bytes cannot be copied and put back."""
    wraps = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if nn.parameter.is_lazy(tensor):
        problem = "has no shape yet: run one batch through the model first"
    elif wraps or tensor.is_quantized or tensor.layout not in (torch.strided, torch.sparse_coo):
        what = f"{type(tensor).__name__}, {tensor.dtype}, {tensor.layout}"
        problem = f"is a {what}: expected a plain tensor, dense or sparse COO"
    elif tensor.layout is torch.strided and tensor.numel() and not tensor.data_ptr():
        problem = f"has no memory on {tensor.device}: load its values first"
    else:
        return
    raise TypeError(f"{name} cannot be put back: it {problem}.")


def _each_once(memory: Tensor) -> Tensor:
    """The tensor without its expanded dimensions, along which one number stands for many."""
    if 0 not in memory.stride():
        return memory
    return memory[tuple(slice(1) if step == 0 else slice(None) for step in memory.stride())]


def _tensors_in(place: Place, places: dict[int, Place]) -> list[Tensor]:
    try:
        return [leaf for leaf in leaves(place.value, places) if isinstance(leaf, Tensor)]
    except Exception as error:  # taking an object apart runs code of its own
        raise TypeError(
            f"{place.name} cannot be put back: something in it cannot be copied ({error}). "
            f"Expected tensors, numbers, text, objects that pickle, and containers of these."
        ) from error


PLAIN = {type(None), bool, int, float, complex, str, bytes}
NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


def leaves(value: Any, places: dict[int, Place]) -> list[Any]:
    """What a value is made of, in the same order in every process.

    Tensors and the owners of places come as they are, everything else as text.
    """
    found: list[Any] = []
    _add_leaves(found, value, places)
    return found


def _add_leaves(found: list[Any], value: Any, places: dict[int, Place]) -> None:
    kind = type(value)
    if kind is int and value in places:
        value = places[value].owner  # a GradScaler knows its optimizers by their id()
    if isinstance(value, Tensor) or id(value) in places:
        found.append(value)
    elif kind in PLAIN or (kind in (list, tuple) and all(type(part) in PLAIN for part in value)):
        found.append(f"{kind.__name__} {value!r}")
    elif isinstance(value, NAMED):
        found.append(f"{value.__module__}.{value.__qualname__}")
    else:
        parts = _parts(value)
        found.append(f"{kind.__name__} of {len(parts)}")
        for part in parts:
            _add_leaves(found, part, places)


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    reduced = value.__reduce_ex__(4)  # taken apart as copy.deepcopy and pickle do
    return (reduced,) if isinstance(reduced, str) else reduced
