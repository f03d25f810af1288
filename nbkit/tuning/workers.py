"""Train the trials of a rung: here, in threads of this process, or in other processes.

A paused generator cannot leave its process. Threads share it. Another process has to train a
configuration again from its start; these steps are made, so they are counted.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from nbkit.base.pickling import pickle_value
from nbkit.base.state import delay_interrupts, digest, preserve_state
from nbkit.tuning.trial import Config, Train, Trial, close_all

Advance = Callable[[Sequence[Trial], int], None]


def choose_workers(train: Train, average: int, executor: Any) -> Advance:
    """Return the function that trains a list of trials on to an update.

    Raises:
        TypeError: if the executor has no `submit`.
    """
    if executor is None:
        return lambda trials, until: _advance_here(train, average, trials, until)
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor must have a method `submit`, as those of concurrent.futures and a dask "
            f"client's get_executor() have, got a {type(executor).__name__}."
        )
    if isinstance(executor, ThreadPoolExecutor):
        return lambda trials, until: _advance_in_threads(train, average, executor, trials, until)
    return lambda trials, until: _advance_elsewhere(train, average, executor, trials, until)


def train_from_start(data: bytes) -> tuple[float, int]:
    """Train one pickled trial from its start; return its score and the steps that were made.

    Another process runs this. It keeps nothing: the generators are closed before it returns.
    """
    train, config, seeds, average, until = pickle.loads(data)
    trial = Trial(0, config, seeds)
    trial.start(train, average, own_random=True)
    with close_all([trial]):
        trial.advance(until)
    return trial.score, trial.steps


def _advance_here(train: Train, average: int, trials: Sequence[Trial], until: int) -> None:
    for trial in trials:
        if not trial.runs:
            trial.start(train, average, own_random=True)
        trial.advance(until)


def _advance_in_threads(
    train: Train, average: int, executor: Any, trials: Sequence[Trial], until: int
) -> None:
    """Let each thread resume paused generators.

    Raises:
        RuntimeError: if a training has used the random state that all threads share.
    """
    for trial in trials:
        if not trial.runs:
            trial.start(train, average, own_random=False)
    with preserve_state():
        before = digest()  # of the random state alone
        with _await_futures(trials) as futures, delay_interrupts():
            for trial in trials:
                futures.append(executor.submit(trial.advance, until))
        if digest() != before:
            raise RuntimeError(
                "train uses the global random state, of torch, random or numpy. Threads share it, "
                "so that no result could be repeated. Draw from a torch.Generator made in train, "
                "or use processes, or leave the executor out."
            )


def _advance_elsewhere(
    train: Train, average: int, executor: Any, trials: Sequence[Trial], until: int
) -> None:
    """Have other processes train each trial from its start."""
    tasks = []
    for trial in trials:
        work: tuple[Train, Config, Sequence[int], int, int]
        work = (train, trial.config, trial.seeds, average, until)
        tasks.append(pickle_value(work, "train"))
    with _await_futures(trials) as futures, delay_interrupts():
        for task in tasks:
            futures.append(executor.submit(train_from_start, task))
    for trial, future in zip(trials, futures, strict=True):
        trial.score, steps = future.result()
        trial.steps += steps  # the steps before this rung were made again


@contextlib.contextmanager
def _await_futures(trials: Sequence[Trial]) -> Iterator[list[Future[Any]]]:
    """Wait for the futures that the block collects; after an error or Ctrl-C, drop the others."""
    futures: list[Future[Any]] = []
    try:
        yield futures
        # Not one after the other: an error must not wait for a long training before it.
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    except BaseException:
        with delay_interrupts():
            for trial in trials:
                trial.stop()
            for future in futures:
                future.cancel()
            # A generator that is running in a thread cannot be closed: let it reach its pause.
            if any(trial.runs for trial in trials):
                wait(futures)
        raise
