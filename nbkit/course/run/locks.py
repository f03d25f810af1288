"""Locks that all runs of this user on this machine go by, whichever process they are in.

They are files', so the system lifts them from a process that is killed. Where there are none
(Windows), nobody waits.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import sleep

from nbkit.course.kernel.client import Stopped

WAIT_SECONDS = 0.1


@contextlib.contextmanager
def hold(
    names: Sequence[str], stopped: Callable[[], bool], *, shared: bool = False
) -> Iterator[str]:
    """Wait for the first of these locks that is free, hold it, and give its name.

    Args:
        names: of the locks, the one to be preferred first.
        stopped: asked while waiting whether to give up.
        shared: together with others that share it, or alone.
    Raises:
        Stopped: if it was.
    """
    try:
        import fcntl
    except ImportError:
        yield names[0]
        return

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        for name in names:
            with Path(tempfile.gettempdir(), f"nbkit-{os.getuid()}-{name}.lock").open("a") as file:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield name
                return
        if stopped():
            raise Stopped
        sleep(WAIT_SECONDS)
