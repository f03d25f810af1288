"""The timings of amp: training steps in fresh processes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from nbkit.lab.cost.process_timing import ProcessTiming, Setup, time_in_processes
from nbkit.lab.cost.timing import BUDGET_SECONDS


def time_fresh_steps(
    setups: Mapping[str, Setup],
    device: str,
    n: int | Mapping[str, int],
    *,
    repeats: int = 8,
    budget_seconds: float = BUDGET_SECONDS,
) -> dict[str, ProcessTiming]:
    """Time training steps in fresh processes: on a GPU by the wall clock, else on one thread.

    On a CPU it is the time of that thread, which leaves out what other programs take.
    """
    cpu = device == "cpu"
    return time_in_processes(
        setups,
        n,
        repeats=repeats,
        budget_seconds=budget_seconds,
        clock=time.process_time if cpu else time.perf_counter,
        threads=1 if cpu else None,
    )
