"""How gradients are clipped: by norm, by value or unit by unit.

What `clip_gradients_` and `Amp.step` share, so that neither imports the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from nbkit.base.gradients import (
    Parameters,
    join_names,
    named_parameters,
    sum_repeated_rows,
    view_values,
)
from nbkit.base.shards import refuse_shards
from nbkit.clipping.factors import (
    HALF,
    UNIT_FLOOR,
    clamp_values,
    needs_wide_norms,
    norm_dtype,
    norm_factor,
    scale_gradient,
    unit_factor,
    value_factor,
)
from nbkit.clipping.report import ClipReport
from nbkit.clipping.units import Unit, find_units

# Each gradient's norm, the smallest factor given their total norm, and what clips when it is told
# that factor. A factor of 1 means: leave everything, since nothing is too large or it is skipped.
Measured = tuple[Sequence[Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], None]]

MODES = ("max_norm", "max_value", "agc")


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """How to clip, checked when it is made; `clip_gradients_` says what the fields mean."""

    max_norm: float | None = None
    max_value: float | None = None
    agc: float | None = None
    norm_type: float = 2.0
    nonfinite: str = "raise"
    eps: float | None = None
    exclude: str | nn.Module | Sequence[str | nn.Module] = ()

    def __post_init__(self) -> None:
        given = {mode: getattr(self, mode) for mode in MODES if getattr(self, mode) is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(MODES)}; got {given or 'none'}.")
        _check_positive("norm_type", self.norm_type, "inf is the largest absolute value")
        for mode, value in given.items():
            measures = "inf measures without clipping" if mode == "max_norm" else None
            _check_positive(mode, value, measures)
        if self.nonfinite not in ("raise", "skip", "ignore"):
            raise ValueError(
                f"nonfinite must be 'raise', 'skip' or 'ignore', got {self.nonfinite!r}."
            )
        if not isinstance(self.exclude, (nn.Module, Collection)):
            raise TypeError(
                f"exclude must be a name, a module or a list of these, got {self.exclude!r}. "
                f"To exclude nothing leave it out."
            )
        excludes = isinstance(self.exclude, nn.Module) or len(self.exclude) > 0
        if self.agc is None and (self.eps is not None or excludes):
            raise ValueError(
                "eps and exclude belong to agc. To leave parameters out of max_norm or max_value, "
                "pass only the others."
            )
        if self.eps is not None:
            _check_positive("eps", self.eps)

    def __str__(self) -> str:
        return next(f"{mode}={getattr(self, mode):g}" for mode in MODES if getattr(self, mode))

    def bind(self, parameters: Parameters) -> Callable[[], ClipReport]:
        """What clips the gradients of these parameters in place; refuses what does not fit."""
        named = named_parameters(parameters)
        refuse_shards(parameters, named, "their norm")
        return partial(self._clip, named, self._measurer(parameters, named))

    @torch.no_grad()
    def _clip(self, named: dict[str, Tensor], measure) -> ClipReport:
        whole = sum_repeated_rows(named)
        grads = view_values(whole)
        if not grads:
            return ClipReport(torch.tensor([0.0, 1.0]), (), self)

        kinds = {(type(grad), grad.device, grad.dtype) for grad in grads.values()}
        _refuse_spread(kinds)
        looks = self.nonfinite == "raise" or _on_cpu(kinds)  # a look at a GPU synchronises
        wide = needs_wide_norms((dtype for _, _, dtype in kinds), looks=looks)
        report, clip = self._report(measure, grads, wide)
        if not wide and not math.isfinite(report.total_norm):
            report, clip = self._report(measure, grads, wide=True)
        if self.nonfinite == "raise":
            _refuse_nonfinite(report)
        if not looks or report.clipped:
            clip(report.values[1])
            for name, grad in whole.items():
                if grad.is_sparse:
                    named[name].grad = grad
        return report

    def _measurer(self, source: Parameters, named: dict[str, Tensor]):
        """What measures by this rule's mode, given the gradients and the dtype of the norms."""
        if self.max_norm is not None:
            return partial(_by_norm, float(self.max_norm), self.norm_type)
        if strange := [name for name, p in named.items() if p.is_complex()]:
            raise TypeError(
                f"max_value and agc need real parameters, but {join_names(strange)} are complex: "
                f"use max_norm."
            )
        if self.max_value is not None:
            return partial(_by_value, float(self.max_value), self.norm_type)
        if self.agc is not None and isinstance(source, nn.Module):
            floor = UNIT_FLOOR if self.eps is None else self.eps
            units = find_units(source, named, self.exclude)
            return partial(_by_unit, self.agc, floor, units, self.norm_type)
        raise TypeError(
            f"agc has to know the layers: pass the model, not {type(source).__name__}. "
            f"In Amp.step: clip=dict(parameters=model, agc=...)."
        )

    def _report(self, measure, grads: dict[str, Tensor], wide: bool):
        """The report, and the function that clips, given the report's coefficient."""
        device = next(iter(grads.values())).device
        each, coefficient_of, clip = measure(grads, norm_dtype(device, wide=wide))
        norms = torch.stack([norm if norm.device == device else norm.to(device) for norm in each])
        total = vector_norm(norms, self.norm_type)
        coefficient = coefficient_of(total)
        if self.nonfinite == "skip":
            coefficient = torch.where(total.isfinite(), coefficient, 1.0)
        values = torch.cat([torch.stack([total, coefficient]), norms])
        return ClipReport(values, tuple(grads), self), clip


def _on_cpu(kinds) -> bool:
    return all(device.type == "cpu" for _, device, _ in kinds)


def _refuse_spread(kinds) -> None:
    if any(hasattr(kind, "full_tensor") for kind, _, _ in kinds):
        raise TypeError(
            "the gradients are spread over the ranks (DTensor, FSDP), so that their norm needs all "
            "ranks: torch.nn.utils.clip_grad_norm_ knows how."
        )


def _refuse_nonfinite(report: ClipReport) -> None:
    if math.isfinite(report.total_norm):
        return
    raise FloatingPointError(
        f"gradients of {len(report.nonfinite)} of {len(report.names)} parameters are not finite: "
        f"{join_names(report.nonfinite)}. None was clipped. find_nonfinite(model, batch, loss_fn) "
        f"names the module they come from. To pass over such a step: nonfinite='skip', and "
        f"optimizer.step() only if not report.nonfinite."
    )


def _check_positive(name: str, value: Any, infinite: str | None = None) -> None:
    kind = f"a number > 0 ({infinite})" if infinite else "a finite number > 0"
    if isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be {kind}, got a tensor. To read one waits for its GPU, at every step: "
            f"do it once, before the loop, with .item()."
        )
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {kind}, got {value!r}.")
    if not float(value) > 0 or (math.isinf(value) and not infinite):
        raise ValueError(f"{name} must be {kind}, got {value!r}.")


def _norms(tensors: list[Tensor], norm_type: float, dtype: torch.dtype) -> list[Tensor]:
    """The norm of each tensor; of one without elements it is 0, where torch refuses the largest."""
    some = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in tensors]
    return list(torch._foreach_norm(some, norm_type, dtype=dtype))


def _by_norm(
    max_norm: float, norm_type: float, grads: dict[str, Tensor], dtype: torch.dtype
) -> Measured:
    tensors = list(grads.values())
    sizes = [tensor.abs() if tensor.is_complex() else tensor for tensor in tensors]
    each = _norms(sizes, norm_type, dtype)

    return each, partial(norm_factor, max_norm=max_norm), partial(_multiply, tensors)


def _multiply(tensors: list[Tensor], factor: Tensor) -> None:
    alike = defaultdict(list)
    for tensor in tensors:
        if tensor.is_complex():  # infinity times a complex 1 would be NaN
            tensor = torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)
        alike[tensor.device, tensor.dtype].append(tensor)
    for (device, dtype), group in alike.items():
        if dtype not in HALF:
            torch._foreach_mul_(group, factor.to(device, dtype))
            continue
        for tensor in group:
            tensor.copy_(scale_gradient(tensor, factor.to(device)))


def _by_value(
    max_value: float, norm_type: float, grads: dict[str, Tensor], dtype: torch.dtype
) -> Measured:
    tensors = list(grads.values())
    each = _norms(tensors, norm_type, dtype)
    # aminmax: one pass; the infinity norm takes twenty times as long on a CPU.
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor.numel()]

    def coefficient_of(total: Tensor) -> Tensor:
        peak = torch.stack([end.to(total).abs().max() for end in ends] or [total]).max()
        return value_factor(peak, max_value)

    def clip(coefficient: Tensor) -> None:
        limit = torch.full_like(coefficient, max_value)
        limit = torch.where(coefficient == 1.0, math.inf, limit)
        for tensor in tensors:
            clamp_values(tensor, limit.to(tensor), out=tensor)

    return each, coefficient_of, clip


def _by_unit(
    agc: float,
    floor: float,
    units: dict[str, Unit],
    norm_type: float,
    grads: dict[str, Tensor],
    dtype: torch.dtype,
) -> Measured:
    per_unit, factors = {}, {}
    for name, grad in grads.items():
        unit = units[name]
        per_unit[name] = unit.units.norms(grad, norm_type, dtype)
        if not unit.free:
            weights = unit.units.norms(unit.parameter, norm_type, dtype)
            factors[name] = unit_factor(per_unit[name], weights, agc, floor)

    def coefficient_of(total: Tensor) -> Tensor:
        least = [factor.min().to(total) for factor in factors.values() if factor.numel()]
        return torch.stack([*least, torch.ones_like(total)]).min()

    def clip(coefficient: Tensor) -> None:
        for name, factor in factors.items():
            view, _ = units[name].units.split(grads[name])
            view.mul_(torch.where(coefficient.to(factor.device) == 1.0, 1.0, factor))

    return _norms(list(per_unit.values()), norm_type, dtype), coefficient_of, clip
