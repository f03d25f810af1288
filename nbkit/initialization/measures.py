"""Measure one tensor or one layer at the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

_RARE = 1e-6  # share given to a class that the target does not hold, so that its log is finite


def has_weights(module: Any) -> bool:
    """Check whether a module is a layer: it owns a matrix, itself or by parametrization.

    A container counts only if the matrix is called a weight, as in MultiheadAttention. The class
    token and the positions of a vision transformer do not make it a layer.
    """
    matrices = [name for name, p in module._parameters.items() if p is not None and p.ndim > 1]
    if parametrize.is_parametrized(module):
        matrices += list(module.parametrizations)
    # torch keeps the parametrizations themselves in a child module.
    children = [name for name, _ in module.named_children() if name != "parametrizations"]
    # A leaf is a layer whatever its matrix is called.
    if not children:
        return bool(matrices)
    return any("weight" in name for name in matrices)


def weight_of(module: nn.Module) -> Tensor | None:
    """Return the matrix of a Linear or Conv as its forward pass uses it, None for other layers."""
    return module.weight if isinstance(module, (nn.Linear, _ConvNd)) else None


def root_mean_square(x: Tensor) -> Tensor:
    """Compute the root mean square in float32, without overflow: the square of 1e20 is infinite."""
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    # In units of the largest value all squares are at most 1.
    top = x.abs().amax()
    unit = torch.where(top > 0, top, torch.ones_like(top))
    return (x / unit).square().mean().sqrt() * unit


def share_that_varies(x: Tensor, size: Tensor) -> Tensor:
    """Divide the RMS of the difference from the mean sample by `size`, the RMS of the whole."""
    x = x.detach()
    # shape (samples, ...) minus the mean sample, of shape (...)
    return root_mean_square(x - x.mean(0)) / size.clamp(min=1e-38)


def count_duplicates(module: nn.Module, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Count the units that have the same weights as another one and, if known, its gradient.

    Without a gradient a row of zeros does not count: it may start there on purpose.
    """
    rows = _flatten_units(module, weight)
    # Sorted by their hashes, equal rows are neighbours.
    order = _hash_rows(rows).argsort()
    rows = rows[order]
    same = (rows[1:] == rows[:-1]).all(1)
    if gradient is None:
        return (same & (rows[1:] != 0).any(1)).sum()
    # The gradient decides: equal weights with different gradients separate at the first step.
    pulls = _flatten_units(module, gradient)[order]
    apart = (pulls[1:] - pulls[:-1]).abs().amax(1)
    # Equal gradients may differ by rounding.
    return (same & (apart <= 1e-3 * pulls.abs().amax())).sum()


def make_uniform_output(output: object, target: object) -> Tensor | None:
    """Build the output that gives each class the same probability: logits and log-probabilities.

    None unless the target holds one class index for each prediction.
    """
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.ndim < 2:
        return None
    if target.is_floating_point() or target.dtype == torch.bool or target.ndim != output.ndim - 1:
        return None
    # The two conventions for class scores; with equal sizes torch's own one wins.
    if output.shape[:1] + output.shape[2:] == target.shape:  # (samples, classes, ...)
        classes = output.shape[1]
    elif output.shape[:-1] == target.shape:  # (samples, ..., classes)
        classes = output.shape[-1]
    else:
        return None
    # In the output's dtype: the loss's class weights have it too.
    return torch.full_like(output, -math.log(classes))


def make_frequency_output(uniform: Tensor, target: Tensor) -> Tensor:
    """Build the output that gives each class its share of the target, as a logarithm.

    Args:
        uniform: from `make_uniform_output`; the result has its shape and dtype.
        target: class indices; an index that is no class, such as -100, is ignored.
    """
    dim = 1 if uniform.shape[:1] + uniform.shape[2:] == target.shape else uniform.ndim - 1
    classes = uniform.shape[dim]
    labels = target[(target >= 0) & (target < classes)].flatten().to(uniform.device)
    counts = torch.bincount(labels.long(), minlength=classes).double()
    shares = (counts / counts.sum().clamp(min=1)).clamp(min=_RARE).log().to(uniform.dtype)
    # Shape (classes, 1, ..., 1), so that the classes lie along `dim`.
    return torch.zeros_like(uniform) + shares.reshape(-1, *[1] * (uniform.ndim - 1 - dim))


def measure_any_nonzero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Compute, on the device, whether a gradient has a value that is not zero."""
    if gradient is None:
        return torch.zeros((), device=parameter.device)
    # The gradient of a sparse Embedding stores only the rows that were used.
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return (values != 0).any()


def _flatten_units(module: nn.Module, weight: Tensor) -> Tensor:
    """Return shape (units, inputs); a transposed convolution has its units in the second axis."""
    return (weight.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else weight).flatten(1)


def _hash_rows(rows: Tensor) -> Tensor:
    """Return an integer for each row, equal for equal rows."""
    rows = rows.float() + 0.0  # -0.0 becomes 0.0
    generator = torch.Generator().manual_seed(0)
    # A random linear hash: integers wrap around, and equal bits give equal sums.
    key = torch.randint(2**62, rows.shape[1:], generator=generator).to(rows.device)
    # In chunks, since the integers of all rows together take twice the memory of the weight.
    hashes = []
    for chunk in torch.split(rows, max(1, 2**22 // max(1, rows.shape[1]))):
        # Shape (rows, inputs): the bits of each float32 as an integer.
        bits = chunk.contiguous().view(torch.int32).long()
        hashes.append((bits * key).sum(1))
    return torch.cat(hashes)
