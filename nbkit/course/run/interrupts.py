"""Ignore further interrupts while a stopped run writes its records and its page."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_interrupts() -> None:
    """Ignore further Ctrl-C and SIGTERM; call it inside `keep_handlers`, which undoes it."""
    # Python lets only the main thread set handlers, and only this thread gets interrupts.
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def keep_handlers() -> Iterator[None]:
    """Restore the handlers of Ctrl-C and SIGTERM at the end; outside the main thread do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python, and so has not been changed here.
            if handler is not None:
                signal.signal(number, handler)
