"""Garbage is collected when nobody waits: to go through all of torch and matplotlib takes 0.25 s.

Python does that now and then, whenever enough new objects have come; in the middle of a training
that is to be drawn within 0.3 s of a slider's move, it is most of the time there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator

IDLE = 1.0  # seconds without a move, after which somebody is looking at the picture


@contextlib.contextmanager
def old_objects_kept() -> Iterator[None]:
    """Look for garbage among the objects that are made inside only.

    Where somebody has frozen objects before, nothing is done: theirs would be thawed with ours.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Tidy:
    """Collects what has been left over, when nothing has run for a while."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def later(self) -> None:
        """Collect in a moment, unless `not_now` is called before."""
        self.not_now()
        self._timer = asyncio.get_running_loop().call_later(IDLE, gc.collect)

    def not_now(self) -> None:
        """Leave it for another time."""
        if self._timer is not None:
            self._timer.cancel()
