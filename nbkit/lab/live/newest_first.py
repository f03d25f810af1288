"""Run the newest of many requests, in slices between the kernel's messages.

Between two cells the kernel's main loop takes the training a slice at a time and reads its messages
in between. So a newer value is seen at once, the stop button works, and no second thread shares the
notebook's random state or matplotlib with a running cell. A slider that is moved while a cell runs
waits for that cell.

A fit that takes `seeds` is first run with as many as this machine trains in time, then with all.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from nbkit.lab.live.fitting import Fitting
from nbkit.lab.live.gc_pause import IdleCollector, freeze_old_objects
from nbkit.lab.live.pace import Pace
from nbkit.lab.live.stop_button import StopButton

SLICE = 0.02  # seconds of training between two looks for a newer value
BREATH = 0.002  # seconds in which the kernel reads its messages
FIRST_PICTURE = 0.05  # seconds of training before the first picture of a run


class NewestFirst(ABC):
    """Run whatever was asked for last; a subclass makes the runs and shows them.

    Args:
        every: seconds between two pictures of one run.
        seeds: number of seeds of a complete run; None if a run has no number of seeds.
    """

    def __init__(self, *, every: float, seeds: int | None) -> None:
        self.every, self.seeds = every, seeds
        self.dropped = 0
        self._pace = Pace(seeds) if seeds else None
        self._asked = self._begun = 0  # moves: how many have come, how many the last run has seen
        self._running: Fitting | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = StopButton()
        self._collector = IdleCollector()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # plain Python: a move runs at once

    @abstractmethod
    def _start_run(self, count: int | None) -> Fitting:
        """Make the run of the values on the controls, with so many seeds."""

    @abstractmethod
    def _draw_picture(self, *, lay_out: bool = True) -> bool:
        """Draw the figure and send it to the page; False if there is nothing to draw yet."""

    @abstractmethod
    def _finish_run(self, run: Fitting, began: float) -> None:
        """Show the result of a run that began at that time."""

    @abstractmethod
    def _show_status(self, text: str) -> None:
        """Show one line of text."""

    @abstractmethod
    def _show_failure(self, error: BaseException) -> None:
        """Show an error to the learner."""

    def _request_run(self) -> None:
        """Count the move, and start the task that runs it unless one is at work."""
        self._asked += 1
        self._show_status("training …")
        if self._loop and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._run_newest())

    async def _run_newest(self) -> None:
        """Run the newest values until no newer ones have come."""
        self._collector.cancel_collection()
        with freeze_old_objects():
            while self._begun != self._asked:
                # Moves that have come together are one run, of the values that the controls show.
                self._begun = self._asked
                try:
                    await self._train_newest()
                except KeyboardInterrupt:
                    # The stop button applies to the moves that wait, too.
                    self._begun = self._asked
                    self._show_status("stopped")
                except (Exception, SystemExit) as error:
                    # fit may call sys.exit(); the kernel must go on.
                    self._show_failure(error)
        self._collector.collect_later()

    async def _train_newest(self) -> None:
        """Run the newest values: with as many seeds as are ready in time, then with all."""
        count = self._pace.choose_count() if self._pace else None
        run = self._start_run(count)
        finished = await self._train_run(run)
        # A run that turned out to be too slow was given up for one with fewer seeds.
        while self._pace and not finished and self._is_newest() and self._running is run:
            run = self._start_run(self._pace.choose_count())
            finished = await self._train_run(run)
        if finished and run.count != self.seeds and self._is_newest():
            await self._train_run(self._start_run(self.seeds), quietly=True)

    def _is_newest(self) -> bool:
        """Return whether no control has moved since the newest run began."""
        return self._begun == self._asked

    async def _train_run(self, run: Fitting, *, quietly: bool = False) -> bool:
        """Train to the end and return True, or return False when the run was given up.

        A run is given up for a newer value, or because it will come too late with so many seeds. A
        run that is no longer wanted goes on until its next picture is due. If it was dropped at
        once, the picture would be frozen during a long drag. Drawing takes at most a third of the
        time.

        Args:
            run: the run.
            quietly: True shows no picture before the last one, since a finished one is shown
                already. Such a run gives way at once.
        """
        began = shown = time.perf_counter()
        self._running, pause = run, min(self.every, FIRST_PICTURE)
        while True:
            with self._stop.interrupt_inside():
                if run.train_for(SLICE):
                    self._finish_run(run, began)
                    return True
                now = time.perf_counter()
                due = quietly or now - shown > pause
                if due and not quietly and self._draw_picture(lay_out=False):
                    shown = time.perf_counter()
                    # Train at least twice as long as this picture took to draw.
                    pause = max(self.every, 2 * (shown - now))
            await self._stop.sleep_between(BREATH)
            # Another run may have become the current one meanwhile, such as one by `run`.
            unwanted = self._running is not run or (due and not self._is_newest())
            if unwanted or (not quietly and self._is_too_slow(run, now - began)):
                self.dropped += 1
                run.close()
                return False

    def _is_too_slow(self, run: Fitting, seconds: float) -> bool:
        """Return whether this run should be begun again with fewer seeds."""
        if self._pace is None or run.count is None:
            return False
        return self._pace.is_too_slow(run.count, seconds, run.yields)
