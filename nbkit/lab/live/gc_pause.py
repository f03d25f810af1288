"""Collect garbage when no run is waiting: all objects of torch and matplotlib take 0.25 s.

Python collects after a certain number of new objects. In the middle of a training that is to be
drawn within 0.3 s of a slider's move, a full collection would take most of that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator

IDLE = 1.0  # seconds without a move, after which the learner is looking at the picture


@contextlib.contextmanager
def freeze_old_objects() -> Iterator[None]:
    """Collect garbage only among objects that are made inside.

    If the caller has frozen objects before, do nothing: unfreezing at the end would also unfreeze
    the caller's.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class IdleCollector:
    """Collect garbage once nothing has run for a while."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def collect_later(self) -> None:
        """Collect after IDLE seconds, unless `cancel_collection` is called before."""
        self.cancel_collection()
        self._timer = asyncio.get_running_loop().call_later(IDLE, gc.collect)

    def cancel_collection(self) -> None:
        """Cancel a collection that has been planned and has not begun."""
        if self._timer is not None:
            self._timer.cancel()
