"""Locks on files, which the system lifts from a process that ends, however it does.

`lock_file` is the one way to take one. `hold` waits for locks that all runs of this user on this
machine go by. Where there are no such locks (Windows, some network disks), nobody waits.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import sleep

from nbkit.course.kernel.client import Stopped

WAIT_SECONDS = 0.1


@contextlib.contextmanager
def lock_file(path: Path, *, shared: bool = False) -> Iterator[int | None]:
    """Open a file and lock it, without waiting: its descriptor, or None where it is locked already.

    Args:
        path: the file; made if it is not there. What is in it stays.
        shared: together with others that share it, or alone.
    Raises:
        OSError: if it cannot be opened, or is a link or no plain file: what is written to it would
            go somewhere else.
    """
    # Not through a symbolic link that somebody has put there, and not waiting at a pipe.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(0, "it is a link or no plain file", str(path))
        taken = _try_lock(descriptor, shared)
        removed = os.fstat(descriptor).st_nlink == 0  # its run has just ended
        yield descriptor if taken and not removed else None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    """Lock an open file unless another process has; True too where there are no locks."""
    try:
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


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
    user = os.getuid() if hasattr(os, "getuid") else "user"
    while True:
        for name in names:
            path = Path(tempfile.gettempdir(), f"nbkit-{user}-{name}.lock")
            with lock_file(path, shared=shared) as descriptor:
                if descriptor is not None:
                    yield name
                    return
        if stopped():
            raise Stopped
        sleep(WAIT_SECONDS)
