"""Unit variance, layer by layer, on real data."""

from __future__ import annotations

import math
from collections import Counter
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
from nbkit.initialization.weights import assign, behind


class LSUVVerdict(Word):
    """What became of a layer: only an ok one got the wanted standard deviation."""

    OK = "ok"
    LEFT = "left"
    NOT_CALLED = "not called"
    NOT_FINITE = "not finite"
    NO_SPREAD = "no spread"
    NOT_CONVERGED = "not converged"


@dataclass
class LSUVLayer:
    """One Linear or Conv layer: the standard deviation of its output, before and after.

    Attributes:
        verdict: a code, such as LSUVVerdict.NOT_CONVERGED.
        advice: a sentence on what is behind it; empty for an ok layer.
    """

    name: str
    std_before: float | None
    std_after: float | None
    iterations: int
    verdict: LSUVVerdict
    advice: str = ""


@dataclass
class LSUVReport(Report):
    """The layers in the order in which they were called."""

    layers: list[LSUVLayer]

    @property
    def failed(self) -> list[str]:
        """The layers that did not come to the wanted standard deviation."""
        return [layer.name for layer in self.layers if layer.verdict is not LSUVVerdict.OK]

    def table(self):
        """One row a layer."""
        columns = ("layer", "std_before", "std_after", "iterations", "verdict", "advice")
        rows = [
            (x.name, x.std_before, x.std_after, x.iterations, x.verdict, x.advice)
            for x in self.layers
        ]
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

    from the first layer to the last, each on what the layers before it, already scaled, give.

    Args:
        batch: real inputs, a few hundred samples. Of a tuple or list the first item is the input;
            a dict is passed as keywords.
        std: wanted standard deviation over all elements of an output.
        tolerance: how far off it may be, as a share of `std`.
        max_iterations: rescalings per layer; without a bias one is enough.
    Returns:
        LSUVReport: per layer the standard deviation before and after; `failed` names those that
            did not get there. A layer that does not keeps the weight that it came with.
    Raises:
        ValueError: for a std or tolerance that is not positive, max_iterations below 1.
        TypeError: for a model inside DistributedDataParallel.

    The start counts too: the paper begins with `initialize_(model, "orthogonal")`. The model runs
    in the mode that it is in; weights apart nothing is changed. One forward pass is enough: each
    layer is scaled while it is being called, before anything can change its output in place.
    Biases are not scaled. A layer called several times is scaled at its first call.

    Source: Mishkin & Matas 2016, algorithm 1 (there on the variance).

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    >>> batch = torch.randn(256, 16)
    >>> lsuv_(model, batch).failed, 0.95 <= model(batch).std().item() <= 1.05
    ([], True)
    """
    for name, value in (("std", std), ("tolerance", tolerance)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}.")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}.")

    if any(isinstance(m, nn.parallel.DistributedDataParallel) for m in model.modules()):
        raise TypeError(
            "lsuv_ got a model inside DistributedDataParallel: each rank would scale by its own "
            "batch, and the weights would part. Call it before wrapping; the wrapper then gives "
            "every rank the weights of rank 0."
        )

    model = unwrap_model(model)
    run = _Run(std, tolerance, max_iterations)
    with preserve_state(model), run_eagerly(), ExitStack() as hooks:
        for name, module in _candidates(model).items():
            visit = partial(run.visit, name, _why_not(model, module))
            hooks.callback(module.register_forward_hook(visit, with_kwargs=True).remove)
        call_model(model, copy_batch(batch))
    for module, factor in run.factors:
        _put(module, module.weight * factor)
    missed = [name for name in _candidates(model) if name not in run.rows]
    why = "The model did not call it with this batch."
    unused = [LSUVLayer(name, None, None, 0, LSUVVerdict.NOT_CALLED, why) for name in missed]
    return LSUVReport([*run.rows.values(), *unused])


def _candidates(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, _ConvNd))}


def _why_not(model: nn.Module, module: Any) -> str | None:
    """Why the weight of a layer must not or cannot be scaled."""
    weights = behind(module, "weight")
    if not weights:
        return "Its weight is computed (old weight_norm?): use torch.nn.utils.parametrizations."
    holders = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    if any(holders[id(weight)] > 1 for weight in weights):
        return "Its weight is shared with another layer."
    if not all(weight.requires_grad for weight in weights):
        return "It is frozen (requires_grad=False)."
    return None


class _Run:
    """One forward pass, in which each layer is scaled as it is called."""

    def __init__(self, std: float, tolerance: float, max_iterations: int) -> None:
        self.std, self.tolerance, self.max_iterations = std, tolerance, max_iterations
        self.rows: dict[str, LSUVLayer] = {}
        self.factors: list[tuple[Any, float]] = []

    def visit(self, name: str, why_not: str | None, module: Any, args, kwargs, output: Any):
        """A forward hook: the output of the scaled layer, or None to keep the one that came."""
        if name in self.rows:
            return None
        if not isinstance(output, Tensor):
            why_not = f"Its output is a {type(output).__name__}, not a tensor."
            self.rows[name] = LSUVLayer(name, None, None, 0, LSUVVerdict.LEFT, why_not)
            return None
        spread = _spread(output)
        row = LSUVLayer(name, spread, spread, 0, LSUVVerdict.LEFT, why_not or "")
        self.rows[name] = row
        if why_not is not None:
            return None
        original, factor = module.weight.clone(), 1.0
        while not self._close(spread) and spread > 0 and row.iterations < self.max_iterations:
            factor *= self.std / spread
            if not (original * factor).isfinite().all():
                break
            if not _put(module, original * factor):
                row.advice = "Its parametrization takes no values."
                return None
            output = module.forward(*args, **kwargs)
            spread = _spread(output)
            row.iterations += 1
        if self._close(spread):
            row.std_after, row.verdict = spread, LSUVVerdict.OK
            self.factors.append((module, factor))
            return output
        row.verdict, row.advice = _failure(row, spread)
        _put(module, original)
        return None

    def _close(self, spread: float) -> bool:
        return abs(spread / self.std - 1) <= self.tolerance


def _failure(row: LSUVLayer, spread: float) -> tuple[LSUVVerdict, str]:
    kept = "The weight is as it came."
    if not math.isfinite(spread):
        return LSUVVerdict.NOT_FINITE, (
            f"Look for NaN or inf in the batch and in the weights before the layer. {kept}"
        )
    if row.std_before == 0:
        return LSUVVerdict.NO_SPREAD, (
            f"All inputs or all weights are the same, as after a dead layer. {kept}"
        )
    return LSUVVerdict.NOT_CONVERGED, (
        f"It came to {spread:.3g} after {row.iterations} rescalings. The bias alone spreads the "
        f"output too far, or a parametrization takes the scale back. {kept}"
    )


def _put(module: Any, weight: Tensor) -> bool:
    torch.clear_autocast_cache()  # it holds the weight as it was
    return assign(module, "weight", weight)


def _spread(output: Tensor) -> float:
    """Standard deviation over all elements, without overflow."""
    x = output if output.dtype == torch.float64 else output.float()
    if not x.numel():
        return 0.0
    top = x.abs().amax()
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return ((x / unit).std(correction=0) * unit).item()
