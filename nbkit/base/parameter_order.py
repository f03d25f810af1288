"""Order the layers of a model as they really run, and find its head."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from nbkit.base.model_call import call_model, copy_batch, run_eagerly
from nbkit.base.nested import list_tensors
from nbkit.base.parameter_kinds import ParameterRole
from nbkit.base.state import preserve_state

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, ParametrizationList)
Head = str | nn.Module | Sequence[str | nn.Module] | None


def find_places_of_use(
    model: nn.Module, roles: Sequence[ParameterRole], batch: Any = None
) -> dict[str, tuple[int, int]]:
    """Find for each parameter, by name, where in the model it is used; a later use sorts higher.

    Args:
        model: the model; after the call it is as before.
        roles: its parameters.
        batch: what one pass is run with, without gradients; None: the order of registration.

    A parameter that is used several times, tied or not, counts where it is used *last*: nearest to
    the output. One that the pass does not use has the place of the one registered before it.
    """
    if batch is None:
        return _read_registration(model, roles)
    uses = _UseOrder(roles)
    with preserve_state(model), torch.no_grad(), run_eagerly(), uses:
        call_model(model, copy_batch(batch))
    places: dict[str, tuple[int, int]] = {}
    before = 0
    for index, role in enumerate(roles):
        before = uses.last.get(id(role.parameter), before)
        places[role.name] = (before, index)
    return places


def _read_registration(
    model: nn.Module, roles: Sequence[ParameterRole]
) -> dict[str, tuple[int, int]]:
    """Return where each parameter is registered last."""
    places = {}
    names = {id(role.parameter): role.name for role in roles}
    for index, (_, parameter) in enumerate(model.named_parameters(remove_duplicate=False)):
        places[names[id(parameter)]] = (index, index)
    return places


class _UseOrder(TorchFunctionMode):
    """Number the calls of torch's functions, and keep for each parameter the last that got it.

    Modules would not do: a tied head is often written `hidden @ embedding.weight.T`.
    """

    def __init__(self, roles: Iterable[ParameterRole]) -> None:
        super().__init__()
        self.ids = {id(role.parameter) for role in roles}
        self.last: dict[int, int] = {}
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Reading weight.dtype or weight.shape is a call too, but no use: it gives no tensor.
        if list_tensors(result):
            self.calls += 1
            for tensor in list_tensors([list(args), dict(kwargs or {})]):
                if id(tensor) in self.ids:
                    self.last[id(tensor)] = self.calls
        return result


def find_head(
    model: nn.Module,
    roles: Sequence[ParameterRole],
    places: Mapping[str, tuple[int, int]],
    head: Head = None,
) -> set[str]:
    """Return the names of the parameters of the head.

    Args:
        model: the model.
        roles: its parameters.
        places: where each is used.
        head: one or several modules or parameters, by name or as they are; None: the layer whose
            weights are used last.
    Raises:
        ValueError: if the model has no such module or parameter, or it has none to train.
    """
    if head is None:
        # A norm without weights behind the last layer is no head.
        weighted = [role for role in roles if role.kind.has_weights] or list(roles)
        last = max(weighted, key=lambda role: places[role.name])
        layers = {last.layer}
        for owner in last.owners:  # the bias of a head whose weight is tied
            layers.add(owner.path)
        return {role.name for role in roles if role.layer in layers}
    ids: set[int] = set()
    given: Sequence[str | nn.Module] = [head] if isinstance(head, str | nn.Module) else head
    for item in given:
        ids |= _find_ids(model, item)
    names = {role.name for role in roles if id(role.parameter) in ids}
    if not any(role.parameter.requires_grad for role in roles if role.name in names):
        raise ValueError(
            f"head: expected a part of the model with a parameter to train, but {head!r:.80} has "
            f"none. Leave `head` out for the last layer, or do not freeze it."
        )
    return names


def _find_ids(model: nn.Module, item: str | nn.Module) -> set[int]:
    """Return the ids of the parameters of a part of the model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    del modules[""]  # with the whole model as its head nothing would be left
    if isinstance(item, str):
        if item in parameters:
            return {id(parameters[item])}
        if item in modules:
            return set(map(id, modules[item].parameters()))
    if isinstance(item, nn.Module) and any(module is item for module in modules.values()):
        return set(map(id, item.parameters()))
    near = difflib.get_close_matches(str(item), [*modules, *parameters], n=1, cutoff=0)
    hint = f"; the nearest name is {near[0]!r}" if near and isinstance(item, str) else ""
    raise ValueError(
        f"head: the model has no module or parameter {item!r:.80}{hint}. Give a name from "
        f"model.named_modules(), or a module of the model."
    )


def order_depths(
    model: nn.Module, roles: Sequence[ParameterRole], places: Mapping[str, tuple[int, int]]
) -> list[list[ParameterRole]]:
    """Order the parameters by depth, from the input to the output.

    A step of depth is a block, or a layer outside of blocks. Blocks are the outermost modules of a
    class of which the model has several, such as the blocks of a ResNet or a transformer; torch's
    containers and single layers are none. A layer without weights of its own, such as a norm,
    belongs to the depth of the layer that runs before it.
    """
    blocks = _find_blocks(model)
    units: dict[str, list[ParameterRole]] = {}
    for role in roles:
        units.setdefault(_find_block(role, blocks) or role.layer, []).append(role)

    depths: list[list[ParameterRole]] = []
    can_join = True  # what runs before the first weights joins them
    for unit in sorted(units.values(), key=lambda unit: max(places[role.name] for role in unit)):
        has_weights = any(role.kind.has_weights for role in unit)
        if depths and (can_join or not has_weights):
            depths[-1] += unit
        else:
            depths.append(list(unit))
        can_join = can_join and not has_weights
    return depths


def _find_blocks(model: nn.Module) -> set[str]:
    """Return the names of modules of a class that the model has several of; no single layers."""
    candidates: dict[str, type[nn.Module]] = {}
    for path, module in model.named_modules():
        has_layers = any(module.children()) and any(True for _ in module.parameters())
        # A subclass of Sequential is a class of its own; Sequential itself may be anything.
        if path and has_layers and type(module) not in CONTAINERS:
            candidates[path] = type(module)
    counts = Counter(candidates.values())
    return {path for path, kind in candidates.items() if counts[kind] > 1}


def _find_block(role: ParameterRole, blocks: set[str]) -> str | None:
    """Return the outermost block around a parameter."""
    parts = role.owners[0].path.split(".")
    for length in range(1, len(parts) + 1):
        path = ".".join(parts[:length])
        if path in blocks:
            return path
    return None
