"""Give each lesson a GPU, so that other lessons do not disturb its memory and its timings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch

from nbkit.course.run.locks import hold_free_lock


def list_gpus() -> list[str]:
    """List the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # An empty variable hides all GPUs, an unset one hides none.
    if visible is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    # -1 is the usual way to say that no GPU is to be used.
    names = [name.strip() for name in visible.split(",")]
    return [name for name in names if name not in ("", "-1")]


@contextlib.contextmanager
def lease_gpu(
    per_gpu: int = 1, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, str]]:
    """Wait for a GPU with room, and give the variables that show a kernel only this GPU.

    Args:
        per_gpu: number of lessons that may share a GPU; 0 lets every lesson see all GPUs.
        is_stopped: asked while waiting whether to give up.
    Raises:
        Stopped: if `is_stopped` says so.

    Without a GPU it gives no variables and does not wait.
    """
    gpus = list_gpus() if per_gpu else []
    if not gpus:
        yield {}
        return
    # The locks stand in the order of preference: every GPU gets one lesson before any gets two.
    gpu_of_lock = {}
    for place in range(per_gpu):
        for gpu in gpus:
            gpu_of_lock[f"gpu-{gpu}-{place}"] = gpu
    with hold_free_lock(list(gpu_of_lock), is_stopped) as lock:
        yield {"CUDA_VISIBLE_DEVICES": gpu_of_lock[lock]}
