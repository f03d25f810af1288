"""Recognise activation functions by torch's names for them, and measure their outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

# In place, as a method or as a module: torch calls all of them by these names.
RELUS = {"relu", "relu_", "relu6", "_threshold", "threshold_", "clamp_min", "clamp_min_"}
# The lower and the upper limit of each function's values.
LIMITS = {
    "tanh": (-1.0, 1.0),
    "tanh_": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "sigmoid_": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
}
_NEAR = 0.005  # of the distance between the limits: 0.99 for tanh


def find_limits(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[float, float]:
    """Return the limits of a function's values; hardtanh gets them as arguments."""
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    if name == "hardtanh":
        given = {**dict(zip(("input", "min_val", "max_val"), args, strict=False)), **kwargs}
        low, high = given.get("min_val", low), given.get("max_val", high)
    return low, high


def measure_dead_share(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute the share of a layer's units that are zero for every sample and position."""
    # Shape (units, samples * positions).
    units = x.movedim(_find_unit_axis(layer, x), 0).flatten(1)
    return (units == 0).all(1).float().mean()


def measure_saturated_share(x: Tensor, low: float, high: float) -> Tensor:
    """Compute the share of values that are close to one of the limits."""
    near = _NEAR * (high - low)
    return ((x < low + near) | (x > high - near)).float().mean()


def _find_unit_axis(layer: nn.Module, x: Tensor) -> int:
    """Return the axis of units in what follows a layer: a convolution's channels, else the last."""
    # After a flatten, a convolution's output has too few axes for channels.
    if isinstance(layer, _ConvNd) and x.ndim > len(layer.kernel_size):
        return x.ndim - len(layer.kernel_size) - 1
    return x.ndim - 1
