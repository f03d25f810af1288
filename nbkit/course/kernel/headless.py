"""What a kernel sees when nobody watches: papermill's and nbval's kernels start with the same."""

from __future__ import annotations

import os
from pathlib import Path

from nbkit.lab.threads import read_thread_count

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def headless_environment(ipython_dir: str | Path) -> dict[str, str]:
    """This process's environment, less what would make a headless run differ from the next.

    Args:
        ipython_dir: an empty folder in place of the user's profile, whose start-up files and
            history are no part of a lesson.

    One compute thread unless `OMP_NUM_THREADS` says otherwise: the models of the lessons are too
    small for more, sums come out in the same order on every machine, and lessons that run beside
    each other do not fight for the cores. Empty counts as unset, as it does for the OpenMP library.

    Raises:
        ValueError: if a variable that counts threads is neither empty nor a number.
    """
    environment = {name: text for name, text in os.environ.items() if name not in THREADS}
    environment |= {name: os.environ[name] for name in _thread_counts()}
    environment.pop("JPY_SESSION_NAME", None)  # a front end's: it would look as if someone watched
    environment.pop("MPLBACKEND", None)  # the kernel sets its own, which stores the pictures
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment | {
        "NBKIT_LIVE": "0",
        "IPYTHONDIR": str(ipython_dir),
        "PYTHONHASHSEED": "0",  # sets print in the same order every time
    }


def share_threads(jobs: int) -> dict[str, str]:
    """The variables that give each of `jobs` kernels its share of the cores.

    None gets more than it had alone: what the environment asks for, or one.

    Raises:
        ValueError: if a variable that counts threads is neither empty nor a number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, (cores or 1) // jobs)
    counts = _thread_counts()
    if jobs == 1:
        return {"OMP_NUM_THREADS": "1"} | {name: os.environ[name] for name in counts}
    asked = {"OMP_NUM_THREADS": 1} | counts
    return {name: str(min(share, count)) for name, count in asked.items()}


def _thread_counts() -> dict[str, int]:
    """The thread counts that the environment asks for, by variable; an empty one asks for none."""
    counts = {}
    for name in THREADS:
        count = read_thread_count(name, os.environ.get(name, ""))
        if count is not None:
            counts[name] = count
    return counts
