"""Scale each layer of a model to unit variance on real data (LSUV)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model
from nbkit.base.report import Report, Word
from nbkit.base.state import preserve_state
from nbkit.initialization.weights import assign_weight, find_parameters


class LSUVVerdict(Word):
    """Name the outcome for a layer: only an ok one got the wanted standard deviation."""

    OK = "ok"
    LEFT = "left"
    NOT_CALLED = "not called"
    NOT_FINITE = "not finite"
    NO_SPREAD = "no spread"
    NOT_CONVERGED = "not converged"


@dataclass
class LSUVLayer:
    """Report one Linear or Conv layer: the standard deviation of its output, before and after.

    Attributes:
        verdict: a code, such as LSUVVerdict.NOT_CONVERGED.
        advice: a sentence with the reason; empty for an ok layer.
    """

    name: str
    std_before: float | None
    std_after: float | None
    iterations: int
    verdict: LSUVVerdict
    advice: str = ""


@dataclass
class LSUVReport(Report):
    """Report the layers in the order in which they were called."""

    layers: list[LSUVLayer]

    @property
    def failed(self) -> list[str]:
        """Return the names of the layers that did not get the wanted standard deviation."""
        return [layer.name for layer in self.layers if layer.verdict is not LSUVVerdict.OK]

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per layer."""
        columns = ("layer", "std_before", "std_after", "iterations", "verdict", "advice")
        rows = []
        for x in self.layers:
            rows.append((x.name, x.std_before, x.std_after, x.iterations, x.verdict, x.advice))
        summary = f"{len(rows) - len(self.failed)} of {len(rows)} layers have the wanted output"
        return summary, columns, rows


@torch.no_grad()
def lsuv_(
    model: nn.Module,
    batch: object,
    *,
    std: float = 1.0,
    tolerance: float = 0.05,
    max_iterations: int = 10,
) -> LSUVReport:
    """Scale the weights of each Linear and Conv so that its output has the wanted spread.

        W <- W * std / std(output)    until |std(output) / std - 1| <= tolerance

    from the first layer to the last. The input of each layer is the output of the layers before it,
    which are scaled already.

    Args:
        batch: real inputs, a few hundred samples. Of a tuple or list the first item is the input;
            a dict is passed as keywords.
        std: wanted standard deviation over all elements of an output.
        tolerance: allowed relative error of `std`.
        max_iterations: rescalings per layer; without a bias one is enough.
    Returns:
        LSUVReport: the standard deviation of each layer before and after; `failed` lists the layers
            that did not reach it. These keep their old weights.
    Raises:
        ValueError: for a std or tolerance that is not positive, or max_iterations below 1.
        TypeError: for a model inside DistributedDataParallel.

    The start matters too: the paper begins with `initialize_(model, "orthogonal")`. The model runs
    in its current mode; nothing but weights is changed. One forward pass is enough: each layer is
    scaled while it is being called, before anything can change its output in place. Biases are not
    scaled. A layer called several times is scaled at its first call.

    Source: Mishkin & Matas 2016, algorithm 1 (there on the variance).

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    >>> batch = torch.randn(256, 16)
    >>> lsuv_(model, batch).failed, 0.95 <= model(batch).std().item() <= 1.05
    ([], True)
    """
    _check_lsuv_arguments(model, std, tolerance, max_iterations)

    model = unwrap_model(model)
    scaler = _LayerScaler(std, tolerance, max_iterations)
    with preserve_state(model), run_eagerly(), ExitStack() as hooks:
        for name, module in _find_layers(model).items():
            hook = partial(scaler.scale_called_layer, name, _find_obstacle(model, module))
            # With keywords, since the layer is called again with the same arguments.
            hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        call_model(model, copy_batch(batch))
    # `preserve_state` has restored the old weights, so the scaled ones are set again.
    for module, factor in scaler.factors:
        _set_weight(module, module.weight * factor)

    rows = list(scaler.rows.values())
    for name in _find_layers(model):
        if name not in scaler.rows:
            advice = "The model did not call it with this batch."
            rows.append(LSUVLayer(name, None, None, 0, LSUVVerdict.NOT_CALLED, advice))
    return LSUVReport(rows)


def _check_lsuv_arguments(
    model: nn.Module, std: float, tolerance: float, max_iterations: int
) -> None:
    for name, value in (("std", std), ("tolerance", tolerance)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}.")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}.")
    # All modules: torch.compile may have wrapped the DistributedDataParallel.
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise TypeError(
                "lsuv_ got a model inside DistributedDataParallel: each rank would scale by its "
                "own batch, and the weights would differ between ranks. Call it before wrapping; "
                "the wrapper then gives every rank the weights of rank 0."
            )


def _find_layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}


def _find_obstacle(model: nn.Module, module: Any) -> str | None:
    """Return why the weight of a layer must not or cannot be scaled; None if it can."""
    weights = find_parameters(module, "weight")
    if not weights:
        return "Its weight is computed (old weight_norm?): use torch.nn.utils.parametrizations."
    # Two layers with one weight cannot both have the wanted output.
    holders: Counter[int] = Counter()
    for other in model.modules():
        holders.update(map(id, other._parameters.values()))
    for weight in weights:
        if holders[id(weight)] > 1:
            return "Its weight is shared with another layer."
    for weight in weights:
        if not weight.requires_grad:
            return "It is frozen (requires_grad=False)."
    return None


class _LayerScaler:
    """Scale each layer during one forward pass, as it is called.

    Attributes:
        rows: the report of each layer called so far.
        factors: each module that was scaled, with the factor of its weight.
    """

    def __init__(self, std: float, tolerance: float, max_iterations: int) -> None:
        self.std, self.tolerance, self.max_iterations = std, tolerance, max_iterations
        self.rows: dict[str, LSUVLayer] = {}
        self.factors: list[tuple[Any, float]] = []

    def scale_called_layer(
        self,
        name: str,
        obstacle: str | None,
        module: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Tensor | None:
        """Act as a forward hook: return the scaled layer's output, or None to keep the old one."""
        # A layer in a loop is called again: its weight stays as the first call left it.
        if name in self.rows:
            return None
        if not isinstance(output, Tensor):
            advice = f"Its output is a {type(output).__name__}, not a tensor."
            self.rows[name] = LSUVLayer(name, None, None, 0, LSUVVerdict.LEFT, advice)
            return None
        spread = _measure_std(output)
        row = LSUVLayer(name, spread, spread, 0, LSUVVerdict.LEFT, obstacle or "")
        self.rows[name] = row
        if obstacle is not None:
            return None
        return self._scale_layer(row, spread, module, partial(module.forward, *args, **kwargs))

    def _scale_layer(
        self, row: LSUVLayer, spread: float, module: Any, forward: partial[Tensor]
    ) -> Tensor | None:
        """Rescale until the spread is right; otherwise restore the weight and say why."""
        original, factor = module.weight.clone(), 1.0
        output = None
        while not self._is_close(spread) and spread > 0 and row.iterations < self.max_iterations:
            factor *= self.std / spread
            # In half precision the factor of a tiny output overflows.
            if not (original * factor).isfinite().all():
                break
            # From the original: products of factors would round the weight at each step.
            if not _set_weight(module, original * factor):
                row.advice = "Its parametrization takes no values."
                return None
            # `forward`, not the module: a call would run this hook again.
            output = forward()
            spread = _measure_std(output)
            row.iterations += 1
        # The output of the scaled layer goes on to the next layers.
        if self._is_close(spread):
            row.std_after, row.verdict = spread, LSUVVerdict.OK
            self.factors.append((module, factor))
            return output
        row.verdict, row.advice = _explain_failed_scaling(row, spread)
        _set_weight(module, original)
        return None

    def _is_close(self, spread: float) -> bool:
        return abs(spread / self.std - 1) <= self.tolerance


def _explain_failed_scaling(row: LSUVLayer, spread: float) -> tuple[LSUVVerdict, str]:
    kept = "The weight is unchanged."
    if not math.isfinite(spread):
        return LSUVVerdict.NOT_FINITE, (
            f"Look for NaN or inf in the batch and in the weights before the layer. {kept}"
        )
    # No factor turns an output without spread into one that has it.
    if row.std_before == 0:
        return LSUVVerdict.NO_SPREAD, (
            f"All inputs or all weights are the same, as after a dead layer. {kept}"
        )
    return LSUVVerdict.NOT_CONVERGED, (
        f"It came to {spread:.3g} after {row.iterations} rescalings. The bias alone spreads the "
        f"output too far, or a parametrization undoes the scaling. {kept}"
    )


def _set_weight(module: Any, weight: Tensor) -> bool:
    torch.clear_autocast_cache()  # it would go on using its copy of the old weight
    return assign_weight(module, "weight", weight)


def _measure_std(output: Tensor) -> float:
    """Return the standard deviation over all elements, computed without overflow."""
    x = output if output.dtype == torch.float64 else output.float()
    if not x.numel():
        return 0.0
    # In units of the largest value no square overflows, nor do all of them underflow.
    top = x.abs().amax()
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return ((x / unit).std(correction=0) * unit).item()
