"""The factors of the three clip rules, as pure functions of tensors.

`clip_gradients_` calls them for one model, and the lab for many stacked runs at once. So a
threshold and a norm are either one number each, or have a leading axis with one number per run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nbkit.base.dtypes import WIDE

Limit = float | Tensor  # a threshold: one number, or one number per run
HALF = (torch.float16, torch.bfloat16)
UNIT_FLOOR = 1e-3  # the smallest weight norm of a unit: weights that start at zero can move


def needs_wide_norms(dtypes: Iterable[torch.dtype], *, looks: bool) -> bool:
    """Decide whether to compute norms in float64 at once, or only after one has overflowed.

    Args:
        dtypes: dtypes of the gradients.
        looks: whether the caller looks at the result before it uses it, and can try again.

    The square of a float32 number can overflow float32, but not float64. A GPU computes float64
    norms at about the speed of its memory, but a CPU takes eight times as long. So if the caller
    looks at the result, float64 is left for the rare second attempt.
    """
    return not looks or any(dtype in WIDE for dtype in dtypes)


def choose_norm_dtype(device: torch.device, *, wide: bool) -> torch.dtype:
    """Return the dtype to compute norms in; Apple's GPUs have no float64."""
    return torch.float64 if wide and device.type != "mps" else torch.float32


def compute_norm_factor(total: Tensor, max_norm: Limit) -> Tensor:
    """Return min(1, max_norm / (total + 1e-6)); an infinite threshold gives 1 for any norm."""
    # The order of operations and the 1e-6 are those of torch.nn.utils.clip_grad_norm_, so that both
    # functions give the same bits.
    factor = total.add(1e-6).reciprocal().mul(max_norm).clamp(max=1.0)
    return _unlimited_to_one(factor, max_norm)


def compute_value_factor(peak: Tensor, max_value: Limit) -> Tensor:
    """Return min(1, max_value / peak), the factor of the largest element by absolute value."""
    return _unlimited_to_one((max_value / peak).clamp(max=1.0), max_value)


def clamp_values(tensor: Tensor, limit: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return min(max(g, -limit), limit), element by element; NaN stays NaN."""
    return torch.clamp(tensor, -limit, limit, out=out)


def compute_unit_factor(norms: Tensor, weight_norms: Tensor, agc: Limit, floor: float) -> Tensor:
    """Return min(1, agc * max(|w|, floor) / |g|) for each unit, from its two norms."""
    factor = (agc * weight_norms.clamp(min=floor) / norms).clamp(max=1.0)
    return _unlimited_to_one(factor, agc)


def scale_gradient(tensor: Tensor, factor: Tensor) -> Tensor:
    """Return the gradient times the factor, in the gradient's dtype."""
    # In half precision the factor would lose digits or round to 0.
    computed = torch.float32 if tensor.dtype in HALF else tensor.dtype
    return (tensor.to(computed) * factor.to(computed)).to(tensor.dtype)


def _unlimited_to_one(factor: Tensor, limit: Limit) -> Tensor:
    """Replace the factor by 1 where the threshold is infinite, even if the norm overflowed."""
    if isinstance(limit, Tensor):
        return factor.masked_fill(limit.isinf(), 1.0)
    return torch.ones_like(factor) if math.isinf(limit) else factor


@dataclass(frozen=True)
class Units:
    """Divide a parameter into units, each of which adaptive clipping clips separately.

    A unit is the part of a parameter that computes one output: a row of a Linear weight, a filter
    of a convolution, a row of an Embedding; a row along axis 0 for other layers. A vector, such as
    a bias, is one unit.

    Attributes:
        groups: number of groups of a transposed convolution, 0 for every other layer.
    """

    groups: int = 0

    def split_units(self, tensor: Tensor) -> tuple[Tensor, list[int]]:
        """Return a view of a tensor of the parameter's shape, and its axes within a unit."""
        if self.groups and tensor.dim() > 1:
            # (in, out / groups, *kernel) -> (groups, in / groups, out / groups, *kernel); each pair
            # of group and output is a unit.
            view = tensor.unflatten(0, (self.groups, -1))
            return view, [1, *range(3, view.dim())]
        # All axes but the first; of a vector its only axis, of a scalar none.
        return tensor, list(range(min(1, tensor.dim() - 1), tensor.dim()))

    def compute_norms(self, tensor: Tensor, norm_type: float, dtype: torch.dtype) -> Tensor:
        """Return the norm of each unit, in a shape that broadcasts to the view of `split_units`."""
        view, axes = self.split_units(tensor)
        if not view.numel():
            # The norm of no elements is 0, but torch refuses to compute their largest.
            return view.sum(axes, keepdim=True, dtype=dtype)
        norms: Tensor = vector_norm(view, norm_type, dim=axes, keepdim=True, dtype=dtype)
        return norms

    def multiply_units(self, tensor: Tensor, factor: Tensor) -> Tensor:
        """Return the tensor with each unit multiplied by its factor."""
        view, _ = self.split_units(tensor)
        return scale_gradient(view, factor).reshape(tensor.shape)
