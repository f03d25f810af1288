"""Rescale the momentum of BatchNorm for gradient accumulation."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from nbkit.base.model_call import unwrap_model
from nbkit.base.numbers import read_integer
from nbkit.batchnorm.layers import find_batch_norms
from nbkit.batchnorm.undo import Undo


def rescale_bn_momentum_(model: nn.Module, accumulation_steps: int) -> Undo:
    """Let K micro-batches move the running statistics as far as one batch would.

        m' = 1 - (1 - m)^(1/K)

    Args:
        model: a model in any mode.
        accumulation_steps: K, the number of micro-batches in an optimizer step.
    Returns:
        Undo: restores the old momenta, by `undo()` or as a context manager. Layers that average
            all their batches (momentum=None) need no change: `left` lists them.
    Raises:
        ValueError: if K is not a positive int or a momentum is outside [0, 1]; nothing is changed.

    The normalisation still uses the statistics of each micro-batch by itself.

    >>> bn = nn.BatchNorm1d(1)
    >>> with rescale_bn_momentum_(bn, 4):
    ...     round(bn.momentum, 4)
    0.026
    >>> bn.momentum
    0.1
    """
    steps = read_integer(accumulation_steps)
    if steps is None or steps < 1:
        raise ValueError(
            f"accumulation_steps must be an int of at least 1, the number of micro-batches in an "
            f"optimizer step, got {accumulation_steps!r}."
        )
    layers = find_batch_norms(unwrap_model(model))
    # Check all layers before the first one is changed.
    for name, layer in layers.items():
        if layer.momentum is not None and not 0 <= layer.momentum <= 1:
            raise ValueError(
                f"the momentum of layer {name!r} must be in [0, 1], the weight of a new batch in "
                f"the running statistics, got {layer.momentum}. No momentum has been changed."
            )

    undo = Undo("momentum rescaled")
    for name, layer in layers.items():
        if layer.running_mean is None:
            undo.left[name] = "it has no running statistics (track_running_stats=False)"
            continue
        if layer.momentum is None:
            undo.left[name] = "it averages all its batches (momentum=None)"
            continue
        before = layer.momentum
        # One batch leaves 1 - m of the old statistics; K updates leave (1 - m')^K, the same.
        layer.momentum = 1 - (1 - before) ** (1 / steps)
        undo.before[name], undo.after[name] = before, layer.momentum
        undo.add_step(partial(_restore_momentum, layer, before, layer.momentum))
    return undo


def _restore_momentum(layer: Any, before: float, after: float) -> None:
    """Restore the momentum, if it is still the rescaled one."""
    if layer.momentum == after:
        layer.momentum = before
