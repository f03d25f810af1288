"""Keep two processes waiting for functions, so that a notebook's cell need not start them."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path
from typing import Any

from nbkit.base.pickling import pickle_value
from nbkit.base.state import delay_interrupts
from nbkit.base.whole_file import write_whole
from nbkit.ddp import launch, rank
from nbkit.lab.evidence.claims import NEEDS

# Seconds between two looks for a file: of the notebook, and of a rank that has waited for long.
LOOK, IDLE_LOOK = 0.01, 0.03


def start_ranks() -> Ranks | None:
    """Start two processes in the background; where that is impossible, print what follows."""
    if NEEDS["two processes"]():
        return Ranks()
    print("This machine cannot start two processes: nothing is run here, the claims that need")
    print("them are SKIPPED. Linux, macOS or WSL can; the stored lesson shows what they saw.")
    return None


class Ranks:
    """Keep two processes that wait for functions: `ranks(fn)` is `launch(fn)` without the start.

    They start in the background, and end with `close()` or with this process. The next call after
    that starts them again. If a rank raises, both end, and that call raises a LaunchError. An
    interrupt (Stop, Ctrl-C) in a call ends both at once.
    """

    def __init__(self) -> None:
        self._start_ranks()

    def _start_ranks(self) -> None:
        # Calls and values are files in this folder, numbered from 1.
        self._folder = tempfile.TemporaryDirectory(prefix="nbkit-ranks-")
        self._calls, self._is_over = 0, False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._launch_ranks, daemon=True)
        self._thread.start()

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Run a function on both ranks and return their values."""
        waiting = self.iterate(fn, *args, **kwargs)
        try:
            while True:
                next(waiting)
        except StopIteration as end:
            values: list[Any] = end.value
            return values
        except KeyboardInterrupt:
            # Otherwise the ranks would go on computing. A second interrupt must not prevent it.
            with delay_interrupts():
                self._stop_ranks()
            raise

    def iterate(
        self, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Generator[None, None, list[Any]]:
        """Run a function on both ranks, with a yield at each look for their values.

        If nobody asks for the values any more, the ranks finish the call all the same, and the next
        one waits for that.
        """
        if self._is_over:
            self._thread.join()
            self._folder.cleanup()
            self._start_ranks()
        values = self._send_call(fn, args, kwargs)
        while not all(value.exists() for value in values):
            if not self._thread.is_alive():
                self._is_over = True  # a later call starts two new ones
                raise self._error or RuntimeError("the two processes have ended by themselves.")
            time.sleep(LOOK)
            yield
        return [pickle.loads(value.read_bytes()) for value in values]

    def close(self) -> None:
        """End the two processes; they stop using the cores until the next call."""
        if self._thread.is_alive():
            write_whole(Path(self._folder.name, "end"), b"", durable=False)
            self._thread.join()
        self._folder.cleanup()
        self._is_over = True

    def _send_call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Path]:
        """Write the call into the folder; return the files that the values will be in."""
        folder, name = Path(self._folder.name), getattr(fn, "__name__", str(fn))
        data = pickle_value((fn, args, kwargs), name)
        self._calls += 1
        write_whole(folder / f"call_{self._calls}", data, durable=False)
        return [folder / f"value_{self._calls}_{number}" for number in (0, 1)]

    def _stop_ranks(self) -> None:
        """Have the ranks kill themselves, in the midst of a call."""
        Path(self._folder.name, "stop").touch()
        self._is_over = True

    def _launch_ranks(self) -> None:
        try:
            launch(_wait_for_calls, self._folder.name, backend="gloo", timeout=None)
        except BaseException as error:  # the call that waits for a value raises it
            self._error = error


def _wait_for_calls(name: str) -> None:
    """Run one call after the other on this rank, until a file says to end."""
    folder = Path(name)
    threading.Thread(target=_end_when_stopped, args=(folder,), daemon=True).start()
    for number in count(1):
        call, since = folder / f"call_{number}", time.monotonic()
        while not call.exists():
            # Looked for only between calls: a call that has begun is finished.
            if (folder / "end").exists():
                return
            # A rank that has waited for a second looks less often, and so takes less of a core.
            time.sleep(LOOK / 2 if time.monotonic() < since + 1 else IDLE_LOOK)
        fn, args, kwargs = pickle.loads(call.read_bytes())
        value = pickle_value(fn(*args, **kwargs), f"what {getattr(fn, '__name__', fn)} returned")
        write_whole(folder / f"value_{number}_{rank()}", value, durable=False)


def _end_when_stopped(folder: Path) -> None:
    """Kill this launch's processes, which are one group, when the caller has been interrupted."""
    # The folder is gone if the caller has started two others meanwhile.
    while folder.exists() and not (folder / "stop").exists():
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)
