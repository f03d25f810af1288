"""The ladder of learning rates of a range test, and the learning rates of an optimizer."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def make_ladder(min_lr: float, max_lr: float, num_steps: int) -> list[float]:
    """Return the lrs from `min_lr` to `max_lr`, each the same factor above the one before.

    lr_i = min_lr * (max_lr / min_lr) ** (i / (num_steps - 1))
    """
    # float() also accepts numbers of numpy and torch.
    min_lr, max_lr = float(min_lr), float(max_lr)
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(
            f"expected 0 < min_lr < max_lr, both finite, got min_lr={min_lr}, max_lr={max_lr}."
        )
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, the two ends, got {num_steps}.")
    # The steps are equal in log(lr).
    return [min_lr * (max_lr / min_lr) ** (i / (num_steps - 1)) for i in range(num_steps)]


def read_lr_ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each group's lr divided by the first group's lr."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    if all(lr == lrs[0] for lr in lrs):  # then lrs of 0 are accepted as well
        return [1.0] * len(lrs)
    if lrs[0] == 0:
        raise ValueError(
            f"the range test keeps the ratios between the groups' lrs, so the first lr must not be "
            f"0, got {lrs}. Set the lrs before the test; the warm-up of a scheduler may have set "
            f"them to 0."
        )
    return [lr / lrs[0] for lr in lrs]


def set_lrs(optimizer: torch.optim.Optimizer, lrs: list[float]) -> None:
    """Set the lr of each parameter group."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], Tensor):
            # A captured or compiled step reads this very tensor, so it must not be replaced.
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
