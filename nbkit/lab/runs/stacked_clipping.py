"""Clip stacked runs, each by its own threshold, with the factors of `clip_gradients_`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.linalg import vector_norm

from nbkit.clipping import (
    MODES,
    UNIT_FLOOR,
    Units,
    clamp_values,
    find_units,
    needs_wide_norms,
    norm_dtype,
    norm_factor,
    scale_gradient,
    unit_factor,
)
from nbkit.lab.runs.arms import Rule
from nbkit.lab.runs.stacked_layers import StackedLinear, Vmapped, Wide

# In the given dtype: the total norm of each run, and the factors of each gradient.
Measure = Callable[[torch.dtype], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Layout:
    """How one run's part of a stacked parameter looks in the run's own model."""

    shape: torch.Size
    turned: bool = False  # a stacked Linear keeps (inputs, outputs)
    units: Units = field(default_factory=Units)

    def unfold(self, flat: Tensor) -> Tensor:
        """Return a view: (runs, numbers of one run) -> (runs, *shape)."""
        if self.turned:
            outputs, inputs = self.shape
            return flat.view(-1, inputs, outputs).mT
        return flat.view(len(flat), *self.shape)

    def fold(self, tensor: Tensor) -> Tensor:
        """Return (runs, *shape) as (runs, numbers of one run), in the order of the stack."""
        return (tensor.mT if self.turned else tensor).reshape(len(tensor), -1)


def find_layouts(stacked: nn.Module, model: nn.Module) -> list[Layout]:
    """Find the layout of each trained parameter of a stack, given one of the models in it."""
    units = {}
    for unit in find_units(model, dict(model.named_parameters())).values():
        units[id(unit.parameter)] = unit.units
    layouts = {}
    for layer, own_layer in _pair_layers(stacked, model):
        turned = isinstance(layer, StackedLinear)
        source = layer if turned else layer.get_submodule("layer")
        for name, parameter in source.named_parameters():
            own = own_layer.get_parameter(name)
            matrix = turned and name == "weight"
            layouts[id(parameter)] = Layout(own.shape, matrix, units[id(own)])
    return [layouts[id(p)] for p in stacked.parameters() if p.requires_grad]


def _pair_layers(stacked: nn.Module, model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield each stacked layer with the layer of the model that it stands for."""
    if type(model) is nn.Sequential:
        # Not children(): that leaves out the second use of a layer, which is stacked twice.
        for layer, own in zip(stacked._modules.values(), model, strict=True):
            assert layer is not None
            yield from _pair_layers(layer, own)
    elif isinstance(stacked, StackedLinear | Wide | Vmapped):
        yield stacked, model


class StackedClip:
    """Clip each run's gradients as `clip_gradients_` would, with nonfinite="ignore".

    Called with gradients by the index of their parameter, (runs, numbers of one run) each; gives
    the clipped ones. A mode that no run uses costs nothing.
    """

    def __init__(
        self, rules: Sequence[Rule], weights: Sequence[Tensor], layouts: Sequence[Layout]
    ) -> None:
        self.weights, self.layouts = weights, layouts
        self.device = weights[0].device
        self.wide = needs_wide_norms(
            [weight.dtype for weight in weights], looks=self.device.type == "cpu"
        )
        self.limits: dict[str, Tensor] = {}  # by mode, of each run
        for mode in MODES:
            limits = [getattr(rule, mode) for rule in rules]
            if any(map(math.isfinite, limits)):
                dtype = norm_dtype(self.device, wide=True)
                self.limits[mode] = torch.tensor(limits, dtype=dtype, device=self.device)

    def __call__(self, gradients: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the clipped gradients; those given are not changed."""
        clipped = dict(gradients)
        if not clipped:
            return clipped
        if "max_norm" in self.limits:
            measure = partial(self._measure_norms, clipped)
            (factor,) = self._find_factors(measure, self.limits["max_norm"])
            clipped = {i: scale_gradient(g, factor[:, None]) for i, g in clipped.items()}
        if "max_value" in self.limits:
            limits = self.limits["max_value"][:, None]
            clipped = {i: clamp_values(g, limits.to(g.dtype)) for i, g in clipped.items()}
        if "agc" in self.limits:
            measure = partial(self._measure_units, clipped)
            factors = self._find_factors(measure, self.limits["agc"])
            for (index, gradient), factor in zip(clipped.items(), factors, strict=True):
                layout = self.layouts[index]
                view = vmap(layout.units.multiply)(layout.unfold(gradient), factor)
                clipped[index] = layout.fold(view)
        return clipped

    def _find_factors(self, measure: Measure, limits: Tensor) -> list[Tensor]:
        """Measure; where the norm of a run that clips overflowed float32, measure in float64."""
        total, factors = measure(norm_dtype(self.device, wide=self.wide))
        if self.wide:
            return factors
        lost = ~total.isfinite() & limits.isfinite()
        if not lost.any():
            return factors
        _, wide = measure(norm_dtype(self.device, wide=True))
        # Run by run: what one run's norm is must not depend on the runs beside it.
        return [
            torch.where(_beside(lost, narrow), precise, narrow)
            for narrow, precise in zip(factors, wide, strict=True)
        ]

    def _measure_norms(
        self, gradients: Mapping[int, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, list[Tensor]]:
        """The total norm of each run, and its one factor."""
        norms = [vector_norm(gradient, dim=1, dtype=dtype) for gradient in gradients.values()]
        total = vector_norm(torch.stack(norms, 1), dim=1)
        return total, [norm_factor(total, self.limits["max_norm"].to(dtype))]

    def _measure_units(
        self, gradients: Mapping[int, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, list[Tensor]]:
        """The total norm of each run, and for each gradient the factors of each run's units."""
        norms, factors = [], []
        for index, gradient in gradients.items():
            layout = self.layouts[index]
            measure = vmap(partial(layout.units.norms, norm_type=2.0, dtype=dtype))
            own = measure(layout.unfold(gradient))
            weights = measure(layout.unfold(self.weights[index]))
            limits = _beside(self.limits["agc"].to(dtype), own)
            factors.append(unit_factor(own, weights, limits, UNIT_FLOOR))
            norms.append(vector_norm(own.reshape(len(own), -1), dim=1))
        return vector_norm(torch.stack(norms, 1), dim=1), factors


def _beside(numbers: Tensor, other: Tensor) -> Tensor:
    """A number for each run -> (runs, 1, ...), with as many axes as the other tensor."""
    return numbers.view(-1, *[1] * (other.dim() - 1))
