"""Passes of data through a model whose BatchNorm layers are watched, on one rank or on several."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbkit.batchnorm.layers import count_values
from nbkit.batchnorm.moments import Moments


@contextmanager
def normalise_by_batch(
    model: nn.Module, seen: dict[str, Moments], frozen: Container[str] = ()
) -> Iterator[None]:
    """Let the layers collect their inputs and, unless they are frozen, normalise by the batch.

    Everything else is in eval mode. The caller preserves buffers and modes.

    Args:
        model: the model.
        seen: the moments to collect into, by the name of the layer.
        frozen: names of the layers that normalise by their running statistics.
    """
    model.eval()
    # Every change is undone on every way out, in reverse order.
    with ExitStack() as undo:
        for name, moments in seen.items():
            layer = moments.layer
            if name in frozen:
                undo.enter_context(watch_inputs(layer, moments.add_input))
                continue
            # Without this a layer in train mode would update the statistics that are measured.
            undo.callback(setattr, layer, "track_running_stats", layer.track_running_stats)
            layer.track_running_stats = False
            if isinstance(layer, nn.SyncBatchNorm):
                # Its forward communicates with the other ranks, which may have fewer batches.
                vars(layer)["forward"] = MethodType(_BatchNorm.forward, layer)
                undo.callback(vars(layer).pop, "forward")
            undo.enter_context(watch_inputs(layer, partial(_collect_input, moments)))
        yield
    for moments in seen.values():
        moments.fold_waiting()


def _collect_input(moments: Moments, x: Tensor) -> None:
    """Add an input to the moments, and choose what the layer normalises it by."""
    layer = moments.layer
    # torch refuses to normalise a single value per channel by its batch.
    has_variance = count_values(x) > 1
    if layer.training is not has_variance:  # setting an attribute of a module is slow
        layer.training = has_variance
    if not has_variance and layer.running_mean is not None:
        moments.lend_statistics()
    moments.add_input(x)


@contextmanager
def watch_inputs(layer: nn.Module, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `note` with each input of the layer."""

    def note_input(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        note(args[0] if args else keywords["input"])

    handle = layer.register_forward_pre_hook(note_input, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def pass_on_all_ranks(seen: dict[str, Moments], pass_data: Callable[[], int]) -> int:
    """Pass the data and merge the moments over the ranks; return the number of batches.

    Args:
        seen: the moments that the pass collects into.
        pass_data: passes this rank's data and returns its number of batches.
    Raises:
        RuntimeError: if the pass failed on another rank. The failing rank raises its own error.
    """
    batches, error = 0, None
    try:
        batches = pass_data()
    except Exception as exception:
        # A rank that fails still takes part in the gather, or the others would wait for it.
        error = exception
    if dist.is_available() and dist.is_initialized():
        heads = _gather_moments([float(error is not None), float(batches)], list(seen.values()))
        failed = [rank for rank, head in enumerate(heads) if head[0]]
        # Counts travel as float64, which holds them exactly.
        batches = int(sum(head[1].item() for head in heads))
        if failed and error is None:
            raise RuntimeError(
                f"Passing the data failed on rank {', '.join(map(str, failed))}, where the error "
                f"is shown. No statistics have been changed, on any rank."
            )
    if error is not None:
        raise error
    return batches


def _gather_moments(head: list[float], seen: list[Moments]) -> list[Tensor]:
    """Merge the moments of all ranks into those of each; return one row per rank, heads first.

    Everything is sent as one vector: the head, then count, mean and M2 of each layer.
    """
    parts = [torch.tensor(head, dtype=torch.float64)]
    for moments in seen:
        parts += [torch.tensor([moments.count], dtype=torch.float64), moments.mean, moments.m2]
    # NCCL sends tensors on the GPU only.
    mine = torch.cat(parts).to("cuda" if dist.get_backend() == "nccl" else "cpu")
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    rows = torch.stack(gathered).cpu()  # (ranks, numbers)
    start = len(head)
    for moments in seen:
        size = len(moments.mean)
        end = start + 1 + 2 * size
        counts = rows[:, start]
        means = rows[:, start + 1 : start + 1 + size]
        m2s = rows[:, start + 1 + size : end]
        # The row of this rank holds what it has seen itself, so begin from nothing.
        moments.clear_counts()
        moments.merge_parts(counts, means, m2s)
        start = end
    return list(rows)
