"""The notebook's stop button, for work that the kernel does between two cells."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator


class StopButton:
    """SIGINT, which a kernel ignores while no cell runs.

    Work in slices needs it twice: within a slice it interrupts, as in a cell; while the loop reads
    messages it must not, so it is noted. A cell that runs meanwhile keeps its own handler.
    """

    def __init__(self) -> None:
        self._pressed = False

    @contextlib.contextmanager
    def raises(self) -> Iterator[None]:
        """Inside, the stop button raises KeyboardInterrupt."""
        if not _has_signals():
            yield
            return
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    async def sleep(self, seconds: float) -> None:
        """Let the loop do its other work; a stop in that time is raised after it."""
        self._pressed = False
        idle = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, self._note)
        if idle and _has_signals():
            signal.signal(signal.SIGINT, self._note)
        try:
            await asyncio.sleep(seconds)
        finally:
            if signal.getsignal(signal.SIGINT) == self._note and _has_signals():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._pressed:
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self._pressed = True


def _has_signals() -> bool:
    """Only the main thread has."""
    return threading.current_thread() is threading.main_thread()
