"""The loss terms of micro-batches, which give each micro-batch its weight in a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from nbkit.base.batches import count_rows


def count_terms(weight: Callable[[Any], Any], group: list[Any]) -> list[float]:
    """Count the loss terms of each batch; refuse counts that are negative or not finite."""
    try:
        terms = [float(weight(batch)) for batch in group]
    except ValueError as error:
        if weight is not count_rows:  # the user's own function raised: show its error unchanged
            raise
        raise ValueError(
            f"cannot count the loss terms of a batch: {error} Say how many there are with weight=, "
            f"for example weight=lambda batch: len(batch[0])."
        ) from None
    # A comparison with NaN is False, so NaN fails here too.
    if terms and not (min(terms) >= 0 and sum(terms) < math.inf):
        raise ValueError(
            f"weight(batch) must be the number of its loss terms, finite and at least 0, "
            f"got {', '.join(map(str, terms))}."
        )
    return terms


def scale_terms(terms: float, has_window: bool, model: nn.Module | None) -> float:
    """Return the weight of one loss term: ranks / terms of the window on all ranks, 0 if none."""
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        group = getattr(model, "process_group", None)
        # NCCL reduces tensors on the GPU only.
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        # float64 holds every count up to 2**53 exactly.
        sums = torch.tensor([terms, has_window], dtype=torch.float64, device=device)
        dist.all_reduce(sums, group=group)
        ranks = dist.get_world_size(group)
        terms, windows = sums.tolist()
        # All ranks see the same sums and raise together, so none waits for another.
        if 0 < windows < ranks:
            raise RuntimeError(
                f"expected the same number of batches on every rank, but {windows:.0f} of {ranks} "
                f"ranks have another window and the others have no batch left. Divide the batches "
                f"evenly over the ranks: nbkit.shard does."
            )
    # DDP divides the summed gradients by the ranks, so the weight is multiplied by them.
    return ranks / terms if terms else 0.0
