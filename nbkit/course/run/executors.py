"""Where lessons run: threads that each drive a kernel here, or any executor, by name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from nbkit.course.lessons import LessonError

LOCAL = "local"
DASK = "dask:"
CONNECT_SECONDS = 30


@contextlib.contextmanager
def open_executor(name: str, jobs: int) -> Iterator[Any]:
    """The executor of that name; what it has not begun is dropped at the end.

    Args:
        name: `local`; `dask:ADDRESS` of a scheduler; `module:callable` for any other, called with
            the number of jobs. What comes back has `submit`, whose futures have `done`, `result`
            and `cancel`; `shutdown` is called if it is there. The module may lie in the folder that
            this runs in.
        jobs: how many lessons at a time; of dask, its workers' threads are how many.
    Raises:
        LessonError: if there is no such executor, or no scheduler answers.
    """
    executor, close = _make(name, jobs)
    try:
        yield executor
    finally:
        close()


def _make(name: str, jobs: int) -> tuple[Any, Callable[[], object]]:
    if name == LOCAL:
        threads = ThreadPoolExecutor(jobs, "lesson")
        return threads, lambda: threads.shutdown(cancel_futures=True)
    if name.startswith(DASK):
        return _dask(name.removeprefix(DASK))
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise LessonError(f"the executor is local, dask:ADDRESS or module:callable, got {name!r}.")
    if os.getcwd() not in sys.path:  # a command that is installed does not look in its own folder
        sys.path.append(os.getcwd())
    try:
        make = getattr(import_module(module), attribute)
    except Exception as error:  # it is somebody's module, and may raise anything
        raise LessonError(f"there is no executor {name}: {error}.") from error
    try:
        executor = make(jobs)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise LessonError(f"{name} is no executor: called with {jobs}, {problem}.") from error
    if not hasattr(executor, "submit"):
        what = type(executor).__name__
        raise LessonError(f"{name} is no executor: it gave a {what}, which has no `submit`.")
    return executor, getattr(executor, "shutdown", lambda: None)


def _dask(address: str) -> tuple[Any, Callable[[], object]]:
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise LessonError('dask is not installed. Get it with: pip install "nbkit[cluster]"') from (
            error
        )
    try:  # a client that is given no address looks for one, and for a long time
        get_address_host_port(address)
    except ValueError as error:
        raise LessonError(
            f"after dask: comes a scheduler's address, tcp://HOST:PORT, got {address!r}: {error}."
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise LessonError(f"no dask scheduler answers at {address!r}: {error}") from error
    return DaskPool(client, address), client.close


class DaskPool:
    """A dask cluster as an executor that knows whether it has workers."""

    def __init__(self, client: Any, address: str) -> None:
        # What runs is never taken for what has run: pure=True would hand out old results.
        self._pool = client.get_executor(pure=False)
        self._client, self._address = client, address

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand a call to the cluster; its future."""
        return self._pool.submit(function, *arguments)

    def find_lack(self) -> str | None:
        """Say what the cluster lacks to run anything; None if it has a worker."""
        try:
            workers = self._client.scheduler_info()["workers"]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            return f"the dask scheduler at {self._address} does not answer any more ({error})"
        if workers:
            return None
        return (
            f"the dask scheduler at {self._address} has no workers "
            f"(start one with: dask worker {self._address} --nthreads 1)"
        )
