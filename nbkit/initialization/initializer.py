"""Set the initial weights of a model by a named scheme, and report what was set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from nbkit.base.report import Report
from nbkit.initialization.schemes import EMBEDDINGS, WeightScheme
from nbkit.initialization.weights import assign_weight, find_parameters

_LAYERS = (nn.Linear, _ConvNd, *EMBEDDINGS)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass
class Initialized(Report):
    """Report what `initialize_` has set and what it has left unchanged.

    Attributes:
        touched: for each parameter that was set, what it holds now.
        left: for each parameter left unchanged, the reason.
    """

    scheme: str
    touched: dict[str, str]
    left: dict[str, str]

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per parameter."""
        rows = [(name, f"set: {what}") for name, what in self.touched.items()]
        rows += [(name, f"left: {why}") for name, why in self.left.items()]
        summary = f"{self.scheme}: {len(self.touched)} parameters set, {len(self.left)} left"
        return summary, ("parameter", "what"), rows


@dataclass
class _Slot:
    """Say where a parameter is in a model.

    Attributes:
        full_name: as in `named_parameters`, a parametrized one by the name that it stands for.
        name: in the module.
        reason: why it must be left unchanged; None if it can be set.
    """

    full_name: str
    module: Any
    name: str
    reason: str | None


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
        nonlinearity: the activation after each layer. Only Kaiming's formula uses it, by the gain
            of `torch.nn.init.calculate_gain`. An Embedding gets Xavier's uniform instead.
        gain: replaces the scheme's gain, which is 1 for all but Kaiming's. For "constant" it is
            the value and for "normal" the standard deviation, both 0.01 by default.
        generator: source of the random numbers; by default torch's global random state.
    Returns:
        Initialized: the parameters that were set, and those left unchanged, with the reason:
            normalisation layers, frozen and shared parameters, other kinds of layers.
    Raises:
        ValueError: for an unknown scheme or nonlinearity, a gain that the scheme cannot use,
            weights without memory, or complex weights with "orthogonal". Nothing has been changed.

    Like `torch.nn.init`, except for the fans: they count the inputs that a unit really sums and the
    units that an input really goes to, by groups, stride (on average over the positions) and
    transposition.

    Source: Glorot & Bengio 2010, eq. 16; He et al. 2015; Saxe et al. 2014 (orthogonal).

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LayerNorm(4))
    >>> print(initialize_(model, "kaiming_normal"))
    kaiming_normal: 2 parameters set, 2 left
    parameter  what
    0.weight   set: kaiming_normal, std 0.5
    0.bias     set: zero
    2.weight   left: of a normalisation layer
    2.bias     left: of a normalisation layer
    """
    # All checks come before the first change.
    weight_scheme = WeightScheme(scheme, nonlinearity, gain, generator)
    _check_memory_and_device(model, generator)
    slots = list(_visit_slots(model))
    if scheme == "orthogonal":
        _check_real(slots)

    padding = _find_padding_rows(model)
    report = Initialized(scheme, {}, {})
    for slot in slots:
        if slot.reason is None:
            _set_parameter(slot, weight_scheme, padding, report)
        else:
            report.left[slot.full_name] = slot.reason
    return report


def _check_memory_and_device(model: nn.Module, generator: torch.Generator | None) -> None:
    for name, parameter in model.named_parameters():
        # A lazy layer learns its shape from the first batch.
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


def _check_real(slots: list[_Slot]) -> None:
    for slot in slots:
        if slot.reason is not None:
            continue
        for parameter in find_parameters(slot.module, slot.name):
            if parameter.is_complex():
                raise ValueError(
                    f"{slot.full_name} is complex, and orthogonal takes real weights only: choose "
                    f"another scheme, or leave the layer out by requires_grad=False. Nothing has "
                    f"been set."
                )


def _visit_slots(model: nn.Module) -> Iterator[_Slot]:
    """Yield every parameter of every module; the first owner of a shared one comes first."""
    owners: dict[int, str] = {}  # for the id of each parameter, the name that it is set by
    for path, module in model.named_modules():
        for name in _list_own_names(path, module):
            full_name = f"{path}.{name}" if path else name
            reason = _find_reason_to_leave(module, name, owners)
            # Only a parameter that will be set has an owner: a frozen one may be met again.
            if reason is None:
                for parameter in find_parameters(module, name):
                    owners[id(parameter)] = full_name
            yield _Slot(full_name, module, name, reason)


def _list_own_names(path: str, module: Any) -> list[str]:
    """List the module's own parameters, a parametrized one by the name that it stands for."""
    # The layer lists the parameters of its parametrizations itself.
    if "parametrizations" in path.split("."):
        return []
    names = [name for name, parameter in module._parameters.items() if parameter is not None]
    hidden = list(module.parametrizations) if parametrize.is_parametrized(module) else []
    return hidden + names


def _find_reason_to_leave(module: Any, name: str, owners: dict[int, str]) -> str | None:
    if isinstance(module, _NORMS):
        return "of a normalisation layer"
    if not isinstance(module, _LAYERS):
        return f"of a {type(module).__name__}, which is not a Linear, Conv or Embedding"
    # The old weight_norm keeps weight_g and weight_v and recomputes the weight at each call.
    if name not in ("weight", "bias"):
        return (
            "the layer's weight is computed from it (old weight_norm or spectral_norm?); use "
            "torch.nn.utils.parametrizations"
        )
    for parameter in find_parameters(module, name):
        if id(parameter) in owners:
            return f"shared with {owners[id(parameter)]}"
        if not parameter.requires_grad:
            return "frozen (requires_grad=False)"
    return None


def _find_padding_rows(model: nn.Module) -> dict[int, list[int]]:
    """Map the id of each Embedding's weight to the rows that stay zero.

    Other layers may share the weight, and set it, so the rows are looked up by the parameter.
    """
    rows: dict[int, list[int]] = {}
    for module in model.modules():
        if isinstance(module, EMBEDDINGS) and module.padding_idx is not None:
            for parameter in find_parameters(module, "weight"):
                rows.setdefault(id(parameter), []).append(module.padding_idx)
    return rows


def _set_parameter(
    slot: _Slot, scheme: WeightScheme, padding: dict[int, list[int]], report: Initialized
) -> None:
    """Set one weight or bias and report it; on failure restore it and report the reason."""
    module, name = slot.module, slot.name
    value, what = torch.zeros_like(getattr(module, name)), "zero"
    if name == "weight" and value.numel():
        what = scheme.fill_weight_(module, value)
        for parameter in find_parameters(module, name):
            # A parameter of another shape (a norm, a transposed weight) has other rows.
            if parameter.shape == value.shape:
                value[padding.get(id(parameter), [])] = 0

    # Copies, in case the parametrization turns the value into NaN.
    before = [(parameter, parameter.clone()) for parameter in find_parameters(module, name)]
    if not assign_weight(module, name, value):
        report.left[slot.full_name] = "its parametrization takes no values"
        return
    now = getattr(module, name)
    # Weight norm divides by the norm of each row, which turns a row of zeros into NaN.
    if not now.isfinite().all():
        for parameter, kept in before:
            parameter.copy_(kept)
        report.left[slot.full_name] = "its parametrization cannot hold such a value"
        return
    # Spectral norm, for one, rescales what it is given.
    if not torch.allclose(now, value, rtol=1e-3, atol=1e-6):
        what += ", as far as its parametrization lets it"
    report.touched[slot.full_name] = what
