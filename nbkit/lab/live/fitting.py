"""One call of a fit function: in slices, apart from the notebook, drawn as one PNG.

A fit function trains something small and draws what it sees on the figure that it is given:

    def fit(fig, *, lr, momentum):
        (line,) = fig.add_subplot().plot([], [])
        for step in train(...):
            if step.index % 10 == 0:
                line.set_data(...)      # to clear the axes and plot again would take 5 ms
                yield                   # here the picture may be redrawn, or this run dropped
        return "94 % of the test set"   # one line of text

It should yield every 20 ms or so: between two yields it cannot be stopped. A parameter `seeds` is
no knob: a fit that has it gets a range of seeds, few of them at first while a slider moves.
The sliders (`nbkit.lab.live.explorer`) and a headless run call it through the same `Fitting`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from nbkit.base.numbers import read_integer
from nbkit.lab.knobs import Knob, Value, check_names
from nbkit.lab.live.isolation import RandomState, collect_pyplot_figures
from nbkit.lab.live.picture import Picture
from nbkit.lab.runs.training import one_thread

Fit = Callable[..., Generator[None, None, str]]
SEEDS = "seeds"  # the parameter that is no knob: the lab chooses how many


def find_knobs(fit: Fit, knobs: Mapping[str, Knob]) -> dict[str, Knob]:
    """Find the knobs that a fit function's parameters name, in its order.

    The first parameter is the figure; one that is called `seeds` is no knob.

    Raises:
        TypeError: if fit is not a generator function, or takes `*args` or `**kwargs`.
        KnobError: if a parameter names no knob; the message suggests the nearest one.
    """
    if not inspect.isgeneratorfunction(fit):
        raise TypeError(
            f"fit must be a generator function, got {fit!r}. Write `yield` into its training loop: "
            f"there the picture may be redrawn, and the run dropped for a newer value."
        )
    parameters = list(inspect.signature(fit).parameters.values())
    # Collected parameters have no names that knobs could be looked up by.
    collecting = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    if not parameters or collecting:
        raise TypeError(
            f"fit must read `def {fit.__name__}(fig, *, lr, ...)`: a figure, then knobs by name, "
            f"got `def {fit.__name__}{inspect.signature(fit)}`."
        )
    names = [parameter.name for parameter in parameters[1:] if parameter.name != SEEDS]
    check_names(dict.fromkeys(names), knobs)
    return {name: knobs[name] for name in names}


def read_seed_count(fit: Fit, seeds: int | None) -> int | None:
    """Read how many seeds a complete run of this fit has; None if fit takes no seeds.

    Raises:
        TypeError: if fit takes seeds and none are given, or the other way round.
        ValueError: if seeds is not a whole number from 1 on.
    """
    takes = SEEDS in inspect.signature(fit).parameters
    if takes and seeds is None:
        raise TypeError(
            f"fit takes `seeds`, so the lab must know how many a complete run has: write "
            f"`explore({fit.__name__}, seeds=8)`."
        )
    if seeds is None:
        return None
    if not takes:
        raise TypeError(
            f"seeds={seeds!r} is given, but fit does not take them: write "
            f"`def {fit.__name__}(fig, *, ..., seeds)`."
        )
    count = read_integer(seeds)
    if count is None or count < 1:
        raise ValueError(f"seeds must be a whole number from 1 on, such as 8, got {seeds!r}.")
    return count


def read_start(knobs: Mapping[str, Knob], start: Mapping[str, Value]) -> dict[str, Value]:
    """Read where each knob starts: the value in `start`, or else the knob's default.

    Raises:
        KnobError: if a value is not one that its knob allows.
    """
    values = {}
    for name, knob in knobs.items():
        values[name] = knob.read_value(start.get(name, knob.default))
    return values


class Fitting:
    """Run a fit function in slices, apart from the notebook.

    Args:
        fit: the generator function; it draws on `picture.figure`.
        values: its knobs.
        picture: what it draws on, cleared first.
        seed: of the random state that it sees, the same for each run. Between two slices the
            notebook's random state, thread count and stdout are restored.
        count: number of seeds that fit gets, as a range; None if it takes none.
    """

    def __init__(
        self,
        fit: Fit,
        values: Mapping[str, Value],
        picture: Picture,
        *,
        seed: int = 0,
        count: int | None = None,
    ) -> None:
        self.values = dict(values)
        self.count = count
        self.yields = 0  # how often fit has yielded so far
        self.result = ""
        self.seconds = 0.0
        self.printed = io.StringIO()
        self._random = RandomState(seed)
        self._stray: set[int] = set()  # figures of pyplot that fit has opened
        self._figure = picture.figure
        picture.clear_figure()
        # Nothing of fit runs before the first slice.
        self._steps = self._call_fit(fit)

    def train_for(self, seconds: float = math.inf) -> bool:
        """Train for about that long, up to the next yield; return True when fit has returned.

        Raises:
            RuntimeError: if fit returned without a picture on its figure, or drew with pyplot.
            TypeError: if it returned no line of text.
        """
        start = time.perf_counter()
        try:
            with self._isolate_slice():
                for _ in self._steps:
                    self.yields += 1
                    if time.perf_counter() - start >= seconds:
                        return False
        finally:
            # Slices add up; the time between two of them belongs to the notebook.
            self.seconds += time.perf_counter() - start
        self._check_end()
        return True

    def close(self) -> None:
        """Drop the run where it is; its `finally` blocks run apart from the notebook, too."""
        with self._isolate_slice():
            self._steps.close()

    def _call_fit(self, fit: Fit) -> Generator[None, None, None]:
        """Yield whenever fit yields, and keep what it returns."""
        seeds = {} if self.count is None else {SEEDS: range(self.count)}
        self.result = yield from fit(self._figure, **self.values, **seeds)

    def _check_end(self) -> None:
        """Check, once fit has returned, that it drew on its figure and returned a line of text."""
        if self._stray or not self._figure.axes:
            drew = f"{len(self._stray)} figure(s) of pyplot" if self._stray else "nothing"
            raise RuntimeError(
                f"fit drew {drew}; it must draw on the figure that it is given. "
                f"Write `ax = fig.add_subplot()` and `ax.plot(...)` in place of `plt.plot(...)`."
            )
        if not isinstance(self.result, str):
            raise TypeError(
                f"fit must return one line of text, got {self.result!r}. "
                f"End it with `return` and a sentence about the result."
            )

    @contextlib.contextmanager
    def _isolate_slice(self) -> Iterator[None]:
        """Keep what fit changes globally apart from the notebook."""
        with (
            contextlib.redirect_stdout(self.printed),
            contextlib.redirect_stderr(self.printed),
            one_thread(),
            self._random.swap_in(),
            collect_pyplot_figures(self._stray),
        ):
            yield
