"""The factors of the three clip rules, as pure functions of tensors.

`clip_gradients_` calls them for one model, the stacked runs of the lab for many runs at once: a
threshold and a norm may be one number each, or have a leading axis for the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nbkit.base.dtypes import WIDE

Limit = float | Tensor  # a threshold: one number, or one a run
HALF = (torch.float16, torch.bfloat16)
UNIT_FLOOR = 1e-3  # the least weight norm of a unit, so that weights that start at zero can move


def needs_wide_norms(dtypes: Iterable[torch.dtype], *, looks: bool) -> bool:
    """Decide whether norms are computed in float64 at once, not only after one overflowed.

    The square of a float32 can overflow float32, but not float64. A GPU computes float64 norms at
    about the speed of its memory, a CPU takes eight times as long. So where the result is looked at
    before it is used (`looks`), float64 is for the rare second try.
    """
    return not looks or any(dtype in WIDE for dtype in dtypes)


def norm_dtype(device: torch.device, *, wide: bool) -> torch.dtype:
    """Return the dtype that norms are computed in; Apple's GPUs have no float64."""
    return torch.float64 if wide and device.type != "mps" else torch.float32


def norm_factor(total: Tensor, max_norm: Limit) -> Tensor:
    """Return min(1, max_norm / (total + 1e-6)); 1 for an infinite threshold, whatever the norm."""
    # In the order and with the 1e-6 of torch's own function, so that both give the same bits.
    factor = total.add(1e-6).reciprocal().mul(max_norm).clamp(max=1.0)
    return _unlimited_to_one(factor, max_norm)


def value_factor(peak: Tensor, max_value: Limit) -> Tensor:
    """Return min(1, max_value / peak): what the largest element is multiplied by."""
    return _unlimited_to_one((max_value / peak).clamp(max=1.0), max_value)


def clamp_values(tensor: Tensor, limit: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return min(max(g, -limit), limit), element by element; NaN stays NaN."""
    return torch.clamp(tensor, -limit, limit, out=out)


def unit_factor(norms: Tensor, weight_norms: Tensor, agc: Limit, floor: float) -> Tensor:
    """Return min(1, agc * max(|w|, floor) / |g|) for each unit, from its two norms."""
    factor = (agc * weight_norms.clamp(min=floor) / norms).clamp(max=1.0)
    return _unlimited_to_one(factor, agc)


def scale_gradient(tensor: Tensor, factor: Tensor) -> Tensor:
    """Return the gradient times the factor, in the gradient's dtype."""
    # A factor in half precision would lose digits, or be 0.
    computed = torch.float32 if tensor.dtype in HALF else tensor.dtype
    return (tensor.to(computed) * factor.to(computed)).to(tensor.dtype)


def _unlimited_to_one(factor: Tensor, limit: Limit) -> Tensor:
    """Put 1 where the threshold is infinite: there even an overflow changes nothing."""
    if isinstance(limit, Tensor):
        return factor.masked_fill(limit.isinf(), 1.0)
    return torch.ones_like(factor) if math.isinf(limit) else factor


@dataclass(frozen=True)
class Units:
    """How a parameter falls into units, each of which adaptive clipping clips on its own.

    A unit is what computes one output: a row of a Linear weight, a filter of a convolution, a row
    of an Embedding; axis 0 for other layers. A vector, such as a bias, is one unit.
    """

    groups: int = 0  # of a transposed convolution, (in, out / groups, ...); 0 for all else

    def split(self, tensor: Tensor) -> tuple[Tensor, list[int]]:
        """Return a view of a tensor of the parameter's shape, and its axes within a unit."""
        if self.groups and tensor.dim() > 1:
            view = tensor.unflatten(0, (self.groups, -1))
            return view, [1, *range(3, view.dim())]
        return tensor, list(range(min(1, tensor.dim() - 1), tensor.dim()))

    def norms(self, tensor: Tensor, norm_type: float, dtype: torch.dtype) -> Tensor:
        """Return the norm of each unit, with the shape that broadcasts to the view."""
        view, axes = self.split(tensor)
        return vector_norm(view, norm_type, dim=axes, keepdim=True, dtype=dtype)

    def multiply(self, tensor: Tensor, factor: Tensor) -> Tensor:
        """Return the tensor times the factor of each unit."""
        view, _ = self.split(tensor)
        return scale_gradient(view, factor).reshape(tensor.shape)
