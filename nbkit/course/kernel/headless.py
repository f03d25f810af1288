"""What a kernel sees when nobody watches: papermill's and nbval's kernels start with the same."""

from __future__ import annotations

import os
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def headless_environment(ipython_dir: str | Path) -> dict[str, str]:
    """This process's environment, less what would make a headless run differ from the next.

    Args:
        ipython_dir: an empty folder in place of the user's profile, whose start-up files and
            history are no part of a lesson.

    One compute thread unless `OMP_NUM_THREADS` says otherwise: the models of the lessons are too
    small for more, sums come out in the same order on every machine, and lessons that run beside
    each other do not fight for the cores.
    """
    environment = dict(os.environ)
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
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, (cores or 1) // jobs)
    asked = {name: os.environ[name] for name in THREADS if name in os.environ}
    asked.setdefault("OMP_NUM_THREADS", "1")
    if jobs == 1:
        return asked
    return {name: str(min(share, _first(value) or share)) for name, value in asked.items()}


def _first(value: str) -> int:
    """The number in `4`, or the outermost in `4,2`; 0 where there is none."""
    first = value.split(",")[0].strip()
    return int(first) if first.isdigit() else 0
