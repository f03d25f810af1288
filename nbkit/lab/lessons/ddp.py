"""What 07_ddp needs of its own: timings taken by two ranks, two nodes on one machine, pictures."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.accumulation import accumulate
from nbkit.ddp import rank, shard
from nbkit.equivalence import EquivalenceReport, compare, gradients, taken
from nbkit.lab import plots
from nbkit.lab.claims import NEEDS
from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.seeds import train_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WAYS = ("alone", "every", "last", "never", "update")
Seconds = list[float]
IMPORTS = """import sys
from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from nbkit import all_mean, is_main, launch, shard
from nbkit.lab.data import digits
from nbkit.lab.models import mlp"""


def two_processes() -> bool:
    """Whether this machine can start two processes; where it cannot, it says what follows."""
    able = NEEDS["two processes"]()
    if not able:
        print("This machine cannot start two processes: nothing is run here, the claims that need")
        print("them are SKIPPED. Linux, macOS or WSL can; the stored lesson shows what they saw.")
    return able


# ---- timings ----


@dataclass(frozen=True)
class Case:
    """One thing to time on two ranks: a window of micro-batches and the optimizer's step.

    Attributes:
        rows: of a micro-batch, on each of the two processes.
        way: "alone": one process takes the rows of both. The others are two processes under DDP,
            which average in "every" micro-batch, in the "last" of the window, or "never" (and then
            leave out the optimizer's step). "update" is that step by itself.
        micro_batches: in a window.
        bucket_kb: kB of gradients that DDP sends together.
        width, depth: of the hidden layers.
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
        """How many are timed together: enough to be read off a clock."""
        work = 2**19 // (self.rows * self.width)
        return max(1, min(16, work) // self.micro_batches)


def time_cases(cases: Sequence[Case], rounds: int, warmup: int = 2) -> dict[Case, Seconds]:
    """Seconds of one window of each case, round by round; every rank of a group has to call it.

    Cases of one round are neighbours in time, in turn forwards and backwards. A window has taken as
    long as its slower rank. Each process computes on one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets: dict[tuple[object, ...], tuple[nn.Module, torch.optim.Optimizer]] = {}
    seconds = torch.zeros(len(cases), warmup + rounds, dtype=torch.float64)
    gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            for k in range(len(cases))[:: -1 if turn % 2 else 1]:
                seconds[k, turn] = _time(cases[k], *_net(nets, cases[k]))
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return {case: seconds[k, warmup:].tolist() for k, case in enumerate(cases)}


def _net(nets: dict, case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """One network for all cases that can share it."""
    ddp = case.way not in ("alone", "update")
    key = (case.width, case.depth, case.bucket_kb if ddp else None)
    if key not in nets:
        model: nn.Module = mlp(case.depth, case.width)
        if ddp:
            model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=case.bucket_kb / 1000)
        nets[key] = (model, torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9))
    return nets[key]


def _time(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    rows = case.rows * (2 if case.way == "alone" else 1)
    x, y = torch.randn(rows, 64), torch.randint(10, (rows,))
    if case.way == "update":
        cross_entropy(model(x), y).backward()
    dist.barrier()
    start = time.perf_counter()
    if case.way not in ("alone", "update") or rank() == 0:
        for _ in range(case.windows):
            _window(case, model, optimizer, x, y)
    return (time.perf_counter() - start) / case.windows


def _window(case, model, optimizer, x, y) -> None:
    if case.way != "update":
        for k in range(case.micro_batches):
            last = k == case.micro_batches - 1
            quiet = case.way == "never" or (case.way == "last" and not last)
            with model.no_sync() if quiet else nullcontext():
                (cross_entropy(model(x), y) / case.micro_batches).backward()
    if case.way != "never":
        optimizer.step()
    if case.way != "update":
        optimizer.zero_grad()


def update_seconds(
    timings: Mapping[Case, Seconds], rows: int, micro_batches: int, no_sync: bool, bucket_kb: int
) -> dict[str, Seconds]:
    """What an update costs, from the measured parts, round by round.

    Returns:
        seconds of "alone" (one process, the rows of both), and of two processes "computing",
        "averaging" and "updating".
    """
    alone, every = timings[Case(rows, "alone")], timings[Case(rows, bucket_kb=bucket_kb)]
    never, update = timings[Case(rows, "never")], timings[Case(rows, "update")]
    averaged = 1 if no_sync else micro_batches
    cost = [max(e - u - n, 0.0) for e, u, n in zip(every, update, never, strict=True)]
    return {
        "alone": alone,
        "computing": [micro_batches * n for n in never],
        "averaging": [averaged * c for c in cost],
        "updating": update,
    }


def losses_of(
    size: int, lr: float, seeds: Sequence[int], examples: int = 6400
) -> Generator[None, None, Tensor]:
    """The losses (seeds, updates) of the timed network on the digits, trained once.

    Yields between the updates, each of `size` rows, until all examples are seen.
    """
    key = (size, lr, tuple(seeds))
    if key not in _curves:
        arm, steps = {"sgd": {"lr": lr}}, examples // size
        make = partial(mlp, depth=3, width=128)
        for runs in train_runs(make, digits(), arm, seeds, steps=steps, batch_size=size):
            if runs.step == steps:
                _curves[key] = runs.losses[0]
            yield
    return _curves[key]


_curves: dict[tuple[object, ...], Tensor] = {}


# ---- ragged parts, a killed rank, several nodes ----


def weighted_report(make: Callable[[], nn.Module], batch: tuple) -> EquivalenceReport:
    """The gradient of weighted parts beside that of the whole batch; every rank has to call it."""
    model = nn.parallel.DistributedDataParallel(make())
    for window in accumulate(shard([batch]), 1, model=model):
        for micro in window:
            x, y = micro.batch
            (cross_entropy(model(x), y) * micro.weight).backward()
    return compare(gradients(make(), cross_entropy, batch), taken(model.module))


def write_diary(folder: str, dies_at: int, losses: Seconds) -> None:
    """Rank 0 writes each loss down; rank 1 is killed after a step of the first attempt."""
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if rank() == 0:
        with Path(folder, f"attempt_{attempt}.txt").open("a") as diary:
            diary.write(f"{len(losses)} {losses[-1]}\n")
    elif attempt == "0" and len(losses) == dies_at:
        time.sleep(0.2)  # rank 0 has its share of this step by then, and has written it down
        os.kill(os.getpid(), signal.SIGKILL)


def read_diary(folder: str) -> list[tuple[list[int], Seconds]]:
    """Of each attempt the steps and their losses."""
    attempts = []
    for path in sorted(Path(folder).glob("attempt_*.txt")):
        lines = [line.split() for line in path.read_text().splitlines()]
        attempts.append(([int(step) for step, _ in lines], [float(loss) for _, loss in lines]))
    return attempts


def as_script(*functions: Callable, last: str) -> str:
    """A script of functions from a notebook's cells, with the imports of 07_ddp."""
    return "\n\n".join([IMPORTS, *map(inspect.getsource, functions), last, ""])


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_side_by_side(commands: Sequence[Sequence[str]], timeout: float = 120.0) -> list[str]:
    """Run commands at the same time, as different machines would; what each one printed.

    Raises:
        RuntimeError: if one fails or the time is up, with the end of what it said; all are ended.
    """
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("MPLBACKEND", None)  # a notebook's inline backend has no notebook to draw in
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(list(command), env=env, start_new_session=True, **pipes)  # type: ignore[call-overload]
        for command in commands
    ]
    end, printed = time.monotonic() + timeout, []
    try:
        for process in running:
            out, said = process.communicate(timeout=max(0.1, end - time.monotonic()))
            if process.returncode:
                raise RuntimeError(f"{' '.join(process.args)} failed. It said: {said[-2000:]}")
            printed.append(out)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(process.args)} took more than {timeout:g} s.") from None
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return printed


# ---- pictures ----


def draw_costs(ax: Axes, parts: Mapping[str, Seconds], micro_batches: int, rows: int) -> Axes:
    """Milliseconds per 1,000 examples: one process, and two with what they spend it on."""
    scale = 1e6 / (2 * rows)
    ax.barh(0, scale * median(parts["alone"]), color=plots.BASELINE, height=0.5)
    left = 0.0
    looks = {"computing": plots.TECHNIQUE, "averaging": "#F0B890", "updating": "#BBBBBB"}
    for name, color in looks.items():
        width = scale * median(parts[name]) / micro_batches
        ax.barh(1, width, left=left, color=color, height=0.5, label=name)
        left += width
    ax.set_yticks([0, 1], ["one\nprocess", "two"])
    ax.set(xlabel="ms per 1,000 examples", ylim=(2.0, -0.45), xlim=(0, None))
    legend = {"ncols": 3, "frameon": False, "fontsize": 7, "handlelength": 1, "columnspacing": 1}
    ax.legend(loc="lower center", **legend)
    return ax


def draw_race(ax: Axes, losses: Mapping[str, Tensor], seconds: Sequence[Seconds]) -> Axes:
    """Training loss against the time that the updates take; one process first, then two."""
    colors, heights = (plots.BASELINE, plots.TECHNIQUE), (1, -1)
    for (name, rows), each, color, up in zip(losses.items(), seconds, colors, heights, strict=True):
        x = [1000 * median(each) * (k + 1) for k in range(rows.shape[1])]
        plots.seeds(ax, rows, label="", color=color, x=x)
        end = (x[-1], float(rows[:, -1].nanmedian()))
        ax.plot(*end, "o", color=color, markersize=5)
        ax.annotate(name, end, xytext=(4, 9 * up), textcoords="offset points", color=color)
    ax.set(xlabel="ms of training, at the measured pace", ylabel="training loss", yscale="log")
    ax.set_xlim(0, 1.25 * ax.get_xlim()[1])
    return ax


def draw_pairs(ax: Axes, title: str, labels: tuple[str, str], seconds: Sequence[Seconds]) -> Axes:
    """The technique's and the other arm's milliseconds, a line for each round."""
    for with_, without in zip(*seconds, strict=True):
        ax.plot([0, 1], [1000 * without, 1000 * with_], color=plots.QUIET, alpha=0.4, linewidth=1)
    for x, values, color in ((1, seconds[0], plots.TECHNIQUE), (0, seconds[1], plots.BASELINE)):
        ax.plot([x] * len(values), [1000 * v for v in values], "o", color=color, markersize=5)
    ax.set_xticks([0, 1], [labels[1], labels[0]])
    ax.set(title=title, ylabel="ms", xlim=(-0.4, 1.4), ylim=(0, None))
    return ax


def draw_errors(ax: Axes, reports: Mapping[str, EquivalenceReport]) -> Axes:
    """How far each gradient of two processes is from that of one, beside what rounding explains."""
    for row, report in enumerate(reports.values()):
        color = plots.BEST if report.equivalent else plots.TECHNIQUE
        shown = max(report.error, 1e-17)
        ax.barh(row, shown, left=1e-18, color=color, height=0.6)
        ax.text(2 * shown, row, f"{report.error:.1g}", va="center", fontsize=8, color=color)
    tolerance = max(report.tolerance for report in reports.values())
    ax.axvline(tolerance, color=plots.QUIET, linestyle=":")
    ax.set_yticks(range(len(reports)), list(reports))
    ax.set(xscale="log", xlim=(1e-17, 1e3), ylim=(len(reports) - 0.4, -0.6))
    ax.set_xlabel("largest error of the gradient, relative; left of the dotted line it is rounding")
    return ax


def draw_lives(
    ax: Axes, attempts: Sequence[tuple[list[int], Seconds]], whole: Seconds, every: int
) -> Axes:
    """The losses of each attempt over those of a run that nobody killed."""
    ax.plot(range(1, len(whole) + 1), whole, color="#CCCCCC", linewidth=7, label="never killed")
    colors = (plots.BASELINE, plots.TECHNIQUE, plots.BEST)
    for k, (steps, losses) in enumerate(attempts):
        color = colors[min(k, len(colors) - 1)]
        ax.plot(steps, losses, color=color, linewidth=1.8, label=f"attempt {k + 1}")
        if k < len(attempts) - 1:
            end = (steps[-1], losses[-1])
            ax.plot(*end, "X", color=color, markersize=11, zorder=5)
            look = {"arrowprops": {"arrowstyle": "-", "color": color}, "color": color}
            told, over = f"rank 1 killed at step {steps[-1]}", {"textcoords": "offset points"}
            ax.annotate(told, end, xytext=(10, 40), **over, **look)  # type: ignore[arg-type]
    saved = range(every, len(whole) + 1, every)
    ax.plot(saved, [0] * len(saved), "^", color=plots.QUIET, clip_on=False, label="checkpoint")
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(whole) + 1), ylim=(0, None))
    ax.legend(frameon=False)
    return ax
