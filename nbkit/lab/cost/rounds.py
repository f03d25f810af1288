"""The one interleaved timer: arms in turn, round by round, within a time budget.

`time_it`, the timings of several ranks and the benchmarks all time by `time_rounds`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

# Steady: two windows of that many calls overlap, or their medians lie within that share.
WINDOW, CLOSE = 3, 0.02
WARMUP_SHARE = 1 / 2  # of the budget, at most
Arm = TypeVar("Arm")


@dataclass
class Rounds(Generic[Arm]):
    """Seconds of each arm, an entry a round.

    Attributes:
        seconds: the measured rounds.
        warmup: the rounds before.
        steady: whether the arms had a steady pace when the warm-up ended.
        unfinished: what the time budget did not allow; empty if everything was done.
    """

    seconds: dict[Arm, list[float]]
    warmup: dict[Arm, list[float]]
    steady: bool
    unfinished: str


def time_rounds(
    timers: Mapping[Arm, Callable[[], float]],
    repeats: int,
    *,
    max_warmup: int = 0,
    fewest: int = 1,
    budget_seconds: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    any_rank: Callable[[bool], bool] = bool,
) -> Rounds[Arm]:
    """Call each timer once a round, in an order that changes from round to round.

    Args:
        timers: for each arm, a function that does the work and returns the seconds that it took.
        repeats: measured rounds.
        max_warmup: rounds at most before these; fewer once every arm is steady.
        fewest: rounds that are measured even if the budget is spent.
        budget_seconds: no round begins later than that, by the clock or by what the calls took
            together; the warm-up gets half of it.
        clock: gives seconds; the wall clock.
        any_rank: whether this is so on any of the processes that time together, which must take
            the same number of rounds; by default there is only this process.
    """
    rounds = Rounds({arm: [] for arm in timers}, {arm: [] for arm in timers}, False, "")
    start = clock()

    def is_over(share: float) -> bool:
        calls = [*rounds.warmup.values(), *rounds.seconds.values()]
        spent = max(clock() - start, sum(map(sum, calls)))
        return any_rank(spent >= share * budget_seconds)

    with pause_collection():
        warm = made = 0
        while warm < max_warmup and not rounds.steady and not is_over(WARMUP_SHARE):
            _time_round(timers, rounds.warmup, warm)
            warm += 1
            rounds.steady = not any_rank(not all(map(is_steady, rounds.warmup.values())))
        while made < repeats and (made < fewest or not is_over(1.0)):
            _time_round(timers, rounds.seconds, made)
            made += 1

    if made < repeats:
        done = f"after {made} of {repeats} rounds"
    elif warm < max_warmup and not rounds.steady:
        done = f"the warm-up after {warm} of at most {max_warmup} rounds"
    else:
        return rounds
    rounds.unfinished = f"the budget of {budget_seconds:.3g} s ended {done}"
    return rounds


def _time_round(
    timers: Mapping[Arm, Callable[[], float]], seconds: Mapping[Arm, list[float]], turn: int
) -> None:
    for arm in order_arms(list(timers), turn):
        seconds[arm].append(timers[arm]())


def order_arms(arms: list[Arm], turn: int) -> list[Arm]:
    """Go there and back, starting one further each time.

    In 2n rounds each arm is twice in each place.

    >>> ["".join(order_arms(list("ABC"), turn)) for turn in range(6)]
    ['ABC', 'CBA', 'BCA', 'ACB', 'CAB', 'BAC']
    """
    start = turn // 2 % len(arms)
    return (arms[start:] + arms[:start])[:: -1 if turn % 2 else 1]


def is_steady(seconds: list[float]) -> bool:
    """Tell whether the last calls and those before are alike, by order or by size."""
    if len(seconds) < 2 * WINDOW:
        return False
    before, last = seconds[-2 * WINDOW : -WINDOW], seconds[-WINDOW:]
    overlap = min(last) <= max(before) and min(before) <= max(last)
    return overlap or abs(median(last) / median(before) - 1) <= CLOSE


@contextmanager
def pause_collection() -> Iterator[None]:
    """Switch the automatic garbage collection off, and restore the setting on every way out."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
