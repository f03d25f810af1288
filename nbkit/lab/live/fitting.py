"""One call of a fit function: in slices, apart from the notebook, drawn as one PNG.

A fit function trains something small and draws what it sees on the figure that it is given:

    def fit(fig, *, lr, momentum):
        (line,) = fig.add_subplot().plot([], [])
        for step in train(...):
            if step.index % 10 == 0:
                line.set_data(...)      # to clear the axes and plot again would take 5 ms
                yield                   # here the picture may be redrawn, or this run dropped
        return "94 % of the test set"   # one line of text

It should yield every 20 ms or so: between two yields nobody can stop it.
The sliders (`nbkit.lab.live.explorer`) and a headless run call it through the same `Fitting`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from nbkit.base.state import preserve_state
from nbkit.lab.knobs import Knob, Value, check_names
from nbkit.lab.runs.training import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Fit = Callable[..., Generator[None, None, str]]


def knobs_of(fit: Fit, knobs: Mapping[str, Knob]) -> dict[str, Knob]:
    """The knobs that a fit function's parameters name, in its order; the first is the figure.

    Raises:
        TypeError: if fit is not a generator function, or takes `*args` or `**kwargs`.
        KnobError: if a parameter names no knob, with the nearest one that there is.
    """
    if not inspect.isgeneratorfunction(fit):
        raise TypeError(
            f"fit must be a generator function, got {fit!r}. Write `yield` into its training loop: "
            f"there the picture may be redrawn, and the run dropped for a newer value."
        )
    parameters = list(inspect.signature(fit).parameters.values())
    if not parameters or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(
            f"fit must read `def {fit.__name__}(fig, *, lr, ...)`: a figure, then knobs by name, "
            f"got `def {fit.__name__}{inspect.signature(fit)}`."
        )
    names = [parameter.name for parameter in parameters[1:]]
    check_names(dict.fromkeys(names), knobs)
    return {name: knobs[name] for name in names}


class Picture:
    """The figure that fit functions draw on, cleared for each, and its PNG.

    One figure for all runs: a new one for each would pile up until the garbage is collected.
    """

    def __init__(self, figsize: tuple[float, float], dpi: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=figsize, dpi=dpi)
        self._canvas = FigureCanvasAgg(self.figure)
        self._births: dict[Any, Any] = {}  # where fit put each of the axes
        self._places: list[Any] = []  # where they were in the last picture that was laid out

    def clear(self) -> None:
        """Empty the figure for the next run."""
        self._births.clear()
        self.figure.clear()
        self.figure.set_layout_engine("constrained")

    def release(self) -> None:
        """Empty the figure and give its pixels back; another picture may still be drawn."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.clear()
        self._places = []
        self._canvas = FigureCanvasAgg(self.figure)  # the one before holds the last picture

    def png(self, *, lay_out: bool = True) -> bytes:
        """What the figure shows.

        Args:
            lay_out: False puts the axes where they were in the last picture that was laid out,
                which halves the time of drawing and keeps them from jumping.
        """
        axes = self.figure.axes
        for ax in axes:
            self._births.setdefault(ax, ax.get_position(original=True))
        if lay_out or len(axes) != len(self._places):
            self.figure.set_layout_engine("constrained")
            # A layout depends on where it starts: here, always where fit put the axes.
            _place(self._births.items())
            self._canvas.draw()
            self._places = [ax.get_position() for ax in axes]
        else:
            self.figure.set_layout_engine("none")
            _place(zip(axes, self._places, strict=True))
            self._canvas.draw()
        return self._encoded()

    def _encoded(self) -> bytes:
        from PIL import Image

        size = self._canvas.get_width_height()
        pixels = Image.frombuffer("RGBA", size, self._canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        buffer = io.BytesIO()
        pixels.convert("RGB").save(buffer, "png", compress_level=1)  # a third of savefig's time
        return buffer.getvalue()


def _place(places: Iterable[tuple[Any, Any]]) -> None:
    for ax, position in places:
        ax.set_position(position)
        ax.set_in_layout(True)  # set_position takes it out


class Fitting:
    """One run of a fit function, as far as it has come.

    Args:
        fit: the generator function; it draws on `picture.figure`.
        values: its knobs.
        picture: what it draws on, cleared first.
        seed: of the random state that it sees, the same for each run. The notebook's random state,
            thread count and stdout are its own again between two slices.
    """

    def __init__(
        self, fit: Fit, values: Mapping[str, Value], picture: Picture, *, seed: int = 0
    ) -> None:
        self.values = dict(values)
        self.result = ""
        self.seconds = 0.0
        self.printed = io.StringIO()
        self._random = _RandomState(seed)
        self._stray: set[int] = set()
        self._figure = picture.figure
        picture.clear()
        self._steps = self._run(fit)

    def advance(self, seconds: float = math.inf) -> bool:
        """Train for about that long, to the next yield; True when fit has returned.

        Raises:
            RuntimeError: if fit returned without a picture on its figure, or drew with pyplot.
            TypeError: if it returned no line of text.
        """
        start = time.perf_counter()
        try:
            with self._apart():
                for _ in self._steps:
                    if time.perf_counter() - start >= seconds:
                        return False
        finally:
            self.seconds += time.perf_counter() - start
        self._check()
        return True

    def close(self) -> None:
        """Drop the run where it is; its `finally` blocks are its own affair too."""
        with self._apart():
            self._steps.close()

    def _run(self, fit: Fit) -> Generator[None, None, None]:
        self.result = yield from fit(self._figure, **self.values)

    def _check(self) -> None:
        if self._stray or not self._figure.axes:
            drew = f"{len(self._stray)} figure(s) of pyplot" if self._stray else "nothing"
            raise RuntimeError(
                f"fit drew {drew}; it must draw on the figure that it is given. "
                f"Write `ax = fig.add_subplot()` and `ax.plot(...)` in place of `plt.plot(...)`."
            )
        if not isinstance(self.result, str):
            raise TypeError(f"fit must return one line of text, got {self.result!r}.")

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """What fit changes for everybody, kept apart from the notebook."""
        with (
            contextlib.redirect_stdout(self.printed),
            contextlib.redirect_stderr(self.printed),
            one_thread(),
            self._random.swapped(),
            _no_pyplot(self._stray),
        ):
            yield


class _RandomState:
    """The random state of torch, numpy and `random` that a run has to itself."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The run's random state inside, the notebook's outside."""
        with preserve_state():
            if self._own is None:
                _seed_all(self._seed)
            else:
                _set_random_state(self._own)
            try:
                yield
            finally:
                self._own = _random_state()


def _random_state() -> tuple[Any, ...]:
    import numpy as np

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_random_state(state: tuple[Any, ...]) -> None:
    import numpy as np

    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
    random.setstate(state[3])


def _seed_all(seed: int) -> None:
    import numpy as np

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def _no_pyplot(stray: set[int]) -> Iterator[None]:
    """Collect in `stray` the numbers of the figures that pyplot opens inside, and close them."""
    before = _pyplot_figures()
    try:
        yield
    finally:
        for number in _pyplot_figures() - before:
            stray.add(number)
            sys.modules["matplotlib.pyplot"].close(number)


def _pyplot_figures() -> set[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return set(pyplot.get_fignums()) if pyplot else set()
