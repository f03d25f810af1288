"""What a kernel sees when nobody watches: papermill's and nbval's kernels start with the same."""

from __future__ import annotations

import os
from pathlib import Path


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
