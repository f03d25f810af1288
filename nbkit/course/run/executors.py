"""Open the executor that runs the lessons: threads of this process, dask, or any other by name.

Each thread of the local executor drives one kernel, which is a process.
"""

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
CONNECT_SECONDS = 30  # for a dask scheduler to answer


@contextlib.contextmanager
def open_executor(name: str, jobs: int) -> Iterator[Any]:
    """Open the executor of that name; at the end drop what it has not begun.

    Args:
        name: `local`; `dask:ADDRESS` of a scheduler; or `module:callable`, which is called with
            the number of jobs. The result needs a method `submit` whose futures have `done`,
            `result` and `cancel`; its `shutdown` is called if it has one. The module may stand in
            the current folder.
        jobs: number of lessons to run at once; with dask, the threads of its workers decide.
    Raises:
        LessonError: if there is no such executor, or no scheduler answers.
    """
    executor, close = _make_executor(name, jobs)
    try:
        yield executor
    finally:
        close()


def _make_executor(name: str, jobs: int) -> tuple[Any, Callable[[], object]]:
    """Make the executor of that name, and the function that closes it."""
    if name == LOCAL:
        threads = ThreadPoolExecutor(jobs, "lesson")
        return threads, lambda: threads.shutdown(cancel_futures=True)
    if name.startswith(DASK):
        return _connect_dask(name.removeprefix(DASK))
    make = _import_callable(name)
    try:
        executor = make(jobs)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise LessonError(f"{name} is no executor: called with {jobs}, {problem}.") from error
    # Checked here, so that the error names the executor and not the first lesson.
    if not hasattr(executor, "submit"):
        kind = type(executor).__name__
        raise LessonError(f"{name} is no executor: it gave a {kind}, which has no `submit`.")
    return executor, getattr(executor, "shutdown", lambda: None)


def _import_callable(name: str) -> Callable[[int], Any]:
    """Import the object that `module:callable` names."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise LessonError(f"the executor is local, dask:ADDRESS or module:callable, got {name!r}.")
    # An installed command, unlike `python -m`, does not search the current folder for modules.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        make: Callable[[int], Any] = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module may raise anything
        raise LessonError(f"there is no executor {name}: {error}.") from error
    return make


def _connect_dask(address: str) -> tuple[Any, Callable[[], object]]:
    """Connect to a dask scheduler; return an executor and the function that disconnects."""
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise LessonError('dask is not installed. Get it with: pip install "nbkit[cluster]"') from (
            error
        )
    # Checked here: a client without an address searches for a scheduler, and that takes long.
    try:
        get_address_host_port(address)
    except ValueError as error:
        raise LessonError(
            f"expected the address of a scheduler after dask:, tcp://HOST:PORT, got {address!r}: "
            f"{error}."
        ) from error
    try:
        client = Client(  # type: ignore[no-untyped-call]  # distributed has no annotations
            address, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise LessonError(f"no dask scheduler answers at {address!r}: {error}") from error
    return DaskPool(client, address), client.close


class DaskPool:
    """Submit calls to a dask cluster, and find out whether it has workers."""

    def __init__(self, client: Any, address: str) -> None:
        # pure=True would reuse the result of an earlier call with the same arguments.
        self._pool = client.get_executor(pure=False)
        self._client, self._address = client, address

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Submit a call to the cluster and return its future."""
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
