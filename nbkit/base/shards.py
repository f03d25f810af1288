"""Recognise parameters of which each rank holds a part."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor, nn

# What FSDP (the class FullyShardedDataParallel) writes on each parameter that it flattens.
FLATTENED = "_fsdp_flattened"


def refuse_shards(source: object, named: Mapping[str, Tensor], task: str) -> None:
    """Refuse parameters of which this rank holds a part, where a task needs the whole of them.

    FSDP's gradients look like any other tensor, but each rank has other numbers in them.

    Args:
        source: what the parameters were taken from: a model, an optimizer, a list.
        named: the parameters by name.
        task: what needs them whole, for the message: "their norm".
    Raises:
        TypeError: for parameters of FSDP, and for a `DTensor` (FSDP2, tensor parallelism).
    """
    parameters = list(named.values())
    if any(hasattr(p, "full_tensor") or hasattr(p.grad, "full_tensor") for p in parameters):
        raise TypeError(
            f"the gradients are spread over the ranks (DTensor: FSDP2, tensor parallelism), so "
            f"that {task} needs all ranks. Use torch.nn.utils.clip_grad_norm_ to clip them by "
            f"their norm."
        )
    if any(getattr(p, FLATTENED, False) for p in parameters) and not _is_whole(source):
        raise TypeError(
            f"the gradients are spread over the ranks (FSDP: each rank holds a part of the flat "
            f"gradient), so that {task} needs all ranks. Use the method of the FSDP model to clip "
            f"them by their norm: model.clip_grad_norm_(max_norm)."
        )


def _is_whole(source: object) -> bool:
    """Whether flattened parameters are whole all the same: on one rank, or with NO_SHARD."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(source, nn.Module):
        return False
    wrapped = [m for m in source.modules() if isinstance(m, fsdp.FullyShardedDataParallel)]
    handles = [m._handle for m in wrapped if m._handle is not None]
    return bool(handles) and not any(handle.uses_sharded_strategy for handle in handles)
