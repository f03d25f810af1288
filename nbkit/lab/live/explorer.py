"""The live lab: sliders that retrain and redraw, the newest value first; headless, its stops."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from nbkit.lab.knobs import Knob, Value, check_values
from nbkit.lab.live.fitting import Fit, Fitting, find_knobs, read_seed_count, read_start
from nbkit.lab.live.headless_stops import Stops, run_stops
from nbkit.lab.live.is_live import in_vs_code, is_live
from nbkit.lab.live.newest_first import NewestFirst
from nbkit.lab.live.picture import Picture
from nbkit.lab.live.shown_labs import forget_shown, replace_shown

__all__ = ["Explorer", "Stops", "explore", "is_live", "run_stops", "show"]


def show(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (7, 3),
    tile: tuple[float, float] = (3.6, 2.7),
    seed: int = 0,
    seeds: int | None = None,
) -> None:
    """Show sliders if a front end can move them; otherwise show the stops, a row for each knob.

    Args:
        fit, knobs, start, seed, seeds: as for `explore` and `run_stops`.
        figsize: inches of the live picture.
        tile: inches of one picture of the row.
    """
    from IPython.display import display

    lab: Explorer | Stops
    if is_live():
        lab = explore(fit, knobs, start, figsize=figsize, seed=seed, seeds=seeds)
    else:
        lab = run_stops(fit, knobs, start, figsize=tile, seed=seed, seeds=seeds)
    display(lab)


def explore(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (7, 3),
    dpi: int = 100,
    seed: int = 0,
    seeds: int | None = None,
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
        seeds: number of seeds of a complete run, for a fit that takes `seeds`. After a move it is
            first called with fewer, if this machine would take too long for all.
        every: seconds between two pictures of one run.
    Raises:
        TypeError, ValueError: if fit, a value or seeds do not fit; nothing has been trained.

    An exception of fit in this first run is raised here, so that the cell fails.
    """
    ui = Explorer(fit, knobs, start, figsize=figsize, dpi=dpi, seed=seed, seeds=seeds, every=every)
    try:
        ui.run()
    except BaseException:
        # The caller gets no lab that it could close.
        ui.close()
        raise
    return ui


class Explorer(NewestFirst):
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
        seeds: int | None,
        every: float,
    ) -> None:
        # Here and below, not at the top: ipywidgets is slow to load, and a headless run needs none.
        from nbkit.lab.live.explorer_view import Screen, make_controls

        self.fit, self.seed = fit, seed
        self.knobs = find_knobs(fit, knobs)
        super().__init__(every=every, seeds=read_seed_count(fit, seeds))
        self.controls = make_controls(self.knobs, read_start(self.knobs, start))
        self.picture = Picture(figsize, dpi)
        self.screen = Screen(list(self.controls.values()), width=round(figsize[0] * dpi))
        self.result, self.seconds, self.png = "", 0.0, b""
        self.error: BaseException | None = None
        self.finished = self.pictures = 0

        self._display_id = ""  # of the stored copy, once there is one
        self._muted = False
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
        began, run = time.perf_counter(), self._start_run(self.seeds)
        try:
            run.train_for()
            self._finish_run(run, began)
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

    def _start_run(self, count: int | None) -> Fitting:
        values = self.values
        self.picture.ghosts.start_run(values)
        return Fitting(self.fit, values, self.picture, seed=self.seed, count=count)

    def _draw_picture(self, *, lay_out: bool = True) -> bool:
        # The last picture, which is laid out, is drawn in any case.
        if not lay_out and not self.picture.has_content():
            return False
        self.png = self.picture.draw_png(lay_out=lay_out)
        self.pictures += 1
        self.screen.image.value = self.png
        return True

    def _finish_run(self, run: Fitting, began: float) -> None:
        from nbkit.lab.live import explorer_view

        self._draw_picture()
        self.picture.ghosts.finish_run(run.values, self.picture.figure)
        self.result, self.seconds, self.error = run.result, run.seconds, None
        self.finished += 1
        if self._pace and run.count:
            self._pace.note_run(run.values, run.count, time.perf_counter() - began, run.yields)
        self.screen.show_printed(run.printed.getvalue())
        self.screen.labels.alt = explorer_view.describe_picture(run)
        if self._display_id:
            self._store_copy()
        # Last, since a reader waits for this line, and so does a test.
        self.screen.show_status(explorer_view.describe_end(run, self.seeds))

    def _show_status(self, text: str) -> None:
        self.screen.show_status(text)

    def _show_failure(self, error: BaseException) -> None:
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
