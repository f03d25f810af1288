"""The measures of the three clip rules: norms of gradients, and the factor that clips them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nbkit.clipping.factors import (
    HALF,
    clamp_values,
    compute_norm_factor,
    compute_unit_factor,
    compute_value_factor,
    scale_gradient,
)
from nbkit.clipping.units import ParameterUnits

ApplyFactor = Callable[[Tensor], None]


class Measured(NamedTuple):
    """Hold the norms of gradients, and the two functions that follow from the total norm.

    Attributes:
        norms: norm of each gradient, one number per tensor.
        find_coefficient: returns the smallest factor of any gradient, given the total norm.
        apply_factor: clips the gradients in place, given that factor. A factor of 1 leaves all of
            them unchanged, because nothing is too large or because the step is skipped.
    """

    norms: Sequence[Tensor]
    find_coefficient: Callable[[Tensor], Tensor]
    apply_factor: ApplyFactor


# Takes the gradients by name, and the dtype to compute norms in.
Measure = Callable[[dict[str, Tensor], torch.dtype], Measured]


def measure_by_norm(
    max_norm: float, norm_type: float, grads: dict[str, Tensor], dtype: torch.dtype
) -> Measured:
    """Measure gradients that are clipped by their norm: all are multiplied by one factor."""
    tensors = list(grads.values())
    # torch._foreach_norm takes real tensors; a complex tensor has the norm of its absolute values.
    sizes = [tensor.abs() if tensor.is_complex() else tensor for tensor in tensors]
    norms = _compute_norms(sizes, norm_type, dtype)
    find_coefficient = partial(compute_norm_factor, max_norm=max_norm)
    return Measured(norms, find_coefficient, partial(_multiply_tensors, tensors))


def measure_by_value(
    max_value: float, norm_type: float, grads: dict[str, Tensor], dtype: torch.dtype
) -> Measured:
    """Measure gradients that are clipped element by element."""
    tensors = list(grads.values())
    norms = _compute_norms(tensors, norm_type, dtype)
    # aminmax reads a tensor once; on a CPU the infinity norm takes twenty times as long.
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor.numel()]

    def find_coefficient(total: Tensor) -> Tensor:
        """Return the factor of the element with the largest absolute value."""
        # Without any element the total norm, 0, stands in for the largest value.
        peaks = [end.to(total).abs().max() for end in ends] or [total]
        return compute_value_factor(torch.stack(peaks).max(), max_value)

    def clip_elements(coefficient: Tensor) -> None:
        """Clamp all elements, or none if the coefficient is 1."""
        # An infinite limit clamps nothing. It is chosen on the device, so that nothing waits.
        limit = torch.full_like(coefficient, max_value)
        limit = torch.where(coefficient == 1.0, math.inf, limit)
        for tensor in tensors:
            clamp_values(tensor, limit.to(tensor), out=tensor)

    return Measured(norms, find_coefficient, clip_elements)


def measure_by_unit(
    agc: float,
    floor: float,
    units: dict[str, ParameterUnits],
    norm_type: float,
    grads: dict[str, Tensor],
    dtype: torch.dtype,
) -> Measured:
    """Measure gradients that are clipped unit by unit, each by a separate factor."""
    unit_norms: dict[str, Tensor] = {}
    factors: dict[str, Tensor] = {}  # of the parameters that are not excluded
    for name, grad in grads.items():
        unit = units[name]
        unit_norms[name] = unit.units.compute_norms(grad, norm_type, dtype)
        if not unit.free:
            weight_norms = unit.units.compute_norms(unit.parameter, norm_type, dtype)
            factors[name] = compute_unit_factor(unit_norms[name], weight_norms, agc, floor)

    def find_coefficient(total: Tensor) -> Tensor:
        """Return the smallest factor of any unit; 1 if no unit is clipped."""
        smallest = [factor.min().to(total) for factor in factors.values() if factor.numel()]
        return torch.stack([*smallest, torch.ones_like(total)]).min()

    def clip_units(coefficient: Tensor) -> None:
        """Multiply each unit by its factor, or none if the coefficient is 1."""
        for name, factor in factors.items():
            view, _ = units[name].units.split_units(grads[name])
            is_off = coefficient.to(factor.device) == 1.0
            view.mul_(torch.where(is_off, 1.0, factor))  # a view, so this changes the gradient

    # The norm of a gradient is the norm of its units' norms.
    norms = _compute_norms(list(unit_norms.values()), norm_type, dtype)
    return Measured(norms, find_coefficient, clip_units)


def _compute_norms(tensors: list[Tensor], norm_type: float, dtype: torch.dtype) -> list[Tensor]:
    """Return the norm of each tensor, 0 for a tensor without elements."""
    # torch refuses to compute the largest of no elements, so a single zero replaces them.
    filled = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in tensors]
    return list(torch._foreach_norm(filled, norm_type, dtype=dtype))


def _multiply_tensors(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply all tensors in place by one factor, with one call per device and dtype."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.is_complex():
            # As pairs of real numbers: infinity times a complex 1 has a NaN. A real view of a lazy
            # conjugate does not exist, but its conjugate shares the memory and the factor is real.
            tensor = torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)
        alike[tensor.device, tensor.dtype].append(tensor)
    for (device, dtype), group in alike.items():
        if dtype not in HALF:
            torch._foreach_mul_(group, factor.to(device, dtype))
            continue
        # A factor in half precision would lose digits, so each product is formed in float32.
        for tensor in group:
            tensor.copy_(scale_gradient(tensor, factor.to(device)))
