"""The units of a model's parameters, for adaptive clipping, and which of them are left alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nbkit.base.gradients import join_names
from nbkit.clipping.factors import Units

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Excluded = str | nn.Module | Sequence[str | nn.Module]


@dataclass(frozen=True)
class Unit:
    """A parameter and how it falls into units; `free`: excluded, so measured but not clipped."""

    parameter: Tensor
    units: Units
    free: bool = False


def find_units(
    model: nn.Module, named: dict[str, Tensor], exclude: Excluded = ()
) -> dict[str, Unit]:
    """Find the units of the model's parameters, by name; refuse what has none."""
    sparse = [name for name, p in named.items() if p.grad is not None and p.grad.is_sparse]
    if sparse:
        raise TypeError(
            f"agc needs dense gradients, but that of {join_names(sparse)} is sparse: "
            f"use nn.Embedding(sparse=False), or max_norm."
        )
    free = _find_excluded(model, exclude)
    groups = {
        id(parameter): layer.groups
        for layer in model.modules()
        if isinstance(layer, TRANSPOSED)
        for parameter in layer.parameters()
    }
    return {
        name: Unit(parameter, Units(groups.get(id(parameter), 0)), id(parameter) in free)
        for name, parameter in named.items()
    }


def _find_excluded(model: nn.Module, exclude: Excluded) -> set[int]:
    """Return the ids of the excluded parameters, each by its name or with its module."""
    modules = {name: module for name, module in model.named_modules() if name}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    free: set[int] = set()
    for item in [exclude] if isinstance(exclude, (str, nn.Module)) else exclude:
        if item in parameters:
            free.add(id(parameters[item]))
            continue
        module = modules.get(item) if isinstance(item, str) else item
        if not isinstance(module, nn.Module) or module not in modules.values():
            near = difflib.get_close_matches(str(item), [*parameters, *modules], n=1, cutoff=0)
            raise ValueError(
                f"exclude: the model has no parameter or module {item!r}"
                + (f"; the nearest name is {near[0]!r}." if isinstance(item, str) and near else ".")
            )
        free |= {id(parameter) for parameter in module.parameters()}
    return free
