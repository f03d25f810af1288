"""Notice that an executor has no workers, so that lessons do not wait forever for one."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

LOOK_SECONDS = 2.0  # each question costs a message to the scheduler


class WorkerWatch:
    """Ask an executor again and again whether it lacks workers.

    Args:
        executor: asked through its method `find_lack`, which says what is missing; an executor
            without this method never lacks anything.
        patience: seconds without workers after which to give up.
        show: called with a sentence each time that the workers begin to be missing.
    """

    def __init__(self, executor: Any, patience: float, show: Callable[[str], None]) -> None:
        self.find_lack: Callable[[], str | None] = getattr(executor, "find_lack", lambda: None)
        self.patience, self.show = patience, show
        self._looked = -float("inf")  # time of the last question
        self._since: float | None = None  # time since which workers are missing

    def find_reason(self) -> str | None:
        """Return the reason to give up; None while there are workers or they may still come."""
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
            self.show(f"{lack}; waiting for one, for up to {self.patience:.0f} s (--timeout).")
        if now - self._since < self.patience:
            return None
        return f"{lack}, for {self.patience:.0f} s"
