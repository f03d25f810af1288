"""Time what an update costs two ranks, and what it costs one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.ddp import rank
from nbkit.lab.cost.process_timing import Name, ProcessTiming, collect_timings
from nbkit.lab.cost.processes import run_in_fresh_processes
from nbkit.lab.cost.rounds import Rounds, time_rounds
from nbkit.lab.cost.timing import Timing
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread

WAYS = ("alone", "threads", "every", "last", "never")
ONE_PROCESS = ("alone", "threads")  # the ways of a process that has all rows
Seconds = list[float]
# By what they depend on, the networks that have been built, with their optimizers.
Nets = dict[tuple[object, ...], tuple[nn.Module, torch.optim.Optimizer]]
# Each start of the processes has a budget, so that a slow machine still gets its n of them.
BUDGET_SECONDS = 300.0


@dataclass(frozen=True)
class Case:
    """Describe one thing to time on two ranks: an update of several micro-batches.

    Attributes:
        rows: rows of a micro-batch, on each of the two processes.
        way: "alone": one process takes the rows of both, on one thread; "threads": the same on two
            threads. The others are two processes under DDP, with a thread each, which average in
            "every" micro-batch, in the "last" of the update, or "never".
        micro_batches: number of micro-batches in an update.
        bucket_kb: kB of gradients that DDP sends together.
        width, depth: size and number of the hidden layers.
        most: at most that many updates are timed together.
    """

    rows: int
    way: str = "every"
    micro_batches: int = 1
    bucket_kb: int = 1000
    width: int = 128
    depth: int = 3
    most: int = 16

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"way must be among {', '.join(WAYS)}, got {self.way!r}.")

    @property
    def updates(self) -> int:
        """Return how many updates are timed together, so that a clock can resolve them."""
        # About 0.5 million numbers of a layer's output in all, and no more than 16 micro-batches.
        work = 2**19 // (self.rows * self.width)
        return max(1, min(self.most, work) // self.micro_batches)


def time_cases(
    cases: Sequence[Case], rounds: int, warmup: int = 1, budget_seconds: float = float("inf")
) -> dict[Case, Seconds]:
    """Time one update of each case, in seconds, round by round; every rank has to call it.

    The cases of one round run one after the other, in an order that changes from round to round.
    An update has taken as long as its slower rank. No round but the first two begins after
    `budget_seconds`. The networks are kept for the next call.
    """
    return _time_on_ranks(cases, rounds, warmup, budget_seconds, _kept_nets).seconds


# Of time_cases: building a network and wrapping it takes longer than an update.
_kept_nets: Nets = {}


def _time_on_ranks(
    cases: Sequence[Case], rounds: int, warmup: int, budget_seconds: float, nets: Nets
) -> Rounds[Case]:
    """Time the cases on this rank, and take for each update the time of the slower rank."""
    torch.manual_seed(0)
    gc.collect()  # now, and not while an update is timed
    # Two ranks with several threads each would compete for the cores.
    with one_thread():
        timed = time_rounds(
            {case: partial(_time_case, nets, case) for case in cases},
            rounds,
            max_warmup=warmup,
            fewest=2,  # one round has no interval
            budget_seconds=budget_seconds,
            any_rank=_any_rank,
        )
    # (cases, rounds): the larger of both ranks' seconds replaces them on every rank.
    seconds = torch.tensor(list(timed.seconds.values()), dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    timed.seconds = dict(zip(timed.seconds, seconds.tolist(), strict=True))
    return timed


def _any_rank(here: bool) -> bool:
    """Return whether it is so on any rank, since all have to make the same number of rounds."""
    anywhere = torch.tensor(int(here))
    dist.all_reduce(anywhere, dist.ReduceOp.MAX)
    return bool(anywhere)


def speed_arms(rows: int, width: int = 128, **options: int) -> dict[str, Case]:
    """Return what the claim on speed compares: the same update, by two processes and by one."""
    ways = {"two processes": "last", "one thread": "alone", "two threads": "threads"}
    arms = {}
    for name, way in ways.items():
        arms[name] = Case(rows, way, width=width, **options)
    return arms


def time_pairs(
    pairs: Mapping[Name, Mapping[str, Case]],
    n: int,
    *,
    rounds: int = 5,
    warmup: int = 1,
    budget_seconds: float = BUDGET_SECONDS,
    show: Callable[..., Iterable[int]] | None = None,
) -> dict[Name, ProcessTiming]:
    """Time the arms of each pair in n starts of two fresh processes, and compare within each.

    Args:
        pairs: name -> the cases to compare, by the names of the arms.
        n: how often two processes start; each time they measure all pairs.
        rounds, warmup: rounds of each pair in each start, and rounds before them that do not count.
        budget_seconds: no further processes start after this time.
        show: `lesson.progress`, to show how far it is.
    Returns:
        dict: for each pair a ProcessTiming; `.ratio(arm, to)` is an interval over the n starts.
    """
    plain = {name: dict(cases) for name, cases in pairs.items()}
    # An equal share of the budget for each pair in each start.
    share = budget_seconds / (max(1, n) * max(1, len(plain)))
    # A step of the progress is a start that has ended; the first shows its line.
    starts = iter(show(range(n), total=n, label="timing") if show else range(n))
    next(starts, None)
    run = run_in_fresh_processes(
        _time_pairs,
        n,
        plain,
        rounds,
        warmup,
        share,
        ranks=2,
        budget_seconds=budget_seconds,
        after_each=partial(next, starts, None),
    )
    # The line of progress goes when its iterator ends, also if the budget ended before.
    for _ in starts:
        pass
    return collect_timings(run, list(plain))


def _time_pairs(
    index: int, pairs: dict[Name, dict[str, Case]], rounds: int, warmup: int, budget_seconds: float
) -> dict[Name, Timing]:
    """Time every pair on these two ranks; the first pair and arm change with `index`."""
    # Each start begins with another pair, so that none always has the freshest processes.
    names, timings = list(pairs), {}
    start = index % len(names)
    for name in names[start:] + names[:start]:
        # Every second start has the arms in reverse, so that neither is always first.
        cases = list(pairs[name].values())[:: -1 if index % 2 else 1]
        timed = _time_on_ranks(cases, rounds, warmup, budget_seconds, {})
        seconds = {arm: timed.seconds[case] for arm, case in pairs[name].items()}
        timings[name] = Timing(seconds, steady=timed.steady, unfinished=timed.unfinished)
    return timings


def compare_fastest(timed: Mapping[Name, ProcessTiming]) -> dict[Name, Interval]:
    """Compare, for each pair, its first arm with the fastest of its others, over the starts."""
    ratios = {}
    for name, timing in timed.items():
        first, *others = timing.seconds
        # One rival for all starts: the one with the shortest updates on average.
        ratios[name] = timing.ratio(first, min(others, key=lambda arm: fmean(timing.seconds[arm])))
    return ratios


def compare_rounds(seconds: Mapping[str, Seconds]) -> tuple[str, Interval]:
    """Return the fastest of the other arms, and the first arm's seconds over its, by rounds."""
    first, *others = seconds
    rival = min(others, key=lambda arm: fmean(seconds[arm]))
    return rival, paired_ratio(seconds[first], seconds[rival], over="rounds")


def _choose_net(nets: Nets, case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the network of a case and its optimizer; cases share it where they can."""
    ddp = case.way not in ONE_PROCESS
    # DDP fixes the size of its buckets when it wraps a model.
    key = (case.width, case.depth, case.bucket_kb if ddp else None)
    if key not in nets:
        model: nn.Module = mlp(case.depth, case.width)
        if ddp:
            model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=case.bucket_kb / 1000)
        nets[key] = (model, torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9))
    return nets[key]


def _time_case(nets: Nets, case: Case) -> float:
    """Return the seconds of one update on this rank."""
    model, optimizer = _choose_net(nets, case)
    is_alone = case.way in ONE_PROCESS
    rows = case.rows * (2 if is_alone else 1)
    # The size of the digits; a step takes the same time on noise.
    x, y = torch.randn(rows, 64), torch.randint(10, (rows,))
    torch.set_num_threads(2 if case.way == "threads" else 1)
    try:
        dist.barrier()  # both ranks start together
        start = time.perf_counter()
        # One process computes while the other waits, which takes no core.
        if not is_alone or rank() == 0:
            for _ in range(case.updates):
                _run_update(case, model, optimizer, x, y)
        return (time.perf_counter() - start) / case.updates
    finally:
        torch.set_num_threads(1)


def _run_update(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    """Run one update: its micro-batches, then the optimizer's step."""
    # Divided by their number, the micro-batches' gradients add up to that of the update.
    for k in range(case.micro_batches):
        last = k == case.micro_batches - 1
        is_quiet = case.way == "never" or (case.way == "last" and not last)
        # Only a DDP model is quiet, and only it has no_sync.
        context: Any = model.no_sync if is_quiet else nullcontext
        with context():
            (cross_entropy(model(x), y) / case.micro_batches).backward()
    optimizer.step()
    optimizer.zero_grad()
