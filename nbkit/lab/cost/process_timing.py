"""Time arms in fresh processes: the interval is over processes, and `n` counts them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeVar

from nbkit.lab.cost.processes import FreshRun, run_in_fresh_processes
from nbkit.lab.cost.timing import FEWEST, Timing, spread_of, time_it
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import mean_interval, paired_ratio
from nbkit.lab.machine import read_machine
from nbkit.lab.runs.training import one_thread

Arms = Mapping[str, Callable[[], object]]
Setup = Callable[[], Arms]
Name = TypeVar("Name", bound=Hashable)


@dataclass
class ProcessTiming(Timing):
    """What each arm took in each fresh process.

    Attributes:
        seconds: of each arm, an entry a process: the median of its rounds.
        rounds: of each arm, for each process the seconds of its rounds.
    """

    rounds: dict[str, list[list[float]]] = field(default_factory=dict)

    def ratio(self, arm: str, to: str) -> Interval:
        """Seconds of `arm` over those of `to`: below 1 is faster.

        A process gives one number, the median of its rounds' ratios; the interval is over the
        processes. It carries these numbers, and what else the machine did.
        """
        self._seconds_of(arm), self._seconds_of(to)
        ratios = [
            math.exp(median(math.log(a / b) for a, b in zip(ours, theirs, strict=True)))
            for ours, theirs in zip(self.rounds[arm], self.rounds[to], strict=True)
        ]
        if len(ratios) < 2:
            alone = Interval(ratios[0], 0.0, math.inf, 1, over="timings")
            return replace(alone, values=tuple(ratios), load=self.load)
        ratio = paired_ratio(ratios, [1.0] * len(ratios), over="timings")
        return replace(ratio, values=tuple(ratios), load=self.load)

    def median(self, arm: str) -> Interval:
        """The seconds of a call, with the 95 % interval of their mean over the processes."""
        seconds = self._seconds_of(arm)
        if len(seconds) < 2:
            return Interval(seconds[0], 0.0, math.inf, 1, over="timings")
        return mean_interval(seconds, over="timings")

    def spread(self, arm: str) -> float:
        """How far the rounds of a process lie apart, in the middle one of the processes."""
        self._seconds_of(arm)
        return median(spread_of(rounds) for rounds in self.rounds[arm])

    def _describe_rounds(self) -> str:
        processes = next(iter(self.rounds.values()))
        # The budget may have cut some processes short.
        each = min(map(len, processes))
        return f"{len(processes)} fresh processes, {each} rounds in each"


def time_in_processes(
    setups: Mapping[str, Setup],
    n: int | Mapping[str, int],
    *,
    repeats: int = 8,
    max_warmup: int = 6,
    budget_seconds: float = 120.0,
    clock: Callable[[], float] = time.perf_counter,
    threads: int | None = 1,
) -> dict[str, ProcessTiming]:
    """Time the arms of each setup in n fresh processes, and compare them within each process.

    Every process times all setups (that still need it), one after the other, beginning with another
    one each time: so the n values of a setup are spread over the whole measurement, and a slow
    change of the machine (its clock, its neighbours) is part of what the interval sees.

    Args:
        setups: name -> a function that builds the arms (name -> function), in the process itself.
        n: how many processes; or for each setup, how many of them time it.
        repeats, max_warmup, clock: of `time_it`, in each process.
        budget_seconds: no further process is started later than that, and each has its share for
            its rounds; what was not done is in each result's `unfinished`.
        threads: 1 lets torch compute on one thread; None leaves its own choice.
    Returns:
        for each setup, a ProcessTiming: `.ratio(arm, to)` is an interval over the n processes.
    Raises:
        ProcessError: if a setup or an arm fails in a process.
        ValueError: if there is no setup, or a number is too small.
    """
    if not setups:
        raise ValueError("setups must map names to functions that build the arms, got none.")
    if threads not in (1, None):
        raise ValueError(f"threads must be 1 or None, got {threads}.")
    if repeats < FEWEST:
        raise ValueError(f"repeats must be at least {FEWEST}, got {repeats}.")
    counts = {name: n if isinstance(n, int) else n.get(name, 0) for name in setups}
    if min(counts.values()) < 1:
        raise ValueError(f"n must be at least 1 for every setup, got {counts}.")

    share = budget_seconds / sum(counts.values())
    options = {"repeats": repeats, "max_warmup": max_warmup, "budget_seconds": share}
    told = (dict(setups), counts, options | {"clock": clock}, threads)
    most = max(counts.values())
    run = run_in_fresh_processes(_time_setups, most, *told, budget_seconds=budget_seconds)
    return collect_timings(run, list(setups))


def _time_setups(
    index: int,
    setups: dict[str, Setup],
    counts: dict[str, int],
    options: dict[str, Any],
    threads: int | None,
) -> dict[str, Timing]:
    """Time every setup in this process; the first of them and the first arm change with `index`."""
    names, timings = [name for name in setups if index < counts[name]], {}
    start = index % len(names)
    for name in names[start:] + names[:start]:
        arms = dict(setups[name]())
        turned = dict(reversed(arms.items())) if index % 2 else arms
        if threads is None:
            timing = time_it(turned, **options)
        else:
            with one_thread():
                timing = time_it(turned, **options)
        timing.seconds = {arm: timing.seconds[arm] for arm in arms}
        timings[name] = timing
    return timings


def collect_timings(run: FreshRun, names: Sequence[Name]) -> dict[Name, ProcessTiming]:
    """Put together what the processes returned: for each name, the timings of its arms."""
    timings = {}
    for name in names:
        each: list[Timing] = [ranks[0][name] for ranks in run.values if name in ranks[0]]
        rounds = {arm: [timing.seconds[arm] for timing in each] for arm in each[0].seconds}
        seconds = {arm: [median(calls) for calls in rounds[arm]] for arm in rounds}
        cut = [timing.unfinished for timing in each if timing.unfinished]
        notes = [run.unfinished] if run.unfinished else []
        notes += [f"in {len(cut)} processes {cut[0]}"] if cut else []
        timings[name] = ProcessTiming(
            seconds,
            steady=all(timing.steady for timing in each),
            machine=read_machine().to_dict(),
            unfinished="; ".join(notes),
            load=run.load,
            rounds=rounds,
        )
    return timings
