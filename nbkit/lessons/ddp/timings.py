"""Time what an update costs two ranks, and what it costs one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
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
from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import one_thread

WAYS = ("alone", "every", "last", "never", "update")
Seconds = list[float]
# By what they depend on, the networks that have been built, with their optimizers.
Nets = dict[tuple[object, ...], tuple[nn.Module, torch.optim.Optimizer]]


@dataclass(frozen=True)
class Case:
    """Describe one thing to time on two ranks: a window of micro-batches and the optimizer's step.

    Attributes:
        rows: rows of a micro-batch, on each of the two processes.
        way: "alone": one process takes the rows of both. The others are two processes under DDP,
            which average in "every" micro-batch, in the "last" of the window, or "never" (and then
            leave out the optimizer's step). "update" is that step by itself.
        micro_batches: number of micro-batches in a window.
        bucket_kb: kB of gradients that DDP sends together.
        width, depth: size and number of the hidden layers.
    """

    rows: int
    way: str = "every"
    micro_batches: int = 1
    bucket_kb: int = 1000
    width: int = 128
    depth: int = 3

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"way must be among {', '.join(WAYS)}, got {self.way!r}.")

    @property
    def windows(self) -> int:
        """Return how many windows are timed together, so that a clock can resolve them."""
        # About 0.5 million numbers of a layer's output in all, and no more than 16 micro-batches.
        work = 2**19 // (self.rows * self.width)
        return max(1, min(16, work) // self.micro_batches)


def time_cases(
    cases: Sequence[Case], rounds: int, warmup: int = 1, budget_seconds: float = float("inf")
) -> dict[Case, Seconds]:
    """Time one window of each case, in seconds, round by round; every rank has to call it.

    The cases of one round run one after the other, in an order that changes from round to round.
    The time of a window is that of its slower rank. Each process computes on one thread. No round
    but the first begins after `budget_seconds`.
    """
    return _time_on_ranks(cases, rounds, warmup, budget_seconds).seconds


def _time_on_ranks(
    cases: Sequence[Case], rounds: int, warmup: int, budget_seconds: float
) -> Rounds[Case]:
    """Time the cases on this rank, and take for each window the time of the slower rank."""
    nets: Nets = {}
    torch.manual_seed(0)
    gc.collect()  # now, and not while a window is timed
    # Two ranks with several threads each would compete for the cores.
    with one_thread():
        timed = time_rounds(
            {case: partial(_time_case, nets, case) for case in cases},
            rounds,
            max_warmup=warmup,
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


def time_pairs(
    pairs: Mapping[Name, Mapping[str, Case]],
    n: int,
    *,
    rounds: int = 6,
    warmup: int = 2,
    budget_seconds: float = 180.0,
) -> dict[Name, ProcessTiming]:
    """Time the cases of each pair in n starts of two fresh processes, and compare within each.

    Args:
        pairs: name -> the cases to compare, by the names of the arms.
        n: how often two processes start; each time they measure all pairs.
        rounds, warmup: rounds of each pair in each start, and rounds before them that do not count.
        budget_seconds: no further processes start after this time.
    Returns:
        dict: for each pair a ProcessTiming; `.ratio(arm, to)` is an interval over the n starts.
    """
    plain = {name: dict(cases) for name, cases in pairs.items()}
    # An equal share of the budget for each pair in each start.
    share = budget_seconds / (max(1, n) * max(1, len(plain)))
    run = run_in_fresh_processes(
        _time_pairs, n, plain, rounds, warmup, share, ranks=2, budget_seconds=budget_seconds
    )
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
        timed = _time_on_ranks(cases, rounds, warmup, budget_seconds)
        seconds = {arm: timed.seconds[case] for arm, case in pairs[name].items()}
        timings[name] = Timing(seconds, steady=timed.steady, unfinished=timed.unfinished)
    return timings


def _choose_net(nets: Nets, case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the network of a case and its optimizer; cases share it where they can."""
    ddp = case.way not in ("alone", "update")
    # DDP fixes the size of its buckets when it wraps a model.
    key = (case.width, case.depth, case.bucket_kb if ddp else None)
    if key not in nets:
        model: nn.Module = mlp(case.depth, case.width)
        if ddp:
            model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=case.bucket_kb / 1000)
        nets[key] = (model, torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9))
    return nets[key]


def _time_case(nets: Nets, case: Case) -> float:
    """Return the seconds of one window on this rank."""
    model, optimizer = _choose_net(nets, case)
    rows = case.rows * (2 if case.way == "alone" else 1)
    # The size of the digits; a step takes the same time on noise.
    x, y = torch.randn(rows, 64), torch.randint(10, (rows,))
    if case.way == "update":
        cross_entropy(model(x), y).backward()
    dist.barrier()  # both ranks start together
    start = time.perf_counter()
    if case.way not in ("alone", "update") or rank() == 0:
        for _ in range(case.windows):
            _run_window(case, model, optimizer, x, y)
    return (time.perf_counter() - start) / case.windows


def _run_window(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    """Run one window: its micro-batches, then the optimizer's step."""
    if case.way != "update":
        # Divided by their number, the micro-batches' gradients add up to that of the window.
        for k in range(case.micro_batches):
            last = k == case.micro_batches - 1
            is_quiet = case.way == "never" or (case.way == "last" and not last)
            # Only a DDP model is quiet, and only it has no_sync.
            context: Any = model.no_sync if is_quiet else nullcontext
            with context():
                (cross_entropy(model(x), y) / case.micro_batches).backward()
    if case.way != "never":  # "never" times the computing alone
        optimizer.step()
    # The update by itself needs the gradients again for its next step.
    if case.way != "update":
        optimizer.zero_grad()


def update_seconds(
    timings: Mapping[Case, Seconds], rows: int, micro_batches: int, no_sync: bool, bucket_kb: int
) -> dict[str, Seconds]:
    """Put together what an update costs from the measured parts, round by round.

    Args:
        timings: seconds of the cases, from `time_cases`.
        rows: rows of a micro-batch, on each process.
        micro_batches: number of them in the update.
        no_sync: average in the last micro-batch only.
        bucket_kb: kB of gradients that DDP sends together.
    Returns:
        dict: seconds of "alone" (one process, the rows of both), and of two processes "computing",
        "averaging" and "updating".
    """
    alone, every = timings[Case(rows, "alone")], timings[Case(rows, bucket_kb=bucket_kb)]
    never, update = timings[Case(rows, "never")], timings[Case(rows, "update")]
    averages = 1 if no_sync else micro_batches
    computing, averaging = [], []
    for whole, step, bare in zip(every, update, never, strict=True):
        computing.append(micro_batches * bare)
        # What a window with averaging takes beyond its parts; noise may make that negative.
        averaging.append(averages * max(whole - step - bare, 0.0))
    return {"alone": alone, "computing": computing, "averaging": averaging, "updating": update}


def losses_of(
    size: int, lr: float, seeds: Sequence[int], examples: int = 6400
) -> Generator[None, None, Tensor]:
    """Train the timed network on the digits, once; return the losses (seeds, updates).

    Yields between the updates, each of `size` rows, until all examples have been seen. Later calls
    with the same arguments return at once.
    """
    key = (size, lr, tuple(seeds))
    if key not in _curves:
        arm, steps = {"sgd": {"lr": lr, "momentum": 0.9}}, examples // size
        make = partial(mlp, depth=3, width=128)
        for runs in train_runs(make, digits(), arm, seeds, steps=steps, batch_size=size):
            if runs.step == steps:
                _curves[key] = runs.losses[0]
            yield
    return _curves[key]


# By size, lr and seeds, the losses that have been trained.
_curves: dict[tuple[object, ...], Tensor] = {}
