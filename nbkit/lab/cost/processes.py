"""Run a measurement in fresh processes: what a claim over timings counts.

The rounds of one process share its memory layout, and so do processes that are forked from one. For
the cost of a float64 target, ten interpreters with four forks each were timed: the ratios of one
interpreter's forks differ by 3 %, those of the interpreters by 20 %, from 1.9 to 4.0. So each
timing has an interpreter to itself.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbkit.base.pickling import pickle_value
from nbkit.base.whole_file import write_whole
from nbkit.lab.cost.busy import BUSY, Load, load_since, read_cores

TIMEOUT = 600.0  # seconds that a single process may take
MOST_STARTED = 4  # processes that wait with torch loaded need memory, 0.3 GiB each
LOOK = 0.02  # seconds between two looks at the processes


class ProcessError(RuntimeError):
    """A fresh process failed: with its error and its traceback."""


@dataclass
class FreshRun:
    """What the fresh processes returned.

    Attributes:
        values: for each group of ranks its values by rank; in the order of the groups.
        load: what other programs used of the cores while the function ran.
        unfinished: what the time budget did not allow; empty if everything was done.
    """

    values: list[list[Any]] = field(default_factory=list)
    load: Load | None = None
    unfinished: str = ""


def run_in_fresh_processes(
    fn: Callable[..., Any],
    n: int,
    *args: Any,
    ranks: int = 1,
    budget_seconds: float = float("inf"),
    timeout: float = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    after_each: Callable[[], object] = lambda: None,
) -> FreshRun:
    """Run `fn(index, *args)` in n fresh interpreters, one after the other, and collect the values.

    A few interpreters import torch at the same time and then wait, so that no import runs while
    something is measured. Functions from notebook cells travel by cloudpickle.

    Args:
        fn: what each process runs. Its first argument counts the processes from 0.
        n: how many times.
        ranks: how many processes run it together, each time, as one gloo process group.
        budget_seconds: no further process is started later than that; at least one runs.
        timeout: seconds that `fn` may take in a process.
        clock: gives the seconds of the budget.
        after_each: is called here after each of the n, to show how far it is.
    Returns:
        FreshRun: with fewer than n values if the budget ended, or if other programs have used so
            much that the machine would count as busy however quiet the rest; `unfinished` says so.
    Raises:
        ProcessError: if the function raises or is killed in a process, or takes too long.
        ValueError: if a number is too small.
        TypeError: if the function or an argument cannot be sent to another process.

    All processes have ended when it returns, however it returns.
    """
    for name, number in (("n", n), ("ranks", ranks)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    name = getattr(fn, "__name__", str(fn))
    run, begin, loads = FreshRun(), clock(), []

    with tempfile.TemporaryDirectory(prefix="nbkit-fresh-") as folder:
        _write_call(Path(folder), fn, args, ranks, name)
        while len(run.values) < n:
            first = len(run.values)
            if first and clock() - begin >= budget_seconds:
                run.unfinished = (
                    f"the budget of {budget_seconds:g} s ended after {first} of {n} processes"
                )
                break
            groups = range(first, min(n, first + _started_together(ranks)))
            with _start_groups(Path(folder), groups, ranks) as processes:
                before = read_cores()
                for group in groups:
                    run.values.append(
                        _run_group(Path(folder), group, processes[group], name, timeout)
                    )
                    after_each()
                loads.append(load_since(before))
            run.load = mean_load(loads)
            done = len(run.values)
            if run.load is not None and done < n and is_lost_to_load(run.load, done / n):
                run.unfinished = f"{run.load.reason}: stopped after {done} of {n} processes"
                break
    return run


def is_lost_to_load(load: Load, share: float) -> bool:
    """Return whether the mean load stays that of a busy machine, even if the rest is quiet.

    Args:
        load: the mean load so far.
        share: the part of the measurement that is done, above 0 and at most 1.

    Nothing is judged on a busy machine, so such a measurement need not go on.
    """
    # The mean over everything, if other programs used nothing from here on.
    return load.others is not None and load.others * share >= BUSY


def mean_load(loads: Sequence[Load]) -> Load | None:
    """Average several loads, weighted by their seconds; None if there is none."""
    known = [load for load in loads if load.others is not None]
    if not known:
        return loads[0] if loads else None
    seconds = sum(load.seconds for load in known)

    def average(values: Sequence[float]) -> float:
        pairs = zip(values, known, strict=True)
        return sum(value * load.seconds for value, load in pairs) / seconds

    stalled = None
    if all(load.stalled is not None for load in known):
        stalled = average([load.stalled or 0.0 for load in known])
    others = average([load.others or 0.0 for load in known])
    return Load(others, average([load.stolen for load in known]), stalled, seconds, known[0].source)


def _started_together(ranks: int) -> int:
    """How many groups import torch at the same time: as many as there are cores for."""
    return max(1, min(os.cpu_count() or 1, MOST_STARTED) // ranks)


def _write_call(
    folder: Path, fn: Callable[..., Any], args: tuple[Any, ...], ranks: int, name: str
) -> None:
    data = pickle_value((fn, args), f"{name} (with its arguments)")
    # A cell is a file that only this process knows: send its lines for the tracebacks.
    sources = {
        file: entry[2]
        for file, entry in list(linecache.cache.items())
        if len(entry) == 4 and entry[1] is None and file.encode() in data
    }
    call = pickle.dumps({"fn": data, "ranks": ranks, "sources": sources})
    write_whole(folder / "call", call, durable=False)


@contextlib.contextmanager
def _start_groups(
    folder: Path, groups: range, ranks: int
) -> Iterator[dict[int, list[subprocess.Popen[bytes]]]]:
    """Start the processes of these groups, wait until they are ready, end them on every way out."""
    # Filled one by one, so that those started are ended even if the next start fails.
    processes: dict[int, list[subprocess.Popen[bytes]]] = {group: [] for group in groups}
    try:
        for group in groups:
            for rank in range(ranks):
                processes[group].append(_start_process(folder, group, rank))
        for group in groups:
            for rank, process in enumerate(processes[group]):
                while not (folder / f"ready_{group}_{rank}").exists():
                    if process.poll() is not None:
                        raise _describe_failure(folder, group, rank, process, "a fresh process")
                    time.sleep(LOOK)
        yield processes
    finally:
        for process in [each for members in processes.values() for each in members]:
            _end_process(process)


def _start_process(folder: Path, group: int, rank: int) -> subprocess.Popen[bytes]:
    env = dict(os.environ)
    env.pop("MPLBACKEND", None)  # a notebook's inline backend has no notebook to draw in
    env["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-m", "nbkit.lab.cost.fresh_worker", str(folder)]
    with (folder / f"said_{group}_{rank}").open("wb") as said:
        return subprocess.Popen(
            [*command, str(group), str(rank)],
            env=env,
            stdin=subprocess.PIPE,  # the process ends when our end of it closes, however we end
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a notebook's interrupt is ours, and we end the group
        )


def _run_group(
    folder: Path,
    group: int,
    processes: Sequence[subprocess.Popen[bytes]],
    name: str,
    timeout: float,
) -> list[Any]:
    """Let the processes of a group run the function, and read each one's value."""
    for process in processes:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: its exit code says so below
            process.stdin.write(b"\n")
            process.stdin.flush()
    # All members run at once; each is polled in turn.
    end, waiting = time.monotonic() + timeout, dict(enumerate(processes))
    while waiting:
        for rank, process in list(waiting.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(LOOK):
                    raise _describe_failure(folder, group, rank, process, name)
                del waiting[rank]
        if waiting and time.monotonic() > end:
            raise ProcessError(
                f"{name} did not end within timeout={timeout:g} s in fresh process {group}. A "
                f"longer measurement needs a larger timeout."
            )
    paths = [folder / f"value_{group}_{rank}" for rank in range(len(processes))]
    return [pickle.loads(path.read_bytes()) for path in paths]


def _describe_failure(
    folder: Path, group: int, rank: int, process: subprocess.Popen[bytes], name: str
) -> ProcessError:
    """What a process said before it ended."""
    where = f"{name} failed in fresh process {group}" + (f", rank {rank}" if rank else "")
    error = folder / f"error_{group}_{rank}"
    if error.exists():
        kind, message, trace = pickle.loads(error.read_bytes())
        return ProcessError(f"{where}: {kind}: {message}\n{trace}")
    # A negative code is the number of the signal.
    code = process.returncode
    how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = (folder / f"said_{group}_{rank}").read_text(errors="replace").strip()
    return ProcessError(f"{where}: {how}. It said: {said[-2000:] or 'nothing'}")


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended already
        # Its own session, so that what it has started ends with it.
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
