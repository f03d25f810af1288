"""The processes that `nbkit.ddp.launch` starts: torch's elastic agent, and the ranks it runs.

`launch` starts one agent in a session of its own. The agent asks a forkserver, which has torch
loaded already, for one process a rank; each rank joins the process group, runs the function and
leaves its value, or its error, in the job's folder.
"""

from __future__ import annotations

import copyreg
import datetime
import faulthandler
import importlib
import json
import linecache
import logging
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# torch 2.12 and later: the last owner of a gloo group frees it while it holds the interpreter's
# lock, and waits for a thread that wants the lock. A DDP model that outlives
# destroy_process_group() would be that owner; with a reference kept here nobody is.
_kept: list[object] = []

# The agent looks at its ranks every 0.1 s. A rank that fails stays this long, so that a rank which
# only lost its peer never ends before the agent has seen the peer's end.
LINGER_SECONDS = 0.5


# cloudpickle sends a module's submodules along with a function that names both: one that uses torch
# and a variable `classes` takes torch.classes with it, which pickles only as what to import.
def _import_again(module: Any) -> Any:
    return importlib.import_module, (module.__name__,)


for _module in (torch.classes, torch.ops):
    copyreg.pickle(type(_module), _import_again)


def agent(folder: str) -> None:
    """Run the job in `folder` with torch's elastic agent; write each failed rank's exit code."""
    job = Path(folder)
    threading.Thread(target=_end_with_parent, args=(job,), daemon=True).start()
    options = json.loads((job / "options.json").read_text())
    logging.disable(logging.ERROR)  # torch's log format takes a second to load, and ranks speak up
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    codes = {}
    try:
        elastic_launch(_config(job, options), work)(folder)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    write(job / "ended.json", json.dumps(codes).encode())


def _config(job: Path, options: dict[str, Any]):
    """One node, a free port on the loopback interface, each line of output with its rank."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options["nproc"],
        run_id=job.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=options["max_restarts"],
        start_method=options["method"],
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
    options = json.loads((job / "options.json").read_text())
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.environ["NBKIT_RANK"] = rank  # this process is launch's own, not one that torchrun started
    _watch(job / f"stack_{attempt}_{rank}", options["deadline"])
    if options["method"] == "spawn":
        _leave_at_once()
    try:
        fn, args, kwargs = _load(job, options)
        join_group(options["backend"], options["timeout"])
        value = fn(*args, **kwargs)
        data = dumps(value, f"what {getattr(fn, '__name__', fn)} returned")
    except BaseException as error:  # also SystemExit: a rank that leaves early is a failure
        write(job / f"error_{attempt}_{rank}", json.dumps(_describe(error)).encode())
        time.sleep(LINGER_SECONDS)
        os._exit(1)
    write(job / f"value_{rank}", data)


def join_group(backend: str, timeout: float | None) -> None:
    """Join the process group that the environment describes, on this rank's own GPU with nccl."""
    wait = datetime.timedelta(seconds=timeout) if timeout else None
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=wait, device_id=device)
    else:
        dist.init_process_group(backend, timeout=wait)
    _kept.append(dist.group.WORLD)


def dumps(value: object, what: str) -> bytes:
    """Pickle `value`; by cloudpickle if it holds what another process cannot import by name."""
    try:
        data = pickle.dumps(value)
        if b"__main__" not in data:
            return data
    except Exception:  # a lambda, a local class: pickle has several errors for them
        pass
    try:
        import cloudpickle
    except ImportError:
        raise ImportError(
            f"{what} is defined in a notebook, a script or another function, where a new process "
            f"cannot import it. Either pip install cloudpickle, or move it to a module."
        ) from None
    try:
        return cloudpickle.dumps(value)
    except Exception as error:
        raise TypeError(
            f"{what} cannot be sent to another process: {error}. Send plain values, tensors or "
            f"modules, and make locks, files and generators inside the function."
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.rename(path)


def _load(job: Path, options: dict[str, Any]) -> tuple[Any, tuple, dict]:
    """The function and its arguments, and the cells they come from, for readable tracebacks."""
    for name, lines in options["sources"].items():
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    if "numpy" in sys.modules:  # forked ranks would otherwise all draw the same numbers
        sys.modules["numpy"].random.seed()
    return pickle.loads((job / "call").read_bytes())


def _watch(path: Path, deadline: float | None) -> None:
    """Write this rank's Python stack to a file if it crashes, and just before the time is up."""
    stacks = path.open("w")
    _kept.append(stacks)
    faulthandler.enable(stacks)
    if deadline:
        faulthandler.dump_traceback_later(max(0.1, deadline - time.time() - 0.5), file=stacks)


def _leave_at_once() -> None:
    """Skip the interpreter's end: gloo's threads abort it now and then (SIGABRT, torch 2.13).

    Ranks of the forkserver skip it anyway. Registered first, so it runs after all other handlers.
    """
    import atexit

    atexit.register(os._exit, 0)


def _describe(error: BaseException) -> dict[str, object]:
    """The error as text, without the frames of this file."""
    frames = error.__traceback__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return {
        "time": time.monotonic(),
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(type(error), error, frames)),
    }
