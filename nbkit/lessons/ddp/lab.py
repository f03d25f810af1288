"""The live lab of ddp: two waiting processes time an update at each move of a slider."""

from __future__ import annotations

from collections.abc import Generator
from statistics import fmean
from typing import TYPE_CHECKING

from nbkit.lab.cost.busy import Load, load_since, read_cores
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lessons.ddp.pictures import draw_costs, draw_visited
from nbkit.lessons.ddp.timings import Case, Seconds, compare_rounds, time_cases
from nbkit.lessons.ddp.waiting_ranks import Ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUNDS = 6
# Seconds of timing at each move. An update is repeated until a clock can read it.
BUDGET, MOST_UPDATES = 0.25, 2
TWO, QUIET_TWO = "two processes", "two, not averaging"
CLEARLY = 1.05  # smaller differences are not called one
Visited = list[tuple[float, Interval]]


class SpeedLab:
    """Time an update of one process and of two at the sliders' settings, and keep what was seen.

    Args:
        ranks: the two processes; None where there can be none.
    """

    def __init__(self, ranks: Ranks | None) -> None:
        self.ranks = ranks
        # For each move: ms of computing between two averages, and the seconds two / one.
        self.visited: Visited = []
        # The times of the last move, and the examples of an update: shown until there are new ones.
        self._last: tuple[dict[str, Seconds], int] | None = None

    def draw(
        self,
        fig: Figure,
        *,
        rows: int,
        units: int,
        micro_batches: int,
        no_sync: bool,
        bucket_kb: int,
    ) -> Generator[None, None, str]:
        """Draw what an example costs, and what was seen at all settings so far."""
        if self.ranks is None:
            # A live lab must draw something, and here there is nothing to time.
            fig.add_subplot().set_title("two processes are needed")
            return "SKIPPED: this machine cannot start two processes"
        way = "last" if no_sync else "every"
        ways = {TWO: way, "one thread": "alone", "two threads": "threads", QUIET_TWO: "never"}
        cases = {}
        for name, each in ways.items():
            cases[name] = Case(rows, each, micro_batches, bucket_kb, units, most=MOST_UPDATES)

        left, right = fig.subplots(1, 2)
        if self._last is not None:
            self._draw_times(left, right, *self._last)
        before = read_cores()
        timed = yield from self.ranks.iterate(time_cases, list(cases.values()), ROUNDS, 1, BUDGET)
        load = load_since(before)
        seconds = {name: timed[0][case] for name, case in cases.items()}

        bare = seconds[QUIET_TWO]
        rival, ratio = compare_rounds(drop_arm(seconds, QUIET_TWO))
        # What is computed between two averages: everything, or one micro-batch.
        work = 1000 * fmean(bare) / (1 if no_sync else micro_batches)
        self.visited.append((work, ratio))
        self._last = seconds, 2 * rows * micro_batches
        left.clear()
        right.clear()
        self._draw_times(left, right, *self._last)
        return describe_times(seconds, rival, ratio, load)

    def _draw_times(
        self, left: Axes, right: Axes, seconds: dict[str, Seconds], examples: int
    ) -> None:
        draw_costs(left, seconds, examples)
        draw_visited(right, self.visited)


def drop_arm(seconds: dict[str, Seconds], name: str) -> dict[str, Seconds]:
    """Return the seconds of the other arms."""
    return {arm: spent for arm, spent in seconds.items() if arm != name}


def describe_times(seconds: dict[str, Seconds], rival: str, ratio: Interval, load: Load) -> str:
    """Say which was faster, if these rounds can tell, and which goals are reached."""
    interval = f"{ratio.estimate:.2g} [{ratio.low:.2g}, {ratio.high:.2g}]"
    told = f"time of two processes / {rival}: {interval}"
    # What other programs take makes two processes look slower than they are.
    if load.is_busy:
        return f"{told}. No advice: {100 * (load.others or 0):.0f} % of the cores were busy"
    if ratio.low > CLEARLY:
        told += ", slower"
    elif ratio.high < 1 / CLEARLY:
        told += ", faster"
    else:
        told += f", no difference of 5 % that {ratio.n} rounds can see"
    for number, is_reached in enumerate(find_goals(seconds, ratio), start=1):
        told += f". Goal {number} reached" if is_reached else ""
    return told


def find_goals(seconds: dict[str, Seconds], ratio: Interval) -> tuple[bool, bool, bool]:
    """Return which of the three goals are reached: slow, fast, and faster than threads."""
    against_one = paired_ratio(seconds[TWO], seconds["one thread"], over="rounds")
    return ratio.low > 2, against_one.high < 0.75, ratio.high < 1
