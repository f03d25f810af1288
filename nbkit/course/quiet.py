"""A quiet machine for the lessons that need one: what times several processes runs beside nothing.

Two processes on two cores, and another lesson on one of them: the timings would be of the company.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

from nbkit.course.client import Stopped
from nbkit.lab.claims import all_claims

WAIT_SECONDS = 0.1


def needs_quiet(lesson: str) -> bool:
    """Whether a lesson has a claim on the time that several processes take side by side."""
    claims = all_claims().values()
    return any(claim.lesson == lesson and "two cores" in claim.needs for claim in claims)


@contextlib.contextmanager
def company(alone: bool, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Have the machine alone, or share it with the lessons that do not mind; wait for either.

    Args:
        alone: whether this lesson needs the machine to itself.
        stopped: asked while waiting whether to give up.
    Raises:
        Stopped: if it was.

    The locks are files', which all runs of this user on this machine go by, and which the system
    lifts from a process that is killed. Where there are none (Windows), nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return

    with contextlib.ExitStack() as held:
        # Who waits to be alone waits in the door: those who come later cannot overtake for ever.
        with _locked("door", fcntl.LOCK_EX, stopped):
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            held.enter_context(_locked("machine", kind, stopped))
        yield


@contextlib.contextmanager
def _locked(name: str, kind: int, stopped: Callable[[], bool]) -> Iterator[None]:
    import fcntl

    with Path(tempfile.gettempdir(), f"nbkit-{os.getuid()}-{name}.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopped():
                    raise Stopped from None
                sleep(WAIT_SECONDS)
        yield
