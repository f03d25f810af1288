"""Clip stacked runs, each by its own threshold, with the factors of `clip_gradients_`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap
from torch.linalg import vector_norm

from nbkit.clipping import (
    MODES,
    UNIT_FLOOR,
    choose_norm_dtype,
    clamp_values,
    compute_norm_factor,
    compute_unit_factor,
    needs_wide_norms,
    scale_gradient,
)
from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import Rule

# For a dtype to compute in: the total norm of each run, and the factors of each gradient.
Measure = Callable[[torch.dtype], tuple[Tensor, list[Tensor]]]


class StackedClip:
    """Clip each run's gradients as `clip_gradients_` would, with nonfinite="ignore".

    Call it with the gradients by the index of their parameter, (runs, numbers of one run) each; it
    returns the clipped ones. A mode that no run uses costs no time.
    """

    def __init__(
        self, rules: Sequence[Rule], weights: Sequence[Tensor], layouts: Sequence[Layout]
    ) -> None:
        self.weights, self.layouts = weights, layouts
        self.device = weights[0].device
        self.wide = needs_wide_norms(
            [weight.dtype for weight in weights], looks=self.device.type == "cpu"
        )
        self.limits: dict[str, Tensor] = {}  # for each mode in use, the threshold of each run
        for mode in MODES:
            limits = [rule[mode] for rule in rules]
            if any(map(math.isfinite, limits)):
                # In the widest dtype; each use converts them to the dtype it computes in.
                dtype = choose_norm_dtype(self.device, wide=True)
                self.limits[mode] = torch.tensor(limits, dtype=dtype, device=self.device)

    def __call__(self, gradients: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the clipped gradients; those given are not changed."""
        clipped = dict(gradients)
        if not clipped:
            return clipped
        # At most one threshold of a run is finite, so the modes do not act on each other.
        if "max_norm" in self.limits:
            measure = partial(self._measure_norms, clipped)
            (factor,) = self._find_factors(measure, self.limits["max_norm"])
            for index, gradient in clipped.items():
                clipped[index] = scale_gradient(gradient, factor[:, None])
        if "max_value" in self.limits:
            limits = self.limits["max_value"][:, None]
            for index, gradient in clipped.items():
                clipped[index] = clamp_values(gradient, limits.to(gradient.dtype))
        if "agc" in self.limits:
            measure = partial(self._measure_units, clipped)
            factors = self._find_factors(measure, self.limits["agc"])
            for (index, gradient), factor in zip(clipped.items(), factors, strict=True):
                layout = self.layouts[index]
                # A factor for each run and unit, multiplied in the shape of the run's own model.
                view = vmap(layout.units.multiply_units)(layout.unfold_runs(gradient), factor)
                clipped[index] = layout.fold_runs(view)
        return clipped

    def _find_factors(self, measure: Measure, limits: Tensor) -> list[Tensor]:
        """Measure; if the norm of a run that clips overflowed float32, measure in float64."""
        total, factors = measure(choose_norm_dtype(self.device, wide=self.wide))
        if self.wide:
            return factors
        lost = ~total.isfinite() & limits.isfinite()
        # Reading this synchronises, and it happens only where norms are not measured in float64.
        if not lost.any():
            return factors
        _, wide = measure(choose_norm_dtype(self.device, wide=True))
        # Choose run by run: the norm of a run must not depend on the runs beside it.
        chosen = []
        for narrow, precise in zip(factors, wide, strict=True):
            chosen.append(torch.where(_align_runs(lost, narrow), precise, narrow))
        return chosen

    def _measure_norms(
        self, gradients: Mapping[int, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the total norm of each run, and its one factor."""
        # The norm of all gradients is the norm of their norms.
        norms = [vector_norm(gradient, dim=1, dtype=dtype) for gradient in gradients.values()]
        total = vector_norm(torch.stack(norms, 1), dim=1)
        return total, [compute_norm_factor(total, self.limits["max_norm"].to(dtype))]

    def _measure_units(
        self, gradients: Mapping[int, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the total norm of each run, and for each gradient the factors of each unit."""
        norms, factors = [], []
        for index, gradient in gradients.items():
            layout = self.layouts[index]
            measure = vmap(partial(layout.units.compute_norms, norm_type=2.0, dtype=dtype))
            own = measure(layout.unfold_runs(gradient))
            weights = measure(layout.unfold_runs(self.weights[index]))
            limits = _align_runs(self.limits["agc"].to(dtype), own)
            factors.append(compute_unit_factor(own, weights, limits, UNIT_FLOOR))
            norms.append(vector_norm(own.reshape(len(own), -1), dim=1))
        return vector_norm(torch.stack(norms, 1), dim=1), factors


def _align_runs(numbers: Tensor, other: Tensor) -> Tensor:
    """View a number for each run as (runs, 1, ...), with as many axes as the other tensor."""
    return numbers.view(-1, *[1] * (other.dim() - 1))
