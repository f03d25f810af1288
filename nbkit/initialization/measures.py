"""What can be said of one tensor or one layer at the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize


def has_weights(module: Any) -> bool:
    """A layer that mixes its inputs: it owns a matrix, itself or by parametrization.

    A container is one only if the matrix is called a weight, as in MultiheadAttention; what a
    vision transformer owns (its class token, its positions) does not make it a layer.
    """
    own = {name: p for name, p in module._parameters.items() if p is not None}
    hidden = list(module.parametrizations) if parametrize.is_parametrized(module) else []
    leaf = not [name for name, _ in module.named_children() if name != "parametrizations"]
    matrices = [name for name, p in own.items() if p.ndim > 1] + hidden
    return any(leaf or "weight" in name for name in matrices)


def weight_of(module: nn.Module) -> Tensor | None:
    """The matrix of a Linear or Conv, as it is used."""
    return module.weight if isinstance(module, (nn.Linear, _ConvNd)) else None


def rms(x: Tensor) -> Tensor:
    """Root mean square, in float32 and without overflow: squares of 1e20 have no room there."""
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    top = x.abs().amax()
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return (x / unit).square().mean().sqrt() * unit


def duplicates(module: nn.Module, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """How many units have the weights of another one and, where known, its gradient.

    Without a gradient a weight of zeros does not count: it may start there on purpose.
    """
    rows = _by_unit(module, weight)
    order = _hashes(rows).argsort()
    rows = rows[order]
    same = (rows[1:] == rows[:-1]).all(1)
    if gradient is None:
        return (same & (rows[1:] != 0).any(1)).sum()
    pulls = _by_unit(module, gradient)[order]
    apart = (pulls[1:] - pulls[:-1]).abs().amax(1)
    return (same & (apart <= 1e-3 * pulls.abs().amax())).sum()


def equal_probabilities(output: object, target: object) -> Tensor | None:
    """The output that gives each class the same probability, as logits and as log-probabilities.

    None unless the target holds one class index for each prediction.
    """
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.ndim < 2:
        return None
    if target.is_floating_point() or target.dtype == torch.bool or target.ndim != output.ndim - 1:
        return None
    if output.shape[:1] + output.shape[2:] == target.shape:
        classes = output.shape[1]
    elif output.shape[:-1] == target.shape:
        classes = output.shape[-1]
    else:
        return None
    return torch.full_like(output, -math.log(classes))  # of its dtype: class weights have it too


def _by_unit(module: nn.Module, weight: Tensor) -> Tensor:
    """One row for each output unit."""
    return (weight.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else weight).flatten(1)


def _hashes(rows: Tensor) -> Tensor:
    """Equal numbers for equal rows; in chunks, as integers take eight bytes."""
    rows = rows.float() + 0.0  # -0.0 becomes 0.0
    generator = torch.Generator().manual_seed(0)
    key = torch.randint(2**62, rows.shape[1:], generator=generator).to(rows.device)
    chunks = rows.split(max(1, 2**22 // max(1, rows.shape[1])))
    return torch.cat([(c.contiguous().view(torch.int32).long() * key).sum(1) for c in chunks])
