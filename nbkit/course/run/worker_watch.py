"""Notice that an executor has no workers: lessons that wait for one would wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

LOOK_SECONDS = 2.0  # asking costs a message to the scheduler


class WorkerWatch:
    """Asks an executor again and again whether it lacks workers.

    Args:
        executor: asked through its `find_lack`, which says what is missing; where it has no such
            method, nothing is ever missing.
        patience: seconds without workers after which to give up.
        tell: called with a sentence when the workers are missing, once each time.
    """

    def __init__(self, executor: Any, patience: float, tell: Callable[[str], None]) -> None:
        self.find_lack: Callable[[], str | None] = getattr(executor, "find_lack", lambda: None)
        self.patience, self.tell = patience, tell
        self._looked = -float("inf")
        self._since: float | None = None

    def find_reason(self) -> str | None:
        """The reason to give up; None while there are workers, or they may still come."""
        now = monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        lack = self.find_lack()
        if lack is None:
            self._since = None
            return None
        if self._since is None:
            self._since = now
            self.tell(f"{lack}; waiting for one, for up to {self.patience:.0f} s (--timeout).")
        if now - self._since < self.patience:
            return None
        return f"{lack}, for {self.patience:.0f} s"
