"""The units of a model's parameters, which adaptive clipping clips one by one."""

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
class ParameterUnits:
    """Hold a parameter and its division into units.

    Attributes:
        parameter: the parameter, whose norms are compared with those of its gradient.
        units: how the parameter is divided.
        free: whether it is excluded: then it is measured, but not clipped.
    """

    parameter: Tensor
    units: Units
    free: bool = False


def find_units(
    model: nn.Module, named: dict[str, Tensor], exclude: Excluded = ()
) -> dict[str, ParameterUnits]:
    """Find the units of the model's parameters, by name.

    Args:
        model: the model, whose layers decide how a parameter is divided.
        named: its parameters by name.
        exclude: names or modules whose parameters are not clipped.
    Raises:
        TypeError: if a gradient is sparse: its rows are no longer those of the parameter.
        ValueError: if the model has no parameter or module of an excluded name.
    """
    sparse = [name for name, p in named.items() if p.grad is not None and p.grad.is_sparse]
    if sparse:
        raise TypeError(
            f"agc needs dense gradients, but that of {join_names(sparse)} is sparse: "
            f"use nn.Embedding(sparse=False), or max_norm."
        )
    free = _find_excluded(model, exclude)
    # The weight of a transposed convolution has its outputs on axis 1, divided into groups.
    groups: dict[int, int] = {}  # by the id of a transposed convolution's weight and bias
    for layer in model.modules():
        if isinstance(layer, TRANSPOSED):
            for parameter in layer.parameters():
                groups[id(parameter)] = layer.groups
    found = {}
    for name, tensor in named.items():
        units = Units(groups.get(id(tensor), 0))
        found[name] = ParameterUnits(tensor, units, free=id(tensor) in free)
    return found


def _find_excluded(model: nn.Module, exclude: Excluded) -> set[int]:
    """Return the ids of the excluded parameters, each by its name or with its module."""
    # The model itself, whose name is empty, is left out: excluding it would clip nothing.
    modules = {name: module for name, module in model.named_modules() if name}
    # Duplicates are kept, so that a tied parameter can be excluded by each of its names.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    free: set[int] = set()
    for item in [exclude] if isinstance(exclude, (str, nn.Module)) else exclude:
        if item in parameters:
            free.add(id(parameters[item]))
            continue
        module = modules.get(item) if isinstance(item, str) else item
        if not isinstance(module, nn.Module) or module not in modules.values():
            raise ValueError(_explain_unknown_name(item, [*parameters, *modules]))
        for parameter in module.parameters():
            free.add(id(parameter))
    return free


def _explain_unknown_name(item: object, names: list[str]) -> str:
    """Say that the model has no such parameter or module, and which name is the nearest."""
    message = f"exclude: the model has no parameter or module {item!r}"
    if isinstance(item, str):
        # A cutoff of 0 gives the nearest name even if it is not similar.
        nearest = difflib.get_close_matches(item, names, n=1, cutoff=0)
        if nearest:
            return f"{message}; the nearest name is {nearest[0]!r}."
    return f"{message}."
