"""The live lab: sliders that retrain and redraw, the newest value first; headless, its stops.

Between two cells the kernel's main loop takes the training a slice at a time and reads its messages
in between. So a newer value is seen at once, the stop button works, and no second thread shares the
notebook's random state or matplotlib with a running cell. A slider that is moved while a cell runs
waits for that cell.
"""

from __future__ import annotations

import asyncio
import base64
import time
import traceback
import uuid
from collections.abc import Mapping
from typing import Any

from nbkit.lab.knobs import Knob, Value, check_values
from nbkit.lab.live.fitting import Fit, Fitting, Picture, knobs_of
from nbkit.lab.live.gc_pause import Tidy, old_objects_kept
from nbkit.lab.live.headless_stops import Stops, format_value, static
from nbkit.lab.live.is_live import in_vs_code, is_live
from nbkit.lab.live.shown_labs import forget_shown, replace_shown
from nbkit.lab.live.stop_button import StopButton

__all__ = ["Explorer", "Stops", "explore", "is_live", "show", "static"]

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
    """Sliders where somebody can move them, the stops in a row where nobody can.

    Args:
        fit, knobs, start, seed: as for `explore` and `static`.
        figsize: inches of the live picture.
        tile: inches of one picture of the row.
    """
    from IPython.display import display

    if is_live():
        display(explore(fit, knobs, start, figsize=figsize, seed=seed))
    else:
        display(static(fit, knobs, start, figsize=tile, seed=seed))


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
    """Sliders for the knobs that `fit` names, and the picture that it draws.

    Args:
        fit: a generator function `fit(fig, *, lr, ...)`; see `nbkit.lab.live.fitting`.
        knobs: what each parameter may be; a knob that fit does not name gets no slider.
        start: where the sliders stand at first, by name.
        figsize: inches of the picture.
        dpi: dots per inch.
        seed: of each run: the same sliders, the same picture.
        every: seconds between two pictures of one run.
    Raises:
        TypeError, KnobError: if fit or a value does not fit; nothing has been trained.

    The first run happens here: what it raises is the cell's error.
    """
    ui = Explorer(fit, knobs, start, figsize=figsize, dpi=dpi, seed=seed, every=every)
    try:
        ui.run()
    except BaseException:
        ui.close()
        raise
    return ui


class Explorer:
    """Sliders, a status line, a picture, and below it what fit printed or raised.

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
        from nbkit.lab.live.explorer_view import Screen

        self.fit, self.seed, self.every = fit, seed, every
        self.knobs = knobs_of(fit, knobs)
        values = {
            name: knob.read_value(start.get(name, knob.default))
            for name, knob in self.knobs.items()
        }
        self.controls = _make_controls(self.knobs, values)
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
        self._tidy = Tidy()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # plain Python: a move runs at once
        for widget in self.controls.values():
            widget.observe(self._moved, "value")

    @property
    def values(self) -> dict[str, Value]:
        """What the controls show."""
        from nbkit.lab.live.controls import read

        return {name: read(knob, self.controls[name]) for name, knob in self.knobs.items()}

    def run(self, **values: Value) -> str:
        """Set these controls, train to the end here and now, and return fit's line of text.

        Raises:
            KnobError: if a name or a value does not fit; nothing has been changed.
            Whatever fit raises.
        """
        self._set(check_values(values, self.knobs))
        self._running = None  # drops the run that a slider has started, if there is one
        run = Fitting(self.fit, self.values, self.picture, seed=self.seed)
        try:
            run.advance()
            self._finish(run)
        except BaseException as error:
            self._fail(error)
            raise
        return self.result

    def close(self) -> None:
        """Take the lab off the page and give back its memory; a run on the way is dropped."""
        from nbkit.lab.live.explorer_view import close_tree

        self._begun = self._asked
        self._running = None
        forget_shown(self)
        close_tree(self.screen)
        self.picture.release()
        self.png = b""

    def _set(self, values: Mapping[str, Value]) -> None:
        """Set controls without a run of their own."""
        self._muted = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._muted = False

    def _moved(self, _change: object) -> None:
        """A control has a new value; in whatever thread the message came, only wake the loop."""
        if self._muted:
            return
        if self._loop is None:
            self.run()
        else:
            self._loop.call_soon_threadsafe(self._ask)

    def _ask(self) -> None:
        self._asked += 1
        self.screen.say("training …")
        if self._loop and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._follow())

    async def _follow(self) -> None:
        """Run the newest values until no newer ones have come."""
        self._tidy.not_now()
        with old_objects_kept():
            while self._begun != self._asked:
                self._begun = self._asked
                try:
                    run = Fitting(self.fit, self.values, self.picture, seed=self.seed)
                    await self._train(run)
                except KeyboardInterrupt:
                    self._begun = self._asked  # the stop button means the moves that wait, too
                    self.screen.say("stopped")
                except (Exception, SystemExit) as error:
                    self._fail(error)
        self._tidy.later()

    async def _train(self, run: Fitting) -> None:
        """One run to its end, or until a newer value has come and a picture has been shown.

        A run that is no longer wanted lives until its next picture is due. Dropped at once, a long
        drag would be a frozen picture. Drawing takes at most a third of the time.
        """
        self._running, shown, pause = run, time.perf_counter(), self.every
        while True:
            with self._stop.raises():
                if run.advance(SLICE):
                    return self._finish(run)
                now = time.perf_counter()
                due = now - shown > pause
                if due and self.picture.figure.axes:
                    self._draw(lay_out=False)
                    shown = time.perf_counter()
                    pause = max(self.every, 2 * (shown - now))
            await self._stop.sleep(BREATH)
            if self._running is not run or (due and self._begun != self._asked):
                self.dropped += 1
                return run.close()

    def _draw(self, *, lay_out: bool = True) -> None:
        self.png = self.picture.png(lay_out=lay_out)
        self.pictures += 1
        self.screen.image.value = self.png

    def _finish(self, run: Fitting) -> None:
        self._draw()
        self.result, self.seconds, self.error = run.result, run.seconds, None
        self.finished += 1
        self.screen.show_printed(run.printed.getvalue())
        values = [f"{name} = {format_value(value)}" for name, value in run.values.items()]
        self.screen.names.alt = f"{', '.join(values)}: {run.result}"
        if self._display_id:
            self._store()
        # Last, since a reader waits for this line, and so does a test.
        self.screen.say(f"{self.result} ({self.seconds:.2f} s)")

    def _fail(self, error: BaseException) -> None:
        self.error, frames = error, error.__traceback__
        while frames and frames.tb_frame.f_globals.get("__name__", "").startswith("nbkit.lab."):
            frames = frames.tb_next  # begin at the reader's own line
        self.screen.show_error("".join(traceback.format_exception(type(error), error, frames)))
        self.screen.say(f"{type(error).__name__}: this run did not finish")

    def _ipython_display_(self) -> None:
        from IPython.display import display

        replace_shown(self)
        display(self.screen)
        if not in_vs_code():  # there the copy could not be hidden
            self._display_id = self._display_id or uuid.uuid4().hex
            self._store(update=False)

    def _store(self, *, update: bool = True) -> None:
        """The picture as an ordinary output, for a page without a kernel."""
        from IPython.display import display

        alt = self.screen.names.alt
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": alt}
        metadata = {"image/png": {"alt": alt}}
        display(data, raw=True, metadata=metadata, display_id=self._display_id, update=update)


def _make_controls(knobs: Mapping[str, Knob], values: Mapping[str, Value]) -> dict[str, Any]:
    """A widget for each knob; if one has none, those before it are closed again."""
    from nbkit.lab.live.controls import control
    from nbkit.lab.live.explorer_view import close_tree

    made: dict[str, Any] = {}
    try:
        for name, knob in knobs.items():
            made[name] = control(knob, values[name])
    except BaseException:
        for widget in made.values():
            close_tree(widget)
        raise
    return made
