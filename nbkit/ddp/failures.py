"""Explain a failed launch from what the ranks and the agent have left in the job's folder."""

from __future__ import annotations

import dataclasses
import json
import linecache
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbkit.ddp import worker
from nbkit.ddp.options import JobOptions


@dataclasses.dataclass
class RankFailure:
    """Say how one rank ended: `error` is the class of an exception or the name of a signal."""

    rank: int
    error: str
    message: str
    traceback: str = ""


class LaunchError(RuntimeError):
    """Report a failed launch; `failures` holds its failed ranks in the order of time."""

    def __init__(self, text: str, failures: list[RankFailure] | None = None):
        super().__init__(text)
        self.failures = failures or []

    def _render_traceback_(self) -> list[str]:
        """Let a notebook show the rank's traceback without the launcher's frames."""
        return f"LaunchError: {self}".splitlines()


def explain_launch(job: Path, name: str, options: JobOptions, said: list[str]) -> LaunchError:
    """Make the error for a launch of function `name`; `said` holds the agent's own lines."""
    attempt, codes = find_last_attempt(job), read_exit_codes(job)
    failures = _list_failures(job, attempt, codes or {})
    # Without exit codes the agent was stopped from outside: by the timeout, or by something else.
    if codes is None and is_late(options):
        lines = _describe_timeout(job, name, options, attempt)
    elif failures:
        first, *others = failures
        again = f" (attempt {attempt + 1})" if attempt else ""
        lines = [f"{name} failed on rank {first.rank} of {options.nproc}{again}."]
        lines.append(first.traceback.strip())
        # Most others failed because they lost the first one, so a line for each is enough.
        for failure in others:
            text = failure.message.strip()[:160]
            lines.append(f"Rank {failure.rank} then: {failure.error}: {text}")
    else:
        lines = [f"{name}: the launcher ended before a rank failed. It said:", *said[-25:]]
    return LaunchError("\n".join(lines), failures)


def is_late(options: JobOptions) -> bool:
    """Return whether the time of the call is up."""
    return options.deadline is not None and time.time() >= options.deadline


def find_last_attempt(job: Path) -> int:
    """Find the number of the last attempt, from 0; each rank opens a file `stack_<attempt>_...`."""
    attempts = [int(path.name.split("_")[1]) for path in job.glob("stack_*")]
    return max(attempts, default=0)


def read_exit_codes(job: Path) -> dict[int, int] | None:
    """Read the exit code of each rank that failed; None if the agent has not ended by itself."""
    try:
        codes = json.loads((job / "ended.json").read_text())
    except FileNotFoundError:
        return None
    return {int(rank): code for rank, code in codes.items()}


def _describe_timeout(job: Path, name: str, options: JobOptions, attempt: int) -> list[str]:
    """Describe where each rank was when the time was up."""
    lines = [
        f"{name} did not end within timeout={options.timeout:g} s on {options.nproc} processes. "
        f"A longer run needs a larger timeout (or None); where a rank waits for another, "
        f"look for a collective that not every rank reaches. Each rank was here:"
    ]
    for rank in range(options.nproc):
        stack = _read_stack(job / f"stack_{attempt}_{rank}")
        lines += [f"--- rank {rank} ---", stack or "(not in the function yet, or ended)"]
    return lines


def _list_failures(job: Path, attempt: int, codes: dict[int, int]) -> list[RankFailure]:
    """List the failed ranks in the order of time; killed ranks, which leave no time, come first."""
    reported: dict[int, dict[str, Any]] = {}  # by rank, what `describe_error` has found
    for path in job.glob(f"error_{attempt}_*"):
        reported[int(path.name.split("_")[2])] = json.loads(path.read_text())
    failures = []
    for rank, code in sorted(codes.items()):
        if rank not in reported:
            error, message = _describe_exit(code)
            stack = _read_stack(job / f"stack_{attempt}_{rank}")
            failures.append(RankFailure(rank, error, message, f"{message}\n{stack}"))
    for rank, told in sorted(reported.items(), key=lambda item: item[1]["time"]):
        failures.append(RankFailure(rank, told["type"], told["message"], told["traceback"]))
    return failures


def _describe_exit(code: int) -> tuple[str, str]:
    """Name and explain the exit code of a rank that has reported no exception."""
    if code >= 0:
        return f"exit code {code}", (
            f"the process ended with exit code {code} before the function had returned, and "
            f"reported no exception: look for os._exit(), or a library that calls C's exit()."
        )
    # A negative code is the number of the signal that ended the process.
    name = signal.Signals(-code).name
    hint = " Out of memory is the usual reason." if code == -signal.SIGKILL else ""
    return name, f"the process ended by {name}, without a Python exception.{hint}"


def _read_stack(path: Path) -> str:
    """Read the frames of the thread that crashed, or of the main one, in a traceback's order."""
    text = path.read_text() if path.exists() else ""
    frames = []
    for file, line, function in re.findall(r'File "(.*)", line (\d+) in (.*)', _find_thread(text)):
        if _is_worker(file):
            break  # the frames outside of this one started the process
        source = linecache.getline(file, int(line)).strip()
        frames.append(f'  File "{file}", line {line}, in {function}\n    {source}'.rstrip())
    # faulthandler writes the innermost frame first, a traceback last.
    return "\n".join(reversed(frames))


def _find_thread(text: str) -> str:
    """Find the part of faulthandler's text that is about the thread to show."""
    if "Current thread 0x" in text and "Fatal Python error" in text:
        return text.split("Current thread 0x")[1].split("Thread 0x")[0]
    # Asked for by a signal, and without a crash: the main thread comes last.
    return text.replace("Current thread 0x", "Thread 0x").split("Thread 0x")[-1]


def _is_worker(file: str) -> bool:
    """Return whether a frame's file is the worker's own, also in another installation."""
    own: Sequence[str] = Path(worker.__file__).parts[-3:]
    return Path(file).parts[-3:] == own
