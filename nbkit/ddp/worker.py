"""Run one rank of a launch.

`launch` starts one agent in a separate session. The agent asks a forkserver, which has loaded torch
already, for one process for each rank. Each rank joins the process group, runs the function and
writes its value, or its error, into the job's folder.
"""

from __future__ import annotations

import atexit
import datetime
import faulthandler
import hashlib
import json
import linecache
import multiprocessing
import multiprocessing.util
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from nbkit.base.pickling import pickle_value
from nbkit.base.whole_file import write_whole
from nbkit.ddp.options import JobOptions

# torch 2.12 and later: the last owner of a gloo group frees it while it holds the interpreter's
# lock, and waits for a thread that wants the lock. A DDP model that outlives
# destroy_process_group() would be that owner, unless a reference is kept here.
_kept: list[object] = []

# The agent looks at its ranks every 0.1 s. A rank that fails stays this long, so that a rank which
# only lost its peer never ends before the agent has seen the peer's end.
LINGER_SECONDS = 0.5

# Used in place of no limit. torch counts some waits as milliseconds in 32 bits, which overflow at
# 24.8 days, and a wait that has overflowed may end at once.
LONGEST_WAIT = 24 * 86400.0


def run_rank(folder: str) -> None:
    """Run the function on this rank; write `value_<rank>`, or the error if it fails."""
    job = Path(folder)
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.environ["NBKIT_RANK"] = rank  # this process is launch's own, not one that torchrun started
    try:
        options = JobOptions.read_options(job)
        _write_stacks(job, f"{attempt}_{rank}")
        # The first to be registered, with the lowest priority, so that it runs after the others.
        multiprocessing.util.Finalize(None, _leave_rank, (options.method,), exitpriority=0)
        fn, args, kwargs = _read_call(job, options)
        join_group(options.backend, options.timeout)
        seed_rank(options.seed, int(rank))
        value = fn(*args, **kwargs)
        data = pickle_value(value, f"what {getattr(fn, '__name__', fn)} returned")
        write_whole(job / f"value_{rank}", data, durable=False)
    except BaseException as error:  # also SystemExit: a rank that leaves early is a failure
        told = json.dumps(describe_error(error))
        write_whole(job / f"error_{attempt}_{rank}", told, durable=False)
        time.sleep(LINGER_SECONDS)
        os._exit(1)


def join_group(backend: str, timeout: float | None) -> None:
    """Join the process group that the environment describes, on this rank's own GPU with nccl."""
    wait = datetime.timedelta(seconds=min(timeout or LONGEST_WAIT, LONGEST_WAIT))
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        # gloo for tensors on the CPU, such as the pickled objects of all_gather_object.
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=wait, device_id=device)
    else:
        dist.init_process_group(backend, timeout=wait)
    _kept.append(dist.group.WORLD)


def seed_rank(seed: int, rank: int) -> None:
    """Seed torch, `random` and numpy (if it is loaded) for one rank of a launch."""
    # A hash, not a sum: rank 1 of a launch with seed 0 must not draw what rank 0 draws with seed 1.
    number = hashlib.sha256(f"{seed} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(number[:8], "big"))
    random.seed(int.from_bytes(number[8:16], "big"))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(int.from_bytes(number[16:20], "big"))


def _read_call(
    job: Path, options: JobOptions
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Read the function and its arguments; tracebacks then show the lines of notebook cells."""
    for name, lines in options.sources.items():
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    fn, args, kwargs = pickle.loads((job / "call").read_bytes())
    return fn, args, kwargs


def _write_stacks(job: Path, name: str) -> None:
    """Write this rank's Python stack to a file if it crashes, and when the launcher asks for it."""
    stacks = (job / f"stack_{name}").open("w")
    _kept.append(stacks)  # faulthandler keeps the number of the file, which must stay open
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    # The launcher signals ranks whose number it finds, so the handler has to be there first.
    write_whole(job / f"pid_{name}", str(os.getpid()), durable=False)


def _leave_rank(method: str) -> NoReturn:
    """End a rank that has given its value, whatever threads and processes it leaves behind.

    Python would wait for them. Besides, its regular end is not safe: gloo's threads sometimes abort
    it (SIGABRT, torch 2.13).
    """
    try:
        for child in multiprocessing.active_children():
            child.kill()
        if method == "spawn":  # ranks of a forkserver never call these handlers
            # It would wait for the child processes of the rank.
            atexit.unregister(multiprocessing.util._exit_function)  # type: ignore[attr-defined]  # private
            atexit._run_exitfuncs()
    finally:
        os._exit(0)


def describe_error(error: BaseException) -> dict[str, object]:
    """Describe an error as text, without the frames of this file."""
    frames = error.__traceback__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    # The texts come from the user's classes, whose methods may raise.
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        text = "".join(traceback.format_tb(frames)) + type(error).__name__
    try:
        message = str(error)
    except BaseException as failure:
        message = f"(its text cannot be shown: str() raises {type(failure).__name__})"
    return {
        "time": time.monotonic(),
        "type": type(error).__name__,
        "message": message,
        "traceback": text,
    }
