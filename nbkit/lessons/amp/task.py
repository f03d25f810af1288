"""What lesson `amp` trains and measures: small gradients, accuracies, steps and a map of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nbkit.amp import Amp
from nbkit.base.state import digest
from nbkit.lab.cost.process_timing import ProcessTiming, Setup, time_in_processes
from nbkit.lab.cost.timing import memory_report, time_it
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.models import mlp
from nbkit.lab.runs.options.precision import InPrecision
from nbkit.lab.runs.training import one_thread

LR = 0.003  # of Adam, for the network that looks for the ink
GRID = [10 ** (k / 4) for k in range(-11, -4)]  # 0.0018 to 0.056, four lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them

Size = tuple[int, int]  # width of the layers, samples in a batch


# ---- the ink ----


def locate_ink(data: Data, pixel: float) -> Data:
    """Give the digits a position to predict: the centre of the ink, in metres from the middle.

    Args:
        data: 8x8 digits, flattened.
        pixel: the side of a pixel, in metres.

    >>> from nbkit.lab.data import digits
    >>> locate_ink(digits(), pixel=0.003).y_train.shape
    torch.Size([1497, 2])
    """
    y_train, y_test = (pixel * _find_ink_centre(x) for x in (data.x_train, data.x_test))
    return replace(data, y_train=y_train, y_test=y_test)


def _find_ink_centre(x: Tensor) -> Tensor:
    """Find the mean row and column of the ink, in pixels from the middle."""
    ink = x.view(-1, 8, 8)
    # The middle of an 8 x 8 image lies between pixels 3 and 4.
    place = torch.arange(8.0, device=x.device) - 3.5
    # Centre of mass: sum of position * ink, divided by all the ink.
    return torch.stack([(ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)], 1) / ink.sum(
        (1, 2)
    ).unsqueeze(1)


def make_finder(seed: int) -> tuple[nn.Sequential, torch.optim.Adam]:
    """Build the network that looks for the ink, and its optimizer: the same seed, the same weights.

    Its output is in pixels.
    """
    torch.manual_seed(seed)
    model = mlp(depth=3, width=32, classes=2)
    return model, torch.optim.Adam(model.parameters(), lr=LR)


def find_first_gradients(data: Data, pixel: float) -> Tensor:
    """Find the gradients of the first batch in float32, in one row without those that are zero."""
    model, _ = make_finder(seed=0)
    x, y = next(iter(data.batches(64, seed=0)))
    mse_loss(pixel * model(x), y).backward()
    rows = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    row = torch.cat(rows)
    # A zero gradient has no size on a logarithmic axis.
    return row[row != 0]


def train_with(
    take_step: Callable[[Tensor, torch.optim.Optimizer, Any], tuple[bool, Any]],
    state: Any,
    *,
    pixel: float = 0.003,
) -> tuple[list[bool], str]:
    """Train the finder for 60 steps in fp16; `take_step(loss, optimizer, state)` makes each step.

    Args:
        take_step: returns whether it stepped, and the state for the next step.
        state: what the steps hand on, such as the loss scale.
    Returns:
        for each step whether it was made; a fingerprint of the weights in the end.
    """
    (model, optimizer), data = make_finder(seed=0), locate_ink(digits(), pixel)
    made = []
    for x, y in data.batches(64, seed=0, steps=60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = mse_loss(pixel * model(x), y)
        stepped, state = take_step(loss, optimizer, state)
        made.append(bool(stepped))
    return made, digest(model)


# ---- the claims ----


def choose_budget(profile: str) -> tuple[dict[str, range], list[float], str]:
    """Choose the seeds of each task, the lrs to try and the device."""
    counts = {"smoke": (3, 3), "lesson": (16, 24), "full": (32, 48)}[profile]
    seeds = {"digits": range(counts[0]), "signals": range(counts[1])}
    lrs = GRID[2::2] if profile == "smoke" else GRID
    return seeds, lrs, "cuda" if torch.cuda.is_available() else "cpu"


def make_net(data: Data) -> Callable[[], nn.Module]:
    """Return a function that builds the classifier of the first claim for this data."""
    return partial(mlp, 3, inputs=data.x_train.shape[1])


def make_steps(
    width: int, size: int, device: str, times: int = 1
) -> dict[str, Callable[[], object]]:
    """Make two functions that train a perceptron for some steps, in float32 and in bf16."""
    x, y = torch.randn(size, width, device=device), torch.randint(10, (size,), device=device)
    steps: dict[str, Callable[[], object]] = {}
    for precision in ("fp32", "bf16"):
        model = mlp(3, width, inputs=width).to(device)
        optimizer = torch.optim.Adam(model.parameters())
        amp = Amp(precision, device)
        steps[precision] = partial(_take_amp_steps, amp, model, optimizer, x, y, times)
    return steps


def _take_amp_steps(
    amp: Amp, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, times: int
) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        with amp.autocast():
            loss = cross_entropy(model(x), y)
        amp.backward(loss)
        amp.step(optimizer)


def time_fresh_steps(
    setups: Mapping[str, Setup], device: str, n: int, *, budget_seconds: float
) -> dict[str, ProcessTiming]:
    """Time training steps in fresh processes: on a GPU by the wall clock, else on one thread.

    On a CPU it is the time of that thread, which leaves out what other programs take.
    """
    cpu = device == "cpu"
    return time_in_processes(
        setups,
        n,
        budget_seconds=budget_seconds,
        clock=time.process_time if cpu else time.perf_counter,
        threads=1 if cpu else None,
    )


# ---- the map ----


def choose_sizes(device: str, profile: str) -> tuple[Sequence[int], Sequence[int]]:
    """Choose the widths and the batch sizes of the map, so that the device has work to do."""
    widths: Sequence[int] = (64, 256, 512)
    sizes: Sequence[int] = (16, 128, 512)
    if device == "cuda":
        widths, sizes = (512, 2048, 4096), (64, 1024, 8192)
    return (widths[:2], sizes[:2]) if profile == "smoke" else (widths, sizes)


def map_sizes(cells: Iterable[Size], device: str) -> tuple[dict[Size, Interval], dict[Size, float]]:
    """Measure, for each width and batch, the speed of bf16 relative to float32, and its memory.

    Returns:
        seconds in float32 / in bf16, over rounds of one process; bytes in bf16 / in float32.
    """
    faster, smaller = {}, {}
    for width, size in cells:
        faster[width, size] = time_one_size(width, size, device)
        half, full = (measure_step_bytes(p, width, size, device) for p in ("bf16", "fp32"))
        smaller[width, size] = half / full
    return faster, smaller


def time_one_size(width: int, size: int, device: str) -> Interval:
    """Time one step in both precisions, in turn, and return how many times as fast bf16 is."""
    arms = make_steps(width, size, device)
    timed = partial(time_it, arms, 6, max_warmup=4, budget_seconds=3)
    # Work on a GPU is not in the time of this process, so the wall clock decides.
    if device != "cpu":
        return timed().ratio("fp32", to="bf16")
    with one_thread():
        return timed(clock=time.process_time).ratio("fp32", to="bf16")


def measure_step_bytes(precision: str, width: int, size: int, device: str, seed: int = 0) -> int:
    """Measure one training step of a perceptron in bytes: on a GPU its peak, else all parts."""
    torch.manual_seed(seed)
    model = mlp(3, width, inputs=width).to(device)
    batch = torch.randn(size, width), torch.randint(10, (size,))
    mixed, adam = InPrecision(model, precision), torch.optim.Adam(model.parameters())
    report = memory_report(mixed, batch, cross_entropy, adam)
    # Only a GPU reports a peak; elsewhere the parts are added up.
    return report.peak or report.total


def conclude_map(
    faster: Mapping[Size, Interval], smaller: Mapping[Size, float], *, native: bool
) -> str:
    """Say in Markdown what the map shows on this machine, and why.

    Args:
        native: whether the hardware has instructions for bf16.
    """
    wins = [size for size, ratio in faster.items() if ratio.low > 1]
    losses = [size for size, ratio in faster.items() if ratio.high < 1]
    small, large = faster[min(faster)].estimate, faster[max(faster)].estimate
    direction = "rises" if large > small else "falls"
    units = "has instructions for bf16" if native else "is not known to have instructions for bf16"
    reason = {
        (True, "rises"): "the arithmetic that is saved pays for the conversions, once there is "
        "enough of it",
        (True, "falls"): "yet more work does not help here; time your own network",
        (False, "rises"): "yet large networks lose less than small ones; time your own",
        (False, "falls"): "an emulated product costs more than float32's, so that more arithmetic "
        "makes it worse",
    }[native, direction]
    saved = [size for size, ratio in smaller.items() if ratio < 0.995]
    return (
        f"**On this machine** bf16 is faster in {len(wins)} of {len(faster)} cells and slower in "
        f"{len(losses)}. From the smallest cell to the largest, its speed relative to float32 "
        f"{direction}. The hardware {units} (`nbkit doctor`): {reason}. Memory falls in "
        f"{len(saved)} of {len(smaller)} cells."
    )


# ---- the bug hunt ----


def list_suspects(y: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the three losses of the bug hunt, for samples with these labels."""
    import numpy

    one_hot = torch.eye(10)[y]

    def a(output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(output * torch.tensor(2.0, dtype=torch.float64), one_hot)

    def b(output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(2.0 * output, torch.from_numpy(numpy.eye(10))[y])

    def c(output: Tensor, y: Tensor) -> Tensor:
        product: Tensor = numpy.float64(2.0) * output
        return mse_loss(product, one_hot)

    return {"a": a, "b": b, "c": c}
