"""Keep two processes waiting for functions, kill a rank, and run two nodes on one machine."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.accumulation import accumulate
from nbkit.base.batch_gradients import compute_gradients, copy_gradients
from nbkit.base.equivalence import EquivalenceReport, compare_gradients
from nbkit.base.pickling import pickle_value
from nbkit.base.whole_file import write_whole
from nbkit.ddp import launch, rank, shard
from nbkit.lab.evidence.claims import NEEDS

Seconds = list[float]
Command = subprocess.Popen[str]
# The first lines of the script that the lesson writes from its cells.
IMPORTS = """import sys
from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from nbkit import all_mean, is_main, launch, shard
from nbkit.lab.data import digits
from nbkit.lab.models import mlp"""


def two_processes() -> bool:
    """Return whether this machine can start two processes; if not, print the consequence."""
    is_able = NEEDS["two processes"]()
    if not is_able:
        print("This machine cannot start two processes: nothing is run here, the claims that need")
        print("them are SKIPPED. Linux, macOS or WSL can; the stored lesson shows what they saw.")
    return is_able


class Ranks:
    """Keep two processes that wait for functions: `ranks(fn)` is `launch(fn)` without the start.

    They start in the background, and end with `close()` or with this process. If a rank raises,
    both end, and this call and each later one raise a LaunchError. An interrupt (Stop, Ctrl-C) in
    a call ends both at once; the next call starts them again.
    """

    def __init__(self) -> None:
        self._start_ranks()

    def _start_ranks(self) -> None:
        # Calls and values are files in this folder, numbered from 1.
        self._folder = tempfile.TemporaryDirectory(prefix="nbkit-ranks-")
        self._calls, self._stopped = 0, False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._launch_ranks, daemon=True)
        self._thread.start()

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Run a function on both ranks and return their values."""
        if self._stopped:
            self._thread.join()
            self._folder.cleanup()
            self._start_ranks()
        self._calls += 1
        folder, name = Path(self._folder.name), getattr(fn, "__name__", str(fn))
        values = [folder / f"value_{self._calls}_{number}" for number in (0, 1)]
        write_whole(
            folder / f"call_{self._calls}", pickle_value((fn, args, kwargs), name), durable=False
        )
        try:
            while not all(value.exists() for value in values):
                if not self._thread.is_alive():
                    raise self._error or RuntimeError("these two processes have been closed.")
                time.sleep(0.01)
        except KeyboardInterrupt:
            (folder / "stop").touch()  # otherwise the ranks would go on computing
            self._stopped = True
            raise
        return [pickle.loads(value.read_bytes()) for value in values]

    def close(self) -> None:
        """End the two processes."""
        if self._thread.is_alive():
            write_whole(Path(self._folder.name, "end"), b"", durable=False)
            self._thread.join()
        self._folder.cleanup()

    def _launch_ranks(self) -> None:
        try:
            launch(_wait_for_calls, self._folder.name, backend="gloo", timeout=None)
        except BaseException as error:  # the call that waits for a value raises it
            self._error = error


def _wait_for_calls(name: str) -> None:
    """Run one call after the other on this rank, until a file says to end."""
    folder = Path(name)
    threading.Thread(target=_end_when_stopped, args=(folder,), daemon=True).start()
    for number in count(1):
        call = folder / f"call_{number}"
        while not call.exists():
            # Looked for only between calls: a call that has begun is finished.
            if (folder / "end").exists():
                return
            time.sleep(0.005)
        fn, args, kwargs = pickle.loads(call.read_bytes())
        value = pickle_value(fn(*args, **kwargs), f"what {getattr(fn, '__name__', fn)} returned")
        write_whole(folder / f"value_{number}_{rank()}", value, durable=False)


def _end_when_stopped(folder: Path) -> None:
    """Kill this launch's processes, which are one group, when the caller has been interrupted."""
    while not (folder / "stop").exists():
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


# ---- ragged parts, a killed rank, several nodes ----


def weighted_report(
    make: Callable[[], nn.Module], batch: tuple[Tensor, Tensor]
) -> EquivalenceReport:
    """Compare the gradient of weighted parts with that of the batch; every rank has to call it."""
    model = nn.parallel.DistributedDataParallel(make())
    for window in accumulate(shard([batch]), 1, model=model):
        for micro in window:
            x, y = micro.batch
            # The weight makes up for shares of different sizes.
            (cross_entropy(model(x), y) * micro.weight).backward()
    reference = compute_gradients(make(), cross_entropy, batch)
    return compare_gradients(reference, copy_gradients(model.module))


def write_diary(folder: str, dies_at: int, losses: Seconds) -> None:
    """Write the last loss down on rank 0; kill rank 1 after step `dies_at` of the first attempt."""
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if rank() == 0:
        with Path(folder, f"attempt_{attempt}.txt").open("a") as diary:
            diary.write(f"{len(losses)} {losses[-1]}\n")
    elif attempt == "0" and len(losses) == dies_at:
        time.sleep(0.2)  # so that rank 0 finishes this step and writes it down
        os.kill(os.getpid(), signal.SIGKILL)


def read_diary(folder: str) -> list[tuple[list[int], Seconds]]:
    """Read the steps of each attempt and their losses."""
    attempts = []
    for path in sorted(Path(folder).glob("attempt_*.txt")):
        steps, losses = [], []
        for line in path.read_text().splitlines():
            step, loss = line.split()
            steps.append(int(step))
            losses.append(float(loss))
        attempts.append((steps, losses))
    return attempts


def as_script(*functions: Callable[..., Any], last: str) -> str:
    """Write a script from functions of a notebook's cells, with the imports of ddp.

    `last` are the lines after them.
    """
    return "\n\n".join([IMPORTS, *map(inspect.getsource, functions), last, ""])


def free_port() -> int:
    """Find a port of this machine that no process listens on at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))  # 0: the system chooses
        port: int = found.getsockname()[1]
    return port


def run_side_by_side(commands: Sequence[Sequence[str]], timeout: float = 120.0) -> list[str]:
    """Run commands at the same time, as different machines would; return what each one printed.

    Args:
        commands: each a program with its arguments.
        timeout: seconds for all of them together.
    Raises:
        RuntimeError: if one fails or the time is up, with the end of its error output; all of them
            are ended.
    """
    running = [_start_command(command) for command in commands]
    end, printed = time.monotonic() + timeout, []
    try:
        for process in running:
            out, said = process.communicate(timeout=max(0.1, end - time.monotonic()))
            if process.returncode:
                raise RuntimeError(f"{_join_words(process)} failed. It said: {said[-2000:]}")
            printed.append(out)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{_join_words(process)} took more than {timeout:g} s.") from None
    finally:
        for process in running:
            _end_command(process)
    return printed


def _start_command(command: Sequence[str]) -> Command:
    """Start a command in a new session, with the import path of this process."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([path or os.getcwd() for path in sys.path]),
        # Without it restarted ranks may get the addresses of the previous attempt (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("MPLBACKEND", None)  # a notebook's inline backend has no notebook to draw in
    return subprocess.Popen(
        list(command),
        env=env,
        start_new_session=True,  # a group that can be killed as a whole
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _join_words(process: Command) -> str:
    """Return the command line of a process."""
    words: Any = process.args  # a list, as `_start_command` gives one
    return " ".join(words)


def _end_command(process: Command) -> None:
    """End a command and what it has started."""
    if process.poll() is None:
        # Ask first: torchrun passes the request on to its ranks, which are other groups.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
