"""One lesson on a GPU at a time: beside another one, its memory and its timings are not its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch

from nbkit.course.run.locks import hold


def gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


@contextlib.contextmanager
def lease(
    per_gpu: int = 1, stopped: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, str]]:
    """Wait for a GPU that has room; the variables that make a kernel see this one only.

    Args:
        per_gpu: how many lessons may share one; 0 leaves all of them to every lesson.
        stopped: asked while waiting whether to give up.
    Raises:
        Stopped: if it was.
    """
    devices = gpus() if per_gpu else []
    if not devices:
        yield {}
        return
    # One lesson on each GPU before there are two on one.
    places = {f"gpu-{device}-{k}": device for k in range(per_gpu) for device in devices}
    with hold(list(places), stopped) as name:
        yield {"CUDA_VISIBLE_DEVICES": places[name]}
