"""Define the environment of kernels that run without a user; papermill and nbval share it."""

from __future__ import annotations

import os
from pathlib import Path

from nbkit.lab.threads import read_thread_count

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def headless_environment(ipython_dir: str | Path) -> dict[str, str]:
    """Copy this process's environment without what makes one headless run differ from another.

    Args:
        ipython_dir: an empty folder in place of the user's profile, so that its start-up files and
            history have no effect on a lesson.

    The kernel computes on one thread unless `OMP_NUM_THREADS` asks for more. The models of the
    lessons are too small to gain from a second thread, sums are added in the same order on every
    machine, and lessons that run side by side do not compete for the cores. An empty variable
    counts as unset, as in the OpenMP library.

    Raises:
        ValueError: if a variable that counts threads is neither empty nor a number.
    """
    environment = dict(os.environ)
    counts = _read_thread_counts()
    for name in THREADS:
        if name not in counts:
            environment.pop(name, None)  # empty, which some libraries would not accept
    # A front end sets this variable; with it, a lesson would expect a user who watches.
    environment.pop("JPY_SESSION_NAME", None)
    # The kernel chooses the backend that stores the pictures in the notebook.
    environment.pop("MPLBACKEND", None)
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment | {
        "NBKIT_LIVE": "0",
        "IPYTHONDIR": str(ipython_dir),
        "PYTHONHASHSEED": "0",  # sets print in the same order every time
    }


def share_threads(jobs: int) -> dict[str, str]:
    """Compute the variables that give each of `jobs` kernels its share of the cores.

    No kernel gets more threads than it would have alone: what the environment asks for, or one.

    Raises:
        ValueError: if a variable that counts threads is neither empty nor a number.
    """
    counts = _read_thread_counts()
    if jobs == 1:
        # Nothing to share: keep the text as it is, which may count nested teams (`4,2`).
        asked_texts = {name: os.environ[name] for name in counts}
        return {"OMP_NUM_THREADS": "1"} | asked_texts
    # The affinity mask counts the cores that this process may use, not all of the machine's.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, (cores or 1) // jobs)
    asked = {"OMP_NUM_THREADS": 1} | counts
    return {name: str(min(share, count)) for name, count in asked.items()}


def _read_thread_counts() -> dict[str, int]:
    """Read the thread counts that the environment asks for, by variable; skip empty ones."""
    counts = {}
    for name in THREADS:
        count = read_thread_count(name, os.environ.get(name, ""))
        if count is not None:
            counts[name] = count
    return counts
