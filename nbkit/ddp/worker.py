"""The processes that `nbkit.ddp.launch` starts: torch's elastic agent, and the ranks it runs.

`launch` starts one agent in a session of its own. The agent asks a forkserver, which has torch
loaded already, for one process a rank; each rank joins the process group, runs the function and
leaves its value, or its error, in the job's folder.
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import faulthandler
import hashlib
import json
import linecache
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from nbkit.base.pickling import pickle_value
from nbkit.base.whole_file import write_whole

# torch 2.12 and later: the last owner of a gloo group frees it while it holds the interpreter's
# lock, and waits for a thread that wants the lock. A DDP model that outlives
# destroy_process_group() would be that owner; with a reference kept here nobody is.
_kept: list[object] = []

# The agent looks at its ranks every 0.1 s. A rank that fails stays this long, so that a rank which
# only lost its peer never ends before the agent has seen the peer's end.
LINGER_SECONDS = 0.5

# Instead of no limit. torch counts some waits as milliseconds in 32 bits: these overflow at 24.8
# days, and a wait that has overflowed may end at once.
LONGEST_WAIT = 24 * 86400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How one launch runs its function; the ranks read it from the job's folder.

    Attributes:
        nproc: number of ranks.
        backend: "gloo" or "nccl".
        timeout: seconds for the whole call; None for no limit.
        deadline: the time at which these are over, as `time.time()` counts.
        max_restarts: how often all ranks start again after one failed.
        method: how multiprocessing starts a rank: "spawn" or "forkserver".
        seed: seed of the launch, from which each rank's own follows.
        sources: lines of the files that only the caller knows, such as notebook cells.
    """

    nproc: int
    backend: str
    timeout: float | None = None
    deadline: float | None = None
    max_restarts: int = 0
    method: str = "forkserver"
    seed: int = 0
    sources: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def save(self, job: Path) -> None:
        """Write the options into the job's folder."""
        (job / "options.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, job: Path) -> JobOptions:
        """Read what `save` has written."""
        return cls(**json.loads((job / "options.json").read_text()))


def agent(folder: str) -> None:
    """Run the job in `folder` with torch's elastic agent; write each failed rank's exit code."""
    job = Path(folder)
    threading.Thread(target=_end_with_parent, args=(job,), daemon=True).start()
    options = JobOptions.load(job)
    logging.disable(logging.ERROR)  # torch's log format takes a second to load, and ranks speak up
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _watch_exits()
    codes = {}
    try:
        elastic_launch(_config(job, options), work)(folder)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    write_whole(job / "ended.json", json.dumps(codes), durable=False)


def _watch_exits() -> None:
    """Let torch's agent notice every rank that has ended early, whatever its exit code.

    By itself it waits for ever for a rank that ends with code 0 before the function has returned,
    and of several ranks that have failed at once it reports one (torch 2.13).
    """
    from torch.distributed.elastic import multiprocessing as elastic
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    class WatchedRanks(elastic.MultiprocessContext):
        def _poll(self) -> elastic.RunProcsResult | None:
            # Before torch looks: when it has seen a failure, it ends the other ranks itself.
            assert self._pc is not None
            codes = {rank: each.exitcode for rank, each in enumerate(self._pc.processes)}
            result = super()._poll()
            failures = {
                rank: ProcessFailure(rank, self.pids()[rank], code, self.error_files[rank])
                for rank, code in codes.items()
                if code is not None and rank not in self._return_values
            }
            if result is None and failures:
                self.close()
                result = elastic.RunProcsResult(stdouts=self.stdouts, stderrs=self.stderrs)
            if result is not None:
                result.failures |= failures
            return result

    elastic.MultiprocessContext = WatchedRanks  # type: ignore[misc]


def _config(job: Path, options: JobOptions):
    """One node, a free port on the loopback interface, each line of output with its rank."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.nproc,
        run_id=job.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=options.max_restarts,
        start_method=options.method,
        logs_specs=DefaultLogsSpecs(str(job / "logs"), redirects=Std.ALL, tee=Std.ALL),
        log_line_prefix_template="[rank${rank}] ",
    )


def _end_with_parent(job: Path) -> None:
    """End the whole session when the caller is gone: its end of our standard input closes."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(job, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def work(folder: str) -> None:
    """What each rank runs: the function, its value to `value_<rank>`, or else what went wrong."""
    job = Path(folder)
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.environ["NBKIT_RANK"] = rank  # this process is launch's own, not one that torchrun started
    try:
        options = JobOptions.load(job)
        _watch(job, f"{attempt}_{rank}")
        # The first to be registered, with the lowest priority: it runs after the others.
        multiprocessing.util.Finalize(None, _leave, (options.method,), exitpriority=0)
        fn, args, kwargs = _load(job, options)
        join_group(options.backend, options.timeout)
        seed_rank(options.seed, int(rank))
        value = fn(*args, **kwargs)
        write(
            job / f"value_{rank}",
            pickle_value(value, f"what {getattr(fn, '__name__', fn)} returned"),
        )
    except BaseException as error:  # also SystemExit: a rank that leaves early is a failure
        told = json.dumps(_describe(error))
        write_whole(job / f"error_{attempt}_{rank}", told, durable=False)
        time.sleep(LINGER_SECONDS)
        os._exit(1)


def join_group(backend: str, timeout: float | None) -> None:
    """Join the process group that the environment describes, on this rank's own GPU with nccl."""
    wait = datetime.timedelta(seconds=min(timeout or LONGEST_WAIT, LONGEST_WAIT))
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=wait, device_id=device)
    else:
        dist.init_process_group(backend, timeout=wait)
    _kept.append(dist.group.WORLD)


def seed_rank(seed: int, rank: int) -> None:
    """Seed torch, `random` and numpy (if it is loaded) for one rank of a launch.

    A hash, not a sum: rank 1 of a launch with seed 0 shall not draw what rank 0 draws with seed 1.
    """
    number = hashlib.sha256(f"{seed} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(number[:8], "big"))
    random.seed(int.from_bytes(number[8:16], "big"))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(int.from_bytes(number[16:20], "big"))


def write(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.rename(path)


def _load(job: Path, options: JobOptions) -> tuple[Any, tuple, dict]:
    """The function and its arguments, and the cells they come from, for readable tracebacks."""
    for name, lines in options.sources.items():
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    return pickle.loads((job / "call").read_bytes())


def _watch(job: Path, name: str) -> None:
    """Write this rank's Python stack to a file if it crashes, and when the launcher asks for it."""
    stacks = (job / f"stack_{name}").open("w")
    _kept.append(stacks)
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    write(job / f"pid_{name}", str(os.getpid()).encode())


def _leave(method: str) -> NoReturn:
    """End a rank that has given its value, whatever threads and processes it leaves behind.

    Python would wait for them. And its regular end is not safe: gloo's threads abort it now and
    then (SIGABRT, torch 2.13).
    """
    try:
        for child in multiprocessing.active_children():
            child.kill()
        if method == "spawn":  # ranks of a forkserver never call these handlers
            # It would wait for the child processes of the rank.
            atexit.unregister(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
    finally:
        os._exit(0)


def _describe(error: BaseException) -> dict[str, object]:
    """The error as text, without the frames of this file."""
    frames = error.__traceback__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
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
