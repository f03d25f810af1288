"""Turn numbers that differ from run to run into tensors that broadcast to stacked weights.

A stacked weight is seen as (runs, numbers of one run), and a number for each run as (runs, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbkit.lab.runs.option import Rule


def stack_values(values: Sequence[float], like: Tensor) -> Tensor:
    """Turn a number for each run into (runs, 1), with the dtype and the device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def stack_option(rules: Sequence[Rule], name: str, like: Tensor) -> Tensor:
    """Return each run's value of an option, (runs, 1)."""
    return stack_values(_read_option(rules, name), like)


def stack_used_option(rules: Sequence[Rule], name: str, like: Tensor) -> Tensor | None:
    """Return the same, or None if all values are 0: what no run uses then costs no time."""
    values = _read_option(rules, name)
    return stack_values(values, like) if any(values) else None


def _read_option(rules: Sequence[Rule], name: str) -> list[float]:
    return [rule[name] for rule in rules]


def make_zeros(weights: Sequence[Tensor]) -> list[Tensor]:
    """Make a tensor of zeros beside each weight, for what an optimizer remembers."""
    return [torch.zeros_like(weight) for weight in weights]


def stack_steps(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Turn each run's numbers, one for each step, into (steps, runs, 1)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).T[..., None]


def stack_lrs(rules: Sequence[Rule], steps: int, like: Tensor) -> Tensor:
    """Return each run's lr of each step, (steps, runs, 1)."""
    return stack_steps([rule.list_lrs(steps) for rule in rules], like)
