"""Ctrl-C while a run is being stopped: its records and its page are written all the same."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_interrupts() -> None:
    """Ignore further Ctrl-C and SIGTERM; call it inside `keep_handlers`, which undoes it."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def keep_handlers() -> Iterator[None]:
    """Put back the handlers of Ctrl-C and SIGTERM at the end; only a main thread can set any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python, and so not changed here
                signal.signal(number, handler)
