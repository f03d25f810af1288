"""Numbers that differ from run to run, as tensors beside stacked weights.

A stacked weight is seen as (runs, numbers of one run), and a number for each run as (runs, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_values(values: Sequence[float], like: Tensor) -> Tensor:
    """Turn a number for each run into (runs, 1), to multiply (runs, numbers of one run) with."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def stack_used_values(values: Sequence[float], like: Tensor) -> Tensor | None:
    """Do the same, or return None if all numbers are 0: what no run uses then costs no time."""
    return stack_values(values, like) if any(values) else None


def stack_steps(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Turn each run's numbers, one for each step, into (steps, runs, 1)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).T[..., None]
