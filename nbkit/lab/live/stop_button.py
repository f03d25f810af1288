"""The notebook's stop button, for work that the kernel does between two cells."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator


class StopButton:
    """React to SIGINT, which a kernel ignores while no cell runs.

    Work in slices needs it twice. Within a slice it interrupts, as in a cell. While the loop reads
    messages an exception would be raised in the kernel's own code; so the press is noted and raised
    afterwards. A cell that runs meanwhile keeps its own handler.
    """

    def __init__(self) -> None:
        self._pressed = False

    @contextlib.contextmanager
    def interrupt_inside(self) -> Iterator[None]:
        """Make the stop button raise KeyboardInterrupt inside; the handler before is restored."""
        if not _in_main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    async def sleep_between(self, seconds: float) -> None:
        """Let the loop do its other work for so long.

        Raises:
            KeyboardInterrupt: afterwards, if the stop button was pressed in that time.
        """
        self._pressed = False
        # Any other handler belongs to a running cell and stays.
        idle = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, self._note_press)
        if idle and _in_main_thread():
            signal.signal(signal.SIGINT, self._note_press)
        try:
            await asyncio.sleep(seconds)
        finally:
            # A cell may have installed its handler in the meantime; only ours is removed.
            if signal.getsignal(signal.SIGINT) == self._note_press and _in_main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._pressed:
            raise KeyboardInterrupt

    def _note_press(self, *_: object) -> None:
        """Note the press; called by Python as a signal handler."""
        self._pressed = True


def _in_main_thread() -> bool:
    """Return whether this thread may set signal handlers: only the main thread may."""
    return threading.current_thread() is threading.main_thread()
