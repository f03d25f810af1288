"""Sound timing, memory and work: numbers that can stand beside a claim.

Seconds on a busy machine say little; the ratio of two arms timed in turn says more, since what
slows one slows the other.
"""

from __future__ import annotations

import gc
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median, quantiles
from typing import TYPE_CHECKING

import torch

from nbkit.base.report import Report, ensure_axes
from nbkit.lab import plots
from nbkit.lab.cost.busy import Load, load_since, read_cores
from nbkit.lab.cost.flops import flops
from nbkit.lab.cost.memory import MemoryReport, memory_report
from nbkit.lab.cost.rounds import time_rounds
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.machine import read_machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MemoryReport", "Timing", "flops", "memory_report", "time_call", "time_it"]

# With fewer, the smallest and the largest do not hold the median with 95 % confidence.
FEWEST = 6
# An arm is noisy where the middle 80 % of its repeats lie further apart than that share of their
# median. For normal noise that is a standard deviation of 10 %, where pyperf warns too; more than
# a tenth of the repeats held up by other work, or a change of pace half-way, counts as well.
NOISY = 0.25
# Reading the clock takes a microsecond or so: that must not be a tenth of a call.
BRIEF = 1e-5
BUDGET_SECONDS = 120.0


@dataclass
class Timing(Report):
    """What each arm took, call by call; of one round are the entries with the same index.

    Attributes:
        seconds: of each arm, an entry a round.
        warmup: the same for the rounds before, which count nowhere.
        steady: whether the arms had come to a steady pace when the warm-up ended.
        machine: the hardware and the versions (`nbkit.lab.machine`).
        unfinished: what the time budget did not allow; empty if everything was done.
        load: what other programs used of the cores meanwhile.
    """

    seconds: dict[str, list[float]]
    warmup: dict[str, list[float]] = field(default_factory=dict)
    steady: bool = False
    machine: dict[str, object] = field(default_factory=dict)
    unfinished: str = ""
    load: Load | None = None

    def median(self, arm: str) -> Interval:
        """The median seconds of a call, with its 95 % interval, which assumes no distribution.

        Source: scipy.stats.quantile_test (order statistics, the binomial distribution).
        """
        from scipy.stats import quantile_test

        seconds = self._seconds_of(arm)
        low, high = quantile_test(seconds, p=0.5).confidence_interval(0.95)
        return Interval(median(seconds), float(low), float(high), len(seconds), over="rounds")

    def ratio(self, arm: str, to: str) -> Interval:
        """Seconds of `arm` over those of `to`, paired by round: below 1 is faster.

        The rounds of one process share its memory layout, which may change a ratio by a fifth and
        more. So this decides no claim over timings: `time_in_processes` measures for that.
        """
        ratio = paired_ratio(self._seconds_of(arm), self._seconds_of(to), over="rounds")
        return replace(ratio, load=self.load)

    def spread(self, arm: str) -> float:
        """From the first to the ninth decile of an arm's seconds, as a share of their median."""
        return spread_of(self._seconds_of(arm))

    @property
    def noisy(self) -> list[str]:
        """The arms whose repeats spread by more than a quarter (NOISY); none on a quiet machine."""
        return [arm for arm in self.seconds if self.spread(arm) > NOISY]

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """A line on how it was measured, and a row for each arm."""
        first = next(iter(self.seconds))
        columns = ["arm", "median", "95% interval", "spread", f"time relative to {first}"]
        rows: list[list[object]] = []
        for arm in self.seconds:
            middle, spread = self.median(arm), f"{self.spread(arm):.0%}"
            between = f"{_format_seconds(middle.low)} to {_format_seconds(middle.high)}"
            ratio = "1" if arm == first else str(self.ratio(arm, first))
            rows.append([arm, _format_seconds(middle.estimate), between, spread, ratio])
        return self._describe_timing(), columns, rows

    def to_dict(self) -> dict[str, object]:
        """Every field, and what follows from them, as plain JSON."""
        first, *others = self.seconds
        medians = {arm: self.median(arm).to_dict() for arm in self.seconds}
        ratios = {arm: self.ratio(arm, first).to_dict() for arm in others}
        told = {"medians": medians, "ratios": ratios, "relative_to": first, "noisy": self.noisy}
        return super().to_dict() | told

    def plot(self, ax: Axes | None = None) -> Axes:
        """Every call a dot, an arm a row, its median's interval a bar; returns the axes."""
        ax = ensure_axes(ax)
        unit, name = _choose_time_unit(max(max(seconds) for seconds in self.seconds.values()))
        palette = (plots.BASELINE, plots.TECHNIQUE, plots.BEST, plots.QUIET)
        for row, (arm, seconds) in enumerate(self.seconds.items()):
            color, middle = palette[row % len(palette)], self.median(arm)
            calls, ends = [s / unit for s in seconds], [middle.low / unit, middle.high / unit]
            ax.plot(calls, [row] * len(calls), "o", color=color, alpha=0.35, markersize=4)
            ax.plot(ends, [row, row], color=color, linewidth=6, alpha=0.6, solid_capstyle="butt")
            ax.plot(middle.estimate / unit, row, "|", color=color, markersize=22)
        ax.set_yticks(range(len(self.seconds)), list(self.seconds))
        ax.set(xlabel=f"{name} a call", ylim=(len(self.seconds) - 0.5, -0.5))
        ax.set_xlim(left=0)  # a length is a time: twice as long is twice as slow
        return ax

    def _seconds_of(self, arm: str) -> list[float]:
        if arm not in self.seconds:
            raise KeyError(f"no arm {arm!r} was timed; there are {', '.join(self.seconds)}.")
        return self.seconds[arm]

    def _describe_rounds(self) -> str:
        # Every arm has as many rounds: they are interleaved.
        rounds = len(next(iter(self.seconds.values())))
        warm = len(next(iter(self.warmup.values()), []))
        return f"{rounds} rounds after {warm} of warm-up"

    def _describe_timing(self) -> str:
        """How it was measured, where, and what speaks against the numbers."""
        facts = self.machine
        where = f"{facts.get('gpu') or facts.get('processor')}, threads: {facts.get('threads')}"
        told = f"{self._describe_rounds()}, on {where}, torch {facts.get('torch')}"
        if self.unfinished:
            told += f"; UNFINISHED: {self.unfinished}"
        if self.load and self.load.reason:
            told += f"; BUSY: {self.load}"
        if not self.steady:
            told += "; NOT STEADY when the warm-up ended: the first rounds may be slow ones"
        brief = [arm for arm in self.seconds if median(self._seconds_of(arm)) < BRIEF]
        if brief:
            told += f"; TOO BRIEF to time: let {', '.join(brief)} repeat the work"
        if self.noisy:
            worst = max(self.spread(arm) for arm in self.noisy)
            told += (
                f"; NOISY: the calls of {', '.join(self.noisy)} spread by up to {worst:.0%} "
                f"(quiet is {NOISY:.0%}): other work on the machine? Trust no ratio beyond its "
                f"interval, no seconds at all"
            )
        return told


def time_it(
    arms: Mapping[str, Callable[[], object]],
    repeats: int = 20,
    *,
    max_warmup: int = 20,
    budget_seconds: float = BUDGET_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time each arm in turn, round by round, and compare them by their ratios.

    Before and after each call the accelerator, once started, is waited for: what counts is the
    time until the work is done. The order changes from round to round, so that none is always
    first or always after the same other. Garbage is collected between the calls, not within.

    Args:
        arms: name -> a function without arguments. It is called again and again; what it changes
            stays changed. One that takes less than 10 µs should repeat its work itself.
        repeats: measured rounds, at least 6.
        max_warmup: rounds at most before that. The warm-up ends earlier, once for every arm the
            last three calls and the three before overlap in time or have medians within 2 %. Where
            that never happens, `Timing.steady` is False and the table says so.
        budget_seconds: no round begins later than that, by the wall clock or by what the calls took
            together, except for the first six measured ones,
            without which there is no interval; the warm-up gets half of it. What was not done is in
            `Timing.unfinished` and in the table.
        clock: gives seconds. `time.process_time` leaves out the time that other programs held a
            core, for arms on one thread and no accelerator.
    Returns:
        Timing: `.ratio(arm, to)` with its interval, a table, a picture.
    Raises:
        TypeError: if an arm is no function, or returns a generator, which has not run yet.
        ValueError: if there is no arm, a number is too small, or an arm takes no time at all.

    The interval of a ratio takes the rounds as independent, which they are within this process
    only: a claim over timings needs `nbkit.lab.cost.process_timing.time_in_processes`. Known
    limit: of several CUDA devices, the current one is waited for.

    >>> timing = time_it({"sum": lambda: sum(range(9999)), "half": lambda: sum(range(4999))})
    >>> timing.ratio("half", to="sum").estimate < 1
    True
    """
    _check_timing_arguments(arms, repeats, max_warmup)
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be above 0, got {budget_seconds}.")

    before = read_cores()
    rounds = time_rounds(
        {name: partial(time_call, name, arm, clock) for name, arm in arms.items()},
        repeats,
        max_warmup=max_warmup,
        fewest=FEWEST,
        budget_seconds=budget_seconds,
    )
    load = load_since(before)
    machine = read_machine().to_dict()
    return Timing(rounds.seconds, rounds.warmup, rounds.steady, machine, rounds.unfinished, load)


def _check_timing_arguments(
    arms: Mapping[str, Callable[[], object]], repeats: int, max_warmup: int
) -> None:
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError(f'arms must map names to functions, {{"name": function}}, got {arms!r}.')
    for name, arm in arms.items():
        if not callable(arm):
            raise TypeError(
                f"arm {name!r} must be a function without arguments, got a {type(arm).__name__}: "
                f"write lambda: ... around the call."
            )
    if repeats < FEWEST:
        raise ValueError(
            f"repeats must be at least {FEWEST}, for an interval of the median; got {repeats}."
        )
    if max_warmup < 0:
        raise ValueError(f"max_warmup must be at least 0, got {max_warmup}.")


def time_call(name: str, arm: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one call, until the accelerator has done its work; garbage is collected before."""
    gc.collect(1)  # what the last call left; to look through all there is would empty the caches
    _wait_for_devices()
    start = clock()
    returned = arm()
    _wait_for_devices()
    seconds = clock() - start
    if inspect.isgenerator(returned) or inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(
            f"arm {name!r} returned a {type(returned).__name__}, which has not run yet: run it "
            f"within the arm, as in lambda: list(train(...))."
        )
    if not seconds > 0 or not math.isfinite(seconds):
        raise ValueError(
            f"arm {name!r} took {seconds} s by this clock: let it repeat its work, or give a finer "
            f"clock."
        )
    return seconds


def _wait_for_devices() -> None:
    """Let the accelerator finish what it was given; one that was never started has nothing."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_built() and torch.backends.mps.is_available():
        torch.mps.synchronize()


def spread_of(seconds: Sequence[float]) -> float:
    """From the first to the ninth decile, as a share of the median."""
    deciles = quantiles(seconds, n=10, method="inclusive")
    return (deciles[-1] - deciles[0]) / median(seconds)


def _choose_time_unit(seconds: float) -> tuple[float, str]:
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    return next((unit for unit in units if seconds >= unit[0]), units[-1])


def _format_seconds(seconds: float) -> str:
    """Three digits with the unit that suits them.

    >>> _format_seconds(0.00123), _format_seconds(4.5e-7), _format_seconds(12.0)
    ('1.23 ms', '0.45 µs', '12 s')
    """
    size, name = _choose_time_unit(seconds)
    return f"{seconds / size:.3g} {name}"
