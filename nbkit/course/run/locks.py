"""Lock files; the system releases the locks of a process that ends, however it ends.

`lock_file` takes every lock of the course. `hold_free_lock` waits for locks that all runs of this
user on this machine respect. Where the system has no such locks (Windows, some network disks), no
run waits.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import sleep

from nbkit.course.kernel.polling import Stopped

WAIT_SECONDS = 0.1  # between two attempts at a lock


@contextlib.contextmanager
def lock_file(path: Path, *, shared: bool = False) -> Iterator[int | None]:
    """Open a file and lock it without waiting; give its descriptor, or None if it is locked.

    Args:
        path: the file; created if it does not exist. Its content stays.
        shared: allow other shared locks on the file at the same time.
    Raises:
        OSError: if the file cannot be opened, is a link or is not a plain file: what is written to
            it would go somewhere else.
    """
    # O_NOFOLLOW refuses a symbolic link; O_NONBLOCK does not wait for the reader of a pipe.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(0, "it is a link or no plain file", str(path))
        taken = _try_lock(descriptor, shared)
        # A run that ends removes its file: a lock on a removed file keeps out no other run.
        removed = os.fstat(descriptor).st_nlink == 0
        yield descriptor if taken and not removed else None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    """Lock an open file unless another process holds it; True if the system has no locks."""
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
def hold_free_lock(
    names: Sequence[str], is_stopped: Callable[[], bool], *, shared: bool = False
) -> Iterator[str]:
    """Wait until one of these locks is free, hold it, and give its name.

    Args:
        names: of the locks, in the order of preference.
        is_stopped: asked while waiting whether to give up.
        shared: allow other shared holders at the same time.
    Raises:
        Stopped: if `is_stopped` says so.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    while True:
        for name in names:
            path = Path(tempfile.gettempdir(), f"nbkit-{user}-{name}.lock")
            with lock_file(path, shared=shared) as descriptor:
                if descriptor is not None:
                    yield name
                    return
        # Asked after the first attempt: a free lock is taken in any case.
        if is_stopped():
            raise Stopped
        sleep(WAIT_SECONDS)
