"""Initial weights: set by a named scheme, scaled to the data, and judged on one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from nbkit.base.report import Report
from nbkit.initialization.weights import assign, behind

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
_SMALL = 0.01  # what `constant` and `normal` take where no gain is given
_NONLINEARITIES = ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")
_LAYERS = (nn.Linear, _ConvNd, nn.Embedding, nn.EmbeddingBag)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass
class Initialized(Report):
    """What `initialize_` has set and what it has left.

    Attributes:
        touched: name of a parameter to what it holds now.
        left: name of a parameter to the reason why it is as it was.
    """

    scheme: str
    touched: dict[str, str]
    left: dict[str, str]

    def table(self):
        """One row a parameter."""
        rows = [(name, f"set: {what}") for name, what in self.touched.items()]
        rows += [(name, f"left: {why}") for name, why in self.left.items()]
        summary = f"{self.scheme}: {len(self.touched)} parameters set, {len(self.left)} left"
        return summary, ("parameter", "what"), rows


@torch.no_grad()
def initialize_(
    model: nn.Module,
    scheme: str,
    *,
    nonlinearity: str = "relu",
    gain: float | None = None,
    generator: torch.Generator | None = None,
) -> Initialized:
    """Set the weights of all Linear, Conv and Embedding layers by a named scheme, biases to zero.

        xavier   std = gain * sqrt(2 / (fan_in + fan_out))
        kaiming  std = gain / sqrt(fan_in)
        uniform  over [-sqrt(3) std, sqrt(3) std]

    Args:
        scheme: "zeros", "constant", "normal", "xavier_uniform", "xavier_normal",
            "kaiming_uniform", "kaiming_normal" or "orthogonal".
        nonlinearity: what follows the layers. Only Kaiming's formula has it: it takes its gain
            from `torch.nn.init.calculate_gain`. An Embedding gets Xavier's uniform in its place.
        gain: a factor in place of the scheme's own, which is 1 but for Kaiming's. For "constant"
            it is the value and for "normal" the standard deviation, both 0.01 by default.
        generator: where the numbers come from; by default torch's global random state.
    Returns:
        Initialized: the parameters that were set, and those that were left, with the reason:
            normalisation layers, frozen and shared ones, other kinds of layers.
    Raises:
        ValueError: for an unknown scheme or nonlinearity, a gain that is no use, weights that have
            no memory yet, or complex ones to be orthogonal. Nothing has been touched.

    As `torch.nn.init`, but a fan counts what a unit really sums: grouped and transposed
    convolutions get their own (torch takes the first for one group and turns the second round).

    Source: Glorot & Bengio 2010, equation 16; He, Zhang, Ren & Sun 2015; Saxe, McClelland &
    Ganguli 2014 (orthogonal).

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LayerNorm(4))
    >>> print(initialize_(model, "kaiming_normal"))
    kaiming_normal: 2 parameters set, 2 left
    parameter  what
    0.weight   set: kaiming_normal, std 0.5
    0.bias     set: zero
    2.weight   left: of a normalisation layer
    2.bias     left: of a normalisation layer
    """
    _check(scheme, nonlinearity, gain)
    _check_memory(model, generator)
    found = list(_parameters(model))
    if scheme == "orthogonal":
        _check_real(found)

    padding = _padding_rows(model)
    done = Initialized(scheme, {}, {})
    for full, module, name, reason in found:
        what = ""
        if reason is None:
            reason, what = _set(module, name, padding, scheme, nonlinearity, gain, generator)
        if reason is None:
            done.touched[full] = what
        else:
            done.left[full] = reason
    return done


def _check(scheme: str, nonlinearity: str, gain: float | None) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}.")
    if nonlinearity not in _NONLINEARITIES:
        raise ValueError(
            f"nonlinearity must be one of {', '.join(_NONLINEARITIES)}, got {nonlinearity!r}. "
            f"For another one pass its gain (for GELU and SiLU that of relu, 1.41, is usual)."
        )
    if gain is not None and scheme == "zeros":
        raise ValueError(f"zeros have no gain, got gain={gain}: leave it out.")
    if gain is not None and not math.isfinite(gain):
        raise ValueError(f"gain must be a finite number, got {gain}.")
    if gain is not None and gain < 0 and scheme not in ("constant", "orthogonal"):
        raise ValueError(
            f"gain must be at least 0, as a standard deviation is, got {gain} for {scheme!r}."
        )


def _check_memory(model: nn.Module, generator: torch.Generator | None) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: run one batch through the model first.")
        if parameter.is_meta:
            raise ValueError(
                f"{name} is on the meta device: call model.to_empty(device=...) first."
            )
        if generator is not None and generator.device.type != parameter.device.type:
            raise ValueError(
                f"generator is on {generator.device}, {name} on {parameter.device}: make it with "
                f"torch.Generator(device={parameter.device.type!r})."
            )


def _check_real(found: list[tuple[str, Any, str, str | None]]) -> None:
    for full, module, name, reason in found:
        if reason is None and any(parameter.is_complex() for parameter in behind(module, name)):
            raise ValueError(
                f"{full} is complex, and orthogonal takes real weights only: choose another "
                f"scheme, or leave the layer out by requires_grad=False. Nothing has been set."
            )


def _parameters(model: nn.Module) -> Iterator[tuple[str, Any, str, str | None]]:
    """Every parameter: full name, module, name there, and why it has to be left, if it has."""
    owners: dict[int, str] = {}
    for path, module in model.named_modules():
        for name in _parameter_names(path, module):
            full = f"{path}.{name}" if path else name
            reason = _reason_to_leave(module, name, owners)
            if reason is None:
                owners.update({id(parameter): full for parameter in behind(module, name)})
            yield full, module, name, reason


def _parameter_names(path: str, module: Any) -> list[str]:
    """The module's own parameters, a parametrized one by the name that it stands for."""
    if "parametrizations" in path.split("."):
        return []
    names = [name for name, p in module._parameters.items() if p is not None]
    hidden = list(module.parametrizations) if parametrize.is_parametrized(module) else []
    return hidden + names


def _reason_to_leave(module: Any, name: str, owners: dict[int, str]) -> str | None:
    if isinstance(module, _NORMS):
        return "of a normalisation layer"
    if not isinstance(module, _LAYERS):
        return f"of a {type(module).__name__}, which is not a Linear, Conv or Embedding"
    if name not in ("weight", "bias"):
        return (
            "the layer's weight is computed from it (old weight_norm or spectral_norm?); use "
            "torch.nn.utils.parametrizations"
        )
    for parameter in behind(module, name):
        if id(parameter) in owners:
            return f"shared with {owners[id(parameter)]}"
        if not parameter.requires_grad:
            return "frozen (requires_grad=False)"
    return None


def _padding_rows(model: nn.Module) -> dict[int, list[int]]:
    """The rows that Embeddings keep at zero, by the id of the weight, which others may share."""
    rows: dict[int, list[int]] = {}
    for module in model.modules():
        if isinstance(module, _EMBEDDINGS) and module.padding_idx is not None:
            for parameter in behind(module, "weight"):
                rows.setdefault(id(parameter), []).append(module.padding_idx)
    return rows


def _set(
    module: Any, name: str, padding: dict[int, list[int]], scheme, nonlinearity, gain, generator
):
    """Why it could not be set, and what it was set to: one of the two."""
    weight = getattr(module, name)
    value = torch.zeros_like(weight)
    what = "zero"
    if name == "weight" and value.numel():
        what = _fill(module, value, scheme, nonlinearity, gain, generator)
        for parameter in behind(module, name):
            if parameter.shape == value.shape:  # else its rows are not those of the weight
                value[padding.get(id(parameter), [])] = 0
    before = [(parameter, parameter.clone()) for parameter in behind(module, name)]
    if not assign(module, name, value):
        return "its parametrization takes no values", ""
    now = getattr(module, name)
    if not now.isfinite().all():
        for parameter, kept in before:
            parameter.copy_(kept)
        return "its parametrization cannot hold such a value", ""
    if not torch.allclose(now, value, rtol=1e-3, atol=1e-6):
        what += ", as far as its parametrization lets it"
    return None, what


def _fill(module: Any, value: Tensor, scheme: str, nonlinearity: str, gain, generator) -> str:
    """Draw the weight of a layer; say what it is."""
    if isinstance(module, _EMBEDDINGS) and scheme.startswith(("xavier", "kaiming")):
        scheme = "xavier_uniform"
    if gain is None:
        gain = 1.0
        if scheme in ("constant", "normal"):
            gain = _SMALL
        elif scheme.startswith("kaiming"):
            gain = nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
    return _draw(module, value, scheme, gain, generator)


def _draw(module: Any, value: Tensor, scheme: str, gain: float, generator) -> str:
    if scheme == "zeros":
        return "zero"
    if scheme == "constant":
        value.fill_(gain)
        return f"{gain:g}"
    if scheme == "orthogonal":
        for block in value.chunk(getattr(module, "groups", 1)):
            wide = torch.empty_like(block, dtype=torch.promote_types(block.dtype, torch.float32))
            block.copy_(nn.init.orthogonal_(wide, gain, generator=generator))
        return f"orthogonal, gain {gain:.3g}"
    std = gain
    if scheme != "normal":
        fan_in, fan_out = _fans(module, value)
        fan = fan_in if scheme.startswith("kaiming") else (fan_in + fan_out) / 2
        std = gain / math.sqrt(fan)
    if scheme.endswith("uniform"):
        value.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
    else:
        value.normal_(0, std, generator=generator)
    return f"{scheme}, std {std:.3g}"


def _fans(module: Any, weight: Tensor) -> tuple[float, float]:
    """How many inputs a unit sums, and how many units an input goes to."""
    if not isinstance(module, _ConvNd):
        return weight.shape[1], weight.shape[0]
    size = weight[0, 0].numel()
    fan_in = module.in_channels // module.groups * size
    fan_out = module.out_channels // module.groups * size
    if isinstance(module, _ConvTransposeNd):
        return fan_in / math.prod(module.stride), fan_out
    return fan_in, fan_out
