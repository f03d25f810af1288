"""The rule by which gradients are clipped: by norm, by value or unit by unit.

`clip_gradients_` and `Amp.step` share it, so that neither imports the other.
"""

from __future__ import annotations

import math
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
from nbkit.clipping.factors import UNIT_FLOOR, choose_norm_dtype, needs_wide_norms
from nbkit.clipping.measures import (
    ApplyFactor,
    Measure,
    measure_by_norm,
    measure_by_unit,
    measure_by_value,
)
from nbkit.clipping.report import ClipReport
from nbkit.clipping.units import find_units

MODES = ("max_norm", "max_value", "agc")
GradientKinds = Collection[tuple[type, torch.device, torch.dtype]]


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """Hold the arguments of `clip_gradients_`, which documents the fields; check them at once."""

    max_norm: float | None = None
    max_value: float | None = None
    agc: float | None = None
    norm_type: float = 2.0
    nonfinite: str = "raise"
    eps: float | None = None
    exclude: str | nn.Module | Sequence[str | nn.Module] = ()

    def __post_init__(self) -> None:
        given = {}
        for mode in MODES:
            if getattr(self, mode) is not None:
                given[mode] = getattr(self, mode)
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(MODES)}; got {given or 'none'}.")
        _check_positive("norm_type", self.norm_type, "inf is the largest absolute value")
        for mode, value in given.items():
            infinite = "inf measures without clipping" if mode == "max_norm" else None
            _check_positive(mode, value, infinite)
        if self.nonfinite not in ("raise", "skip", "ignore"):
            raise ValueError(
                f"nonfinite must be 'raise', 'skip' or 'ignore', got {self.nonfinite!r}."
            )
        self._check_agc_options()

    def _check_agc_options(self) -> None:
        """Refuse a wrong eps or exclude, and refuse both options in the other modes."""
        if not isinstance(self.exclude, (nn.Module, Collection)):
            raise TypeError(
                f"exclude must be a name, a module or a list of these, got {self.exclude!r}. "
                f"To exclude nothing leave it out."
            )
        excludes = isinstance(self.exclude, nn.Module) or len(self.exclude) > 0
        # In the other modes these options would be ignored silently.
        if self.agc is None and (self.eps is not None or excludes):
            raise ValueError(
                "eps and exclude belong to agc. To leave parameters out of max_norm or max_value, "
                "pass only the others."
            )
        if self.eps is not None:
            _check_positive("eps", self.eps)

    def __str__(self) -> str:
        for mode in MODES:
            if getattr(self, mode):
                return f"{mode}={getattr(self, mode):g}"
        raise AssertionError("a checked rule has exactly one mode")

    def bind(self, parameters: Parameters) -> Callable[[], ClipReport]:
        """Return a function that clips the gradients of these parameters in place.

        Raises:
            TypeError: if the mode does not fit the parameters, or they are sharded over ranks.
        """
        named = named_parameters(parameters)
        refuse_shards(parameters, named, "their norm")
        # Layers and units are looked up once; the returned function runs at every step.
        measure = self._choose_measure(parameters, named)
        return partial(self._clip_gradients, named, measure)

    @torch.no_grad()
    def _clip_gradients(self, named: dict[str, Tensor], measure: Measure) -> ClipReport:
        """Clip the gradients that the parameters have now, and report their norms."""
        whole = sum_repeated_rows(named)
        grads = view_values(whole)
        # Without gradients the norm is 0, and the coefficient 1.
        if not grads:
            return ClipReport(torch.tensor([0.0, 1.0]), (), self)

        kinds = {(type(grad), grad.device, grad.dtype) for grad in grads.values()}
        _refuse_spread_gradients(kinds)
        # Reading a result waits for a GPU, so it is only read there if it may have to raise.
        looks = self.nonfinite == "raise" or _are_on_cpu(kinds)
        wide = needs_wide_norms((dtype for _, _, dtype in kinds), looks=looks)
        report, apply_factor = self._measure_gradients(measure, grads, wide)
        if not wide and not math.isfinite(report.total_norm):
            # A square may have overflowed float32: measure again in float64.
            report, apply_factor = self._measure_gradients(measure, grads, wide=True)
        if self.nonfinite == "raise":
            _refuse_nonfinite(report)
        if not looks or report.clipped:
            apply_factor(report.values[1])
            for name, grad in whole.items():
                # A sparse gradient was summed into a new tensor, which is now the clipped one.
                if grad.is_sparse:
                    named[name].grad = grad
        return report

    def _choose_measure(self, source: Parameters, named: dict[str, Tensor]) -> Measure:
        """Return the measure of this rule's mode; refuse parameters that it cannot clip."""
        if self.max_norm is not None:
            return partial(measure_by_norm, float(self.max_norm), self.norm_type)
        # Complex numbers have no order to clamp them by.
        complex_names = [name for name, parameter in named.items() if parameter.is_complex()]
        if complex_names:
            raise TypeError(
                f"max_value and agc need real parameters, but {join_names(complex_names)} are "
                f"complex: use max_norm."
            )
        if self.max_value is not None:
            return partial(measure_by_value, float(self.max_value), self.norm_type)
        # Only a model tells which kind of layer a parameter belongs to.
        if self.agc is not None and isinstance(source, nn.Module):
            floor = UNIT_FLOOR if self.eps is None else self.eps
            units = find_units(source, named, self.exclude)
            return partial(measure_by_unit, self.agc, floor, units, self.norm_type)
        raise TypeError(
            f"agc has to know the layers: pass the model, not {type(source).__name__}. "
            f"In Amp.step: clip=dict(parameters=model, agc=...)."
        )

    def _measure_gradients(
        self, measure: Measure, grads: dict[str, Tensor], wide: bool
    ) -> tuple[ClipReport, ApplyFactor]:
        """Return the report, and the function that clips by the report's coefficient."""
        device = next(iter(grads.values())).device
        measured = measure(grads, choose_norm_dtype(device, wide=wide))
        norms = torch.stack([norm.to(device) for norm in measured.norms])
        # The p-norm of all numbers is the p-norm of the parameters' p-norms.
        total = vector_norm(norms, self.norm_type)
        coefficient = measured.find_coefficient(total)
        if self.nonfinite == "skip":
            # On the device, so that nothing waits: a coefficient of 1 leaves all gradients alone.
            coefficient = torch.where(total.isfinite(), coefficient, 1.0)
        values = torch.cat([torch.stack([total, coefficient]), norms])
        return ClipReport(values, tuple(grads), self), measured.apply_factor


def _are_on_cpu(kinds: GradientKinds) -> bool:
    """Return whether every gradient is on the CPU."""
    return all(device.type == "cpu" for _, device, _ in kinds)


def _refuse_spread_gradients(kinds: GradientKinds) -> None:
    """Refuse gradients of which each rank holds a part, such as DTensors."""
    # DTensor and its subclasses have this method, plain tensors do not.
    if any(hasattr(kind, "full_tensor") for kind, _, _ in kinds):
        raise TypeError(
            "expected gradients that each rank holds as a whole, got gradients spread over the "
            "ranks (DTensor, FSDP), whose norm needs all ranks. Use "
            "torch.nn.utils.clip_grad_norm_."
        )


def _refuse_nonfinite(report: ClipReport) -> None:
    """Raise an error that names the parameters whose gradient is not finite."""
    if math.isfinite(report.total_norm):
        return
    raise FloatingPointError(
        f"gradients of {len(report.nonfinite)} of {len(report.names)} parameters are not finite: "
        f"{join_names(report.nonfinite)}. None was clipped. find_nonfinite(model, batch, loss_fn) "
        f"names the module they come from. To skip such steps instead, pass nonfinite='skip' and "
        f"call optimizer.step() only if not report.nonfinite."
    )


def _check_positive(name: str, value: Any, infinite: str | None = None) -> None:
    """Refuse anything but a positive number.

    Args:
        name: name of the argument, for the message.
        value: its value.
        infinite: the meaning of infinity, for the message; None refuses infinity.
    """
    kind = f"a number > 0 ({infinite})" if infinite else "a finite number > 0"
    if isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be {kind}, got a tensor. Reading a tensor waits for its GPU, at every "
            f"step: read it once, before the loop, with .item()."
        )
    # bool is a kind of int, but True is no threshold.
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {kind}, got {value!r}.")
    # NaN fails the comparison too.
    if not float(value) > 0 or (math.isinf(value) and not infinite):
        raise ValueError(f"{name} must be {kind}, got {value!r}.")
