"""One lesson on a GPU at a time: beside another one, its memory and its timings are not its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import torch

from nbkit.course.client import Stopped

WAIT_SECONDS = 0.2


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

    The lock is a file's, which all processes of this user on this machine go by, and which the
    system lifts from one that is killed.
    """
    devices = gpus() if per_gpu else []
    if not devices:
        yield {}
        return
    import fcntl

    while True:
        for place in range(per_gpu):
            for device in devices:
                with _lock_file(device, place).open("a") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield {"CUDA_VISIBLE_DEVICES": device}
                    return
        if stopped():
            raise Stopped
        sleep(WAIT_SECONDS)


def _lock_file(device: str, place: int) -> Path:
    return Path(tempfile.gettempdir(), f"nbkit-{os.getuid()}-gpu-{device}-{place}.lock")
