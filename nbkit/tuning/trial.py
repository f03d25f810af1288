"""Train a configuration up to a given update, pause it there, and go on later.

A training is an iterator that yields once for each update. A generator does that, and Python keeps
it paused between two updates at no cost.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from nbkit.base.numbers import read_real
from nbkit.base.place import Place
from nbkit.base.places import find_places
from nbkit.base.state import delay_interrupts, preserve_state

Config = Mapping[str, object]
Train = Callable[[Config, int], Iterable[object]]


class PausedRun:
    """One training of one configuration with one seed, which can be paused after each update.

    Attributes:
        steps: how many updates were made.
        score: mean of the last `average` losses; `inf` before the first pause, and of a lost run.
        lost: whether a loss was NaN or infinite; the run has ended there.
    """

    def __init__(
        self, train: Train, config: Config, seed: int, average: int, *, own_random: bool
    ) -> None:
        self.config, self.seed = config, seed
        self.steps = 0
        self.score = math.inf
        self.lost = False
        self.stopped = False  # set by another thread, read after each update
        self._train, self._own_random = train, own_random
        self._losses: Iterator[object] | None = None  # made at the first update
        self._random: list[Place] = []  # the random state that the run was paused with
        self._last: deque[float] = deque(maxlen=average)

    def advance(self, until: int) -> None:
        """Train on to update `until`, and pause there; end the run at a loss that is not finite.

        Raises:
            RuntimeError: if `train` raises or ends early; the message names the configuration.
            TypeError: if it yields something that is no loss.
        """
        if self._own_random:
            with self._use_own_random_state():
                self._take_steps(until)
        else:
            self._take_steps(until)
        if self.lost:
            self.score = math.inf
            self.close()
        else:
            self.score = sum(self._last) / max(len(self._last), 1)

    def close(self) -> None:
        """Close the generator, so that it leaves its `with` and `finally` blocks."""
        losses, self._losses = self._losses, None
        # Iterators that are no generators need not have it.
        close = getattr(losses, "close", None)
        if close is not None:
            close()

    def _take_steps(self, until: int) -> None:
        while self.steps < until and not self.lost and not self.stopped:
            yielded = self._take_step(until)
            self.steps += 1
            # The losses behind the score are read, and so is every number, to stop a lost run.
            is_scored = until - self.steps < (self._last.maxlen or 1)
            if callable(yielded) and not is_scored:
                continue
            loss = self._read_loss(yielded)
            self._last.append(loss)
            self.lost = not math.isfinite(loss)

    def _take_step(self, until: int) -> object:
        """Make one update, and return what `train` yielded: a number, or a function for it."""
        try:
            if self._losses is None:
                self._losses = iter(self._train(self.config, self.seed))
            yielded = next(self._losses)
        except StopIteration:
            raise RuntimeError(
                f"{self._name_run()} ended after {self.steps} updates, expected at least {until}: "
                f"it must yield once for each of them. To give a configuration up, yield math.nan."
            ) from None
        except Exception as error:
            raise self._explain_failure(error, self.steps + 1) from error
        # The steps of nbkit.lab's loop, for example, have a `loss`.
        return getattr(yielded, "loss", yielded)

    def _read_loss(self, yielded: object) -> float:
        try:
            value = yielded() if callable(yielded) else yielded
        except Exception as error:
            raise self._explain_failure(error, self.steps) from error
        # A loss that still has its graph would warn when it is read.
        number = read_real(value.detach() if isinstance(value, torch.Tensor) else value)
        if number is None:
            raise TypeError(
                f"{self._name_run()} yielded {value!r}. Expected one number: a float, a tensor of "
                f"shape (), an object whose `loss` is one, or a function that returns one."
            )
        return number

    def _explain_failure(self, error: Exception, update: int) -> RuntimeError:
        return RuntimeError(
            f"{self._name_run()} failed at update {update}: {type(error).__name__}: {error}"
        )

    def _name_run(self) -> str:
        return f"train({dict(self.config)}, seed={self.seed})"

    @contextlib.contextmanager
    def _use_own_random_state(self) -> Iterator[None]:
        """Give the run the random state that it was paused with, and the caller's back after it."""
        with preserve_state():
            if self.steps == 0:
                _seed_everything(self.seed)
            for place in self._random:
                place.put_back(place.saved)
            yield
            # Not reached after an error: then the run does not go on.
            self._random = _copy_random_state()


class Trial:
    """One configuration with one run for each seed.

    Attributes:
        number: its index in `configs`.
        score: the mean over the seeds; `inf` if a run was lost.
        steps: how many updates were made, over all seeds.
    """

    def __init__(self, number: int, config: Config, seeds: Sequence[int]) -> None:
        self.number, self.config, self.seeds = number, config, seeds
        self.score = math.inf
        self.steps = 0
        self.runs: list[PausedRun] = []

    def start(self, train: Train, average: int, *, own_random: bool) -> None:
        """Make the runs; none begins before `advance`."""
        for seed in self.seeds:
            run = PausedRun(train, self.config, seed, average, own_random=own_random)
            self.runs.append(run)

    def advance(self, until: int) -> None:
        """Train every seed on to update `until`; one lost run ends the trial."""
        try:
            for run in self.runs:
                run.advance(until)
                if run.lost:
                    break
        finally:
            self.steps = sum(run.steps for run in self.runs)
        if any(run.lost for run in self.runs):
            self.score = math.inf
        else:
            self.score = sum(run.score for run in self.runs) / len(self.runs)

    def stop(self) -> None:
        """Have the runs pause after the update that they are in, if another thread trains them."""
        for run in self.runs:
            run.stopped = True


@contextlib.contextmanager
def close_all(trials: Sequence[Trial]) -> Iterator[None]:
    """Close every generator of the trials at the end of the block, however it ends."""
    try:
        yield
    finally:
        close_trials(trials)


def close_trials(trials: Sequence[Trial]) -> None:
    """Close every generator of the trials; an error in one does not keep the others open."""
    # A second Ctrl-C waits until all are closed. The stack calls every close, and then raises.
    with delay_interrupts(), contextlib.ExitStack() as stack:
        for trial in reversed(trials):
            for run in reversed(trial.runs):
                stack.callback(run.close)


def _seed_everything(seed: int) -> None:
    """Seed the generators that everybody shares: those of torch, `random` and numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")  # only where somebody has loaded it
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def _copy_random_state() -> list[Place]:
    """Copy the random state, of the same sources as `preserve_state` puts back."""
    places = list(find_places((), rng=True).values())
    for place in places:
        place.save_value({}, False)
    return places
