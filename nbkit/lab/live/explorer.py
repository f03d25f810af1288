"""The live lab: sliders that retrain and redraw, the newest value first; headless, its stops.

Between two cells the kernel's main loop takes the training a slice at a time and reads its messages
in between. So a newer value is seen at once, the stop button works, and no second thread shares the
notebook's random state or matplotlib with a running cell. A slider that is moved while a cell runs
waits for that cell.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping

from nbkit.lab.knobs import Knob, Value, check_values
from nbkit.lab.live.fitting import Fit, Fitting, find_knobs, read_start
from nbkit.lab.live.gc_pause import IdleCollector, freeze_old_objects
from nbkit.lab.live.headless_stops import Stops, format_value, run_stops
from nbkit.lab.live.is_live import in_vs_code, is_live
from nbkit.lab.live.picture import Picture
from nbkit.lab.live.shown_labs import forget_shown, replace_shown
from nbkit.lab.live.stop_button import StopButton

__all__ = ["Explorer", "Stops", "explore", "is_live", "run_stops", "show"]

SLICE = 0.02  # seconds of training between two looks for a newer value
BREATH = 0.002  # seconds in which the kernel reads its messages


def show(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (7, 3),
    tile: tuple[float, float] = (3.6, 2.7),
    seed: int = 0,
) -> None:
    """Show sliders if a front end can move them; otherwise show the stops, a row for each knob.

    Args:
        fit, knobs, start, seed: as for `explore` and `run_stops`.
        figsize: inches of the live picture.
        tile: inches of one picture of the row.
    """
    from IPython.display import display

    lab: Explorer | Stops
    if is_live():
        lab = explore(fit, knobs, start, figsize=figsize, seed=seed)
    else:
        lab = run_stops(fit, knobs, start, figsize=tile, seed=seed)
    display(lab)


def explore(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (7, 3),
    dpi: int = 100,
    seed: int = 0,
    every: float = 0.1,
) -> Explorer:
    """Make sliders for the knobs that `fit` names, and run it once.

    Args:
        fit: a generator function `fit(fig, *, lr, ...)`; see `nbkit.lab.live.fitting`.
        knobs: what each parameter may be; a knob that fit does not name gets no slider.
        start: first values of the sliders, by name.
        figsize: inches of the picture.
        dpi: dots per inch.
        seed: of each run: the same sliders give the same picture.
        every: seconds between two pictures of one run.
    Raises:
        TypeError, KnobError: if fit or a value does not fit; nothing has been trained.

    An exception of fit in this first run is raised here, so that the cell fails.
    """
    ui = Explorer(fit, knobs, start, figsize=figsize, dpi=dpi, seed=seed, every=every)
    try:
        ui.run()
    except BaseException:
        # The caller gets no lab that it could close.
        ui.close()
        raise
    return ui


class Explorer:
    """Hold sliders, a status line, a picture, and below it what fit printed or raised.

    `values` is what the sliders show; `result`, `seconds` and `error` are of the last run that came
    to an end, `png` is the picture; `finished`, `dropped` and `pictures` count.
    """

    def __init__(
        self,
        fit: Fit,
        knobs: Mapping[str, Knob],
        start: Mapping[str, Value],
        *,
        figsize: tuple[float, float],
        dpi: int,
        seed: int,
        every: float,
    ) -> None:
        # Here and below, not at the top: ipywidgets is slow to load, and a headless run needs none.
        from nbkit.lab.live.explorer_view import Screen, make_controls

        self.fit, self.seed, self.every = fit, seed, every
        self.knobs = find_knobs(fit, knobs)
        self.controls = make_controls(self.knobs, read_start(self.knobs, start))
        self.picture = Picture(figsize, dpi)
        self.screen = Screen(list(self.controls.values()), width=round(figsize[0] * dpi))
        self.result, self.seconds, self.png = "", 0.0, b""
        self.error: BaseException | None = None
        self.finished = self.dropped = self.pictures = 0

        self._display_id = ""  # of the stored copy, once there is one
        self._asked = self._begun = 0  # moves: how many have come, how many the last run has seen
        self._muted = False
        self._running: Fitting | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = StopButton()
        self._collector = IdleCollector()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # plain Python: a move runs at once
        for widget in self.controls.values():
            widget.observe(self._note_move, "value")

    @property
    def values(self) -> dict[str, Value]:
        """Return the values that the controls show."""
        from nbkit.lab.live.controls import read_control

        return {name: read_control(knob, self.controls[name]) for name, knob in self.knobs.items()}

    def run(self, **values: Value) -> str:
        """Set these controls, train to the end here and now, and return fit's line of text.

        Raises:
            KnobError: if a name or a value does not fit; nothing has been changed.
            Exception: any that fit raises; the page shows it, too.
        """
        self._set_controls(check_values(values, self.knobs))
        self._running = None  # drops the run that a slider has started, if there is one
        run = Fitting(self.fit, self.values, self.picture, seed=self.seed)
        try:
            run.train_for()
            self._finish_run(run)
        except BaseException as error:
            self._show_failure(error)
            raise
        return self.result

    def close(self) -> None:
        """Take the lab off the page and free its memory; a run on the way is dropped."""
        from nbkit.lab.live.explorer_view import close_tree

        # No move is left to be run, and the run on the way is no longer the current one.
        self._begun = self._asked
        self._running = None
        forget_shown(self)
        close_tree(self.screen)
        self.picture.release_memory()
        self.png = b""

    def _set_controls(self, values: Mapping[str, Value]) -> None:
        """Set controls without starting a run for each of them."""
        self._muted = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._muted = False

    def _note_move(self, _change: object) -> None:
        """React to a new value of a control.

        The message may come in another thread, which must only wake the loop.
        """
        if self._muted:
            return
        if self._loop is None:
            self.run()
        else:
            self._loop.call_soon_threadsafe(self._request_run)

    def _request_run(self) -> None:
        """Count the move, and start the task that runs it unless one is at work."""
        self._asked += 1
        self.screen.show_status("training …")
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
                    run = Fitting(self.fit, self.values, self.picture, seed=self.seed)
                    await self._train_run(run)
                except KeyboardInterrupt:
                    # The stop button applies to the moves that wait, too.
                    self._begun = self._asked
                    self.screen.show_status("stopped")
                except (Exception, SystemExit) as error:
                    # fit may call sys.exit(); the kernel must go on.
                    self._show_failure(error)
        self._collector.collect_later()

    async def _train_run(self, run: Fitting) -> None:
        """Train to the end, or until a newer value has come and a picture has been shown.

        A run that is no longer wanted goes on until its next picture is due. If it was dropped at
        once, the picture would be frozen during a long drag. Drawing takes at most a third of the
        time.
        """
        self._running, shown, pause = run, time.perf_counter(), self.every
        while True:
            with self._stop.interrupt_inside():
                if run.train_for(SLICE):
                    return self._finish_run(run)
                now = time.perf_counter()
                due = now - shown > pause
                if due and self.picture.figure.axes:
                    self._draw_picture(lay_out=False)
                    shown = time.perf_counter()
                    # Train at least twice as long as this picture took to draw.
                    pause = max(self.every, 2 * (shown - now))
            await self._stop.sleep_between(BREATH)
            # Another run may have become the current one meanwhile, such as one by `run`.
            if self._running is not run or (due and self._begun != self._asked):
                self.dropped += 1
                return run.close()

    def _draw_picture(self, *, lay_out: bool = True) -> None:
        """Draw the figure and send it to the page."""
        self.png = self.picture.draw_png(lay_out=lay_out)
        self.pictures += 1
        self.screen.image.value = self.png

    def _finish_run(self, run: Fitting) -> None:
        """Show the final picture, what fit printed and its result."""
        self._draw_picture()
        self.result, self.seconds, self.error = run.result, run.seconds, None
        self.finished += 1
        self.screen.show_printed(run.printed.getvalue())
        values = [f"{name} = {format_value(value)}" for name, value in run.values.items()]
        self.screen.labels.alt = f"{', '.join(values)}: {run.result}"
        if self._display_id:
            self._store_copy()
        # Last, since a reader waits for this line, and so does a test.
        self.screen.show_status(f"{self.result} ({self.seconds:.2f} s)")

    def _show_failure(self, error: BaseException) -> None:
        """Show an error below the picture, and in the status line that the run did not finish."""
        self.error = error
        self.screen.show_error(error)
        self.screen.show_status(f"{type(error).__name__}: this run did not finish")

    def _ipython_display_(self) -> None:
        from IPython.display import display

        replace_shown(self)
        display(self.screen)
        if not in_vs_code():  # there the copy could not be hidden
            self._display_id = self._display_id or uuid.uuid4().hex
            self._store_copy(update=False)

    def _store_copy(self, *, update: bool = True) -> None:
        """Store the picture once more, for a page without a kernel."""
        from nbkit.lab.live.explorer_view import store_picture

        store_picture(self.png, self.screen.labels.alt, self._display_id, update=update)
