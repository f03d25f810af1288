"""Describe how one run's part of a stacked parameter looks in the run's own model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nbkit.clipping import Units, find_units
from nbkit.lab.runs.stacked_layers import StackedLinear, Vmapped, Wide


@dataclass(frozen=True)
class Role:
    """Say what a parameter is in its model.

    Attributes:
        name: as in `named_parameters`.
        layers_above: how many layers with parameters come after its own, in the order in which the
            model lists its modules; 0 in the last layer.
        layer: the type of its layer.
    """

    name: str = ""
    layers_above: int = 0
    layer: type[nn.Module] = nn.Module


@dataclass(frozen=True)
class Layout:
    """Describe the shape and the units of a parameter in one run's own model.

    Attributes:
        shape: the shape of the parameter in that model.
        turned: the stack keeps the matrix transposed; a stacked Linear has (inputs, outputs).
        units: how the parameter falls into units, for adaptive clipping.
        role: what the parameter is in the model.
    """

    shape: torch.Size
    turned: bool = False
    units: Units = field(default_factory=Units)
    role: Role = Role()

    def unfold_runs(self, flat: Tensor) -> Tensor:
        """Return a view: (runs, numbers of one run) -> (runs, *shape)."""
        if self.turned:
            outputs, inputs = self.shape
            return flat.view(-1, inputs, outputs).mT
        return flat.view(len(flat), *self.shape)

    def fold_runs(self, tensor: Tensor) -> Tensor:
        """Return (runs, *shape) as (runs, numbers of one run), in the order of the stack."""
        return (tensor.mT if self.turned else tensor).reshape(len(tensor), -1)


def find_layouts(stacked: nn.Module, model: nn.Module) -> list[Layout]:
    """Find the layout of each trained parameter of a stack, given one of the models in it."""
    units = {}  # by parameter of the model, how it falls into units
    for unit in find_units(model, dict(model.named_parameters())).values():
        units[id(unit.parameter)] = unit.units
    roles = find_roles(model)
    layouts = {}
    for layer, own_layer in _pair_layers(stacked, model):
        turned = isinstance(layer, StackedLinear)
        source = layer if turned else layer.get_submodule("layer")
        for name, parameter in source.named_parameters():
            own = own_layer.get_parameter(name)
            is_matrix = turned and name == "weight"  # a bias has nothing to transpose
            layouts[id(parameter)] = Layout(own.shape, is_matrix, units[id(own)], roles[id(own)])
    return [layouts[id(parameter)] for parameter in list_trained_parameters(stacked)]


def find_roles(model: nn.Module) -> dict[int, Role]:
    """Find the role of each parameter of a model, by the parameter's id."""
    owners = []
    for path, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            owners.append((path, module))
    roles: dict[int, Role] = {}
    for place, (path, module) in enumerate(owners):
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{path}.{name}" if path else name
            # A parameter that two layers share keeps the role that it has in the first one.
            roles.setdefault(id(parameter), Role(full_name, len(owners) - 1 - place, type(module)))
    return roles


def list_trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _pair_layers(stacked: nn.Module, model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield each stacked layer with the layer of the model that it stands for."""
    if type(model) is nn.Sequential:
        # Not children(): that leaves out the second use of a layer, which is stacked twice.
        for layer, own in zip(stacked._modules.values(), model, strict=True):
            assert layer is not None
            yield from _pair_layers(layer, own)
    elif isinstance(stacked, StackedLinear | Wide | Vmapped):
        yield stacked, model
