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
    if any(map(_is_dtensor, parameters)):
        raise TypeError(
            f"the gradients are spread over the ranks (DTensor: FSDP2, tensor parallelism), so "
            f"that {task} needs all ranks. Use torch.nn.utils.clip_grad_norm_ to clip them by "
            f"their norm."
        )
    if any(getattr(p, FLATTENED, False) for p in parameters) and not _holds_whole_parameters(
        source
    ):
        raise TypeError(
            f"the gradients are spread over the ranks (FSDP: each rank holds a part of the flat "
            f"gradient), so that {task} needs all ranks. Use the method of the FSDP model to clip "
            f"them by their norm: model.clip_grad_norm_(max_norm)."
        )


def _is_dtensor(parameter: Tensor) -> bool:
    # Only a DTensor has this method; loading its class would take seconds.
    return hasattr(parameter, "full_tensor") or hasattr(parameter.grad, "full_tensor")


def _holds_whole_parameters(source: object) -> bool:
    """Say whether flattened parameters are whole all the same: on one rank, or with NO_SHARD."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(source, nn.Module):
        return False
    has_handles = False
    for module in source.modules():
        if isinstance(module, fsdp.FullyShardedDataParallel) and module._handle is not None:
            has_handles = True
            # One part that is sharded is enough to make a norm over the ranks necessary.
            if module._handle.uses_sharded_strategy:
                return False
    return has_handles
