"""Draw initial weights by a named scheme, with fans that count groups, strides and transposition.

xavier   std = gain * sqrt(2 / (fan_in + fan_out))
kaiming  std = gain / sqrt(fan_in)
uniform  over [-sqrt(3) std, sqrt(3) std]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

SCHEMES = (
    "zeros",
    "constant",
    "normal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
    "orthogonal",
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_SMALL = 0.01  # the gain of "constant" and "normal" if none is given
# `torch.nn.init.calculate_gain` gives their gain without further arguments.
_NONLINEARITIES = ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")


@dataclass(frozen=True)
class WeightScheme:
    """Draw weights by one scheme; `initialize_` says what the fields mean.

    Raises:
        ValueError: for an unknown scheme or nonlinearity, or a gain that the scheme cannot use.
    """

    name: str
    nonlinearity: str
    gain: float | None
    generator: torch.Generator | None

    def __post_init__(self) -> None:
        if self.name not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.name!r}.")
        if self.nonlinearity not in _NONLINEARITIES:
            raise ValueError(
                f"nonlinearity must be one of {', '.join(_NONLINEARITIES)}, got "
                f"{self.nonlinearity!r}. For another one pass its gain (for GELU and SiLU that of "
                f"relu, 1.41, is usual)."
            )
        # None stands for the gain of the scheme, which fits.
        if self.gain is not None:
            self._check_gain(self.gain)

    def _check_gain(self, gain: float) -> None:
        if self.name == "zeros":
            raise ValueError(f"zeros have no gain, got gain={gain}: leave it out.")
        if not math.isfinite(gain):
            raise ValueError(f"gain must be a finite number, got {gain}.")
        # A constant has a sign, and an orthogonal matrix times -1 is orthogonal.
        if gain < 0 and self.name not in ("constant", "orthogonal"):
            raise ValueError(
                f"gain must be at least 0, as a standard deviation is, got {gain} for "
                f"{self.name!r}."
            )

    def fill_weight_(self, module: Any, value: Tensor) -> str:
        """Draw a layer's weight into `value`, and return what it holds, such as "zero"."""
        # A token looks up its row and sums nothing, so an Embedding has no fan_in.
        if isinstance(module, EMBEDDINGS) and self.name.startswith(("xavier", "kaiming")):
            return replace(self, name="xavier_uniform")._draw_weight_(module, value)
        return self._draw_weight_(module, value)

    def _choose_gain(self) -> float:
        if self.gain is not None:
            return self.gain
        if self.name in ("constant", "normal"):
            return _SMALL
        if self.name.startswith("kaiming"):
            gain = nn.init.calculate_gain(self.nonlinearity)  # type: ignore[arg-type]  # a Literal
            return float(gain)
        return 1.0

    def _draw_weight_(self, module: Any, value: Tensor) -> str:
        gain = self._choose_gain()
        if self.name == "zeros":
            return "zero"
        if self.name == "constant":
            value.fill_(gain)
            return f"{gain:g}"
        if self.name == "orthogonal":
            self._draw_orthogonal_(module, value, gain)
            return f"orthogonal, gain {gain:.3g}"
        # Glorot and He: the variance is gain^2 over the fan.
        std = gain if self.name == "normal" else gain / math.sqrt(self._choose_fan(module, value))
        if self.name.endswith("uniform"):
            # A uniform distribution over [-a, a] has the standard deviation a / sqrt(3).
            bound = math.sqrt(3) * std
            value.uniform_(-bound, bound, generator=self.generator)
        else:
            value.normal_(0, std, generator=self.generator)
        return f"{self.name}, std {std:.3g}"

    def _draw_orthogonal_(self, module: Any, value: Tensor, gain: float) -> None:
        # Each group of a convolution is a matrix by itself.
        for block in value.chunk(getattr(module, "groups", 1)):
            # torch's QR decomposition does not exist in half precision.
            wide = torch.empty_like(block, dtype=torch.promote_types(block.dtype, torch.float32))
            block.copy_(nn.init.orthogonal_(wide, gain, generator=self.generator))

    def _choose_fan(self, module: Any, weight: Tensor) -> float:
        """Return Kaiming's fan_in, or the mean of both fans for Xavier (Glorot's equation 16)."""
        fan_in, fan_out = count_fans(module, weight)
        return fan_in if self.name.startswith("kaiming") else (fan_in + fan_out) / 2


def count_fans(module: Any, weight: Tensor) -> tuple[float, float]:
    """Count the inputs that one unit sums, and the units that one input goes to."""
    # A Linear weight has the shape (out_features, in_features).
    if not isinstance(module, _ConvNd):
        return weight.shape[1], weight.shape[0]
    # Convolution: (out, in / groups, *kernel); transposed: (in, out / groups, *kernel).
    kernel = weight[0, 0].numel()
    fan_in = module.in_channels // module.groups * kernel
    fan_out = module.out_channels // module.groups * kernel
    # With a stride an input is used kernel / stride times, on average over the positions.
    stride = math.prod(module.stride)
    if isinstance(module, _ConvTransposeNd):
        return fan_in / stride, fan_out
    return fan_in, fan_out / stride
