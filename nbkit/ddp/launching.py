"""Run a function on several processes, from a notebook or a script, and on several nodes."""

from __future__ import annotations

import atexit
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nbkit.base.numbers import read_integer
from nbkit.base.state import preserve_state
from nbkit.ddp.group import rank, world_size
from nbkit.ddp.job import run_job
from nbkit.ddp.options import JobOptions
from nbkit.ddp.worker import join_group, seed_rank


def launch(
    fn: Callable[..., Any],
    *args: Any,
    nproc: int = 2,
    backend: str | None = None,
    timeout: float | None = 600.0,
    max_restarts: int = 0,
    **kwargs: Any,
) -> list[Any]:
    """Run `fn(*args, **kwargs)` on several processes of this machine; return each rank's value.

    When `fn` starts, its process is in one process group with the others, on its own GPU if the
    backend is nccl. What it prints is shown with its rank. `fn` may be defined in a notebook cell:
    cloudpickle sends what a new process cannot import by name. torch's elastic agent runs the
    processes in a separate session, which ends with the call in every case; threads and processes
    that `fn` leaves running end with it.

    Each rank draws different random numbers of torch, `random` and numpy. They follow from the rank
    and from `torch.initial_seed()`: after `torch.manual_seed(0)` a launch can be repeated. What all
    ranks have to draw alike, such as the order of `shard`'s batches, needs a generator with a seed.

    On several nodes the same line runs unchanged. Put it in a script, and start that by torchrun:

        TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes=2 --nproc-per-node=8 \\
            --rdzv-backend=c10d --rdzv-endpoint=HEAD:29400 --rdzv-id=1 train.py

    There `launch` runs `fn` in the process that torchrun started, on as many ranks as torchrun has
    started (`nproc` is ignored), and every rank gets the list of values. Restarts are torchrun's
    (`--max-restarts`), and `timeout` limits each wait of a rank for the others. The variable lets
    restarted ranks find each other: without it torch 2.13 may give them the addresses of the
    previous attempt.

    Args:
        fn: the function that every rank runs. It may destroy the process group, but need not.
        nproc: number of processes.
        backend: "gloo" or "nccl"; None is nccl if there is a GPU for each process, else gloo.
        timeout: seconds for the whole call; None or inf for no limit.
        max_restarts: how often all ranks start again after one has failed. In `fn`,
            `os.environ["TORCHELASTIC_RESTART_COUNT"]` is the number of the attempt, from 0.
    Returns:
        list: the value of each rank, in the order of the ranks.
    Raises:
        LaunchError: if a rank raised or was killed, or the time is up: with the rank, its
            traceback, and `failures`, a `RankFailure` for each failed rank in the order of time.
        ValueError: for impossible numbers, or fewer GPUs than nccl needs.
        TypeError: if `fn` or an argument cannot be sent to another process.
        ImportError: if they need cloudpickle and it is not installed.

    >>> launch(divmod, 7, 2, nproc=2)
    [(3, 1), (3, 1)]
    """
    _check_launch(fn, nproc, backend, timeout, max_restarts)
    nproc, max_restarts = int(nproc), int(max_restarts)
    timeout = None if timeout is None else float(timeout)
    if dist.is_torchelastic_launched():
        return _run_under_torchrun(fn, args, kwargs, backend, timeout)
    backend = _choose_backend(backend, nproc)

    limit = None if timeout is None or math.isinf(timeout) else timeout
    options = JobOptions(
        nproc=nproc,
        backend=backend,
        timeout=limit,
        deadline=None if limit is None else time.time() + limit,
        max_restarts=max_restarts,
        # A forkserver has torch loaded, so ranks start at once. CUDA must not be used before a
        # fork, so ranks with GPUs are spawned.
        method="spawn" if backend == "nccl" else "forkserver",
        seed=torch.initial_seed(),
    )
    with tempfile.TemporaryDirectory(prefix="nbkit-") as folder:
        return run_job(Path(folder), (fn, args, kwargs), options)


def _check_launch(fn: Any, nproc: Any, backend: Any, timeout: Any, max_restarts: Any) -> None:
    """Refuse arguments, systems and places from which nothing can be launched."""
    if not callable(fn):
        raise TypeError(f"launch runs a function on each rank, got a {type(fn).__name__}.")
    # read_integer refuses bools, which Python counts as integers.
    if (read_integer(nproc) or 0) < 1:
        raise ValueError(f"nproc must be a whole number of processes, at least 1, got {nproc}.")
    if backend not in (None, "gloo", "nccl"):
        raise ValueError(f'backend must be "gloo", "nccl" or None, got {backend!r}.')
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be positive seconds, or None for no limit, got {timeout}.")
    restarts = read_integer(max_restarts)
    if restarts is None or restarts < 0:
        raise ValueError(f"max_restarts must be a whole number, at least 0, got {max_restarts}.")
    if sys.platform == "win32":
        raise OSError("launch needs Linux or macOS; on Windows use WSL.")
    if "NBKIT_RANK" in os.environ:
        raise RuntimeError("launch was called inside a launched function: call fn itself there.")


def _choose_backend(backend: str | None, nproc: int) -> str:
    """Choose nccl if every process can have a GPU, and gloo otherwise."""
    gpus = torch.cuda.device_count()
    backend = backend or ("nccl" if gpus >= nproc else "gloo")
    if backend == "nccl" and gpus < nproc:
        raise ValueError(
            f"nccl needs a GPU for each of the nproc={nproc} processes, this machine has "
            f'{gpus}. Use fewer processes, or backend="gloo".'
        )
    return backend


def _run_under_torchrun(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    backend: str | None,
    timeout: float | None,
) -> list[Any]:
    """Run the function in this process, which torchrun has started as one of its ranks."""
    if not dist.is_initialized():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        join_group(backend or ("nccl" if torch.cuda.device_count() >= local else "gloo"), timeout)
        atexit.register(_leave_group)
    # The script continues with its own random numbers, as if fn had run in another process.
    with preserve_state():
        seed_rank(torch.initial_seed(), rank())
        value = fn(*args, **kwargs)
    if not dist.is_initialized():
        raise RuntimeError(
            "fn destroyed the process group, so the ranks cannot exchange their values: leave out "
            "destroy_process_group(), launch keeps the group for the next call."
        )
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _leave_group() -> None:
    """Leave the group before Python ends, or a gloo thread that frees a result aborts the process.

    That is SIGABRT in one run of five (torch 2.13). The pause gives the threads the interpreter's
    lock, which they need to end.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(0.1)
