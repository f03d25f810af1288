"""The live lab of the lesson accumulation, and the comparison that its third claim makes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.accumulation import pictures
from nbkit.lessons.accumulation.memory import build_conv_net, trace_activations
from nbkit.lessons.accumulation.task import build_net

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 1024  # of each training in the live lab
GRID = [10 ** (k / 4) for k in range(-8, 2)]  # 0.01 to 1.8, four lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
BUDGET = 4096  # examples of each training that a claim compares


@lru_cache(maxsize=64)
def trace_window(micro_batch: int, micro_batches: int) -> tuple[list[int], list[int]]:
    """Trace the memory of a convolutional network's step: as one batch, and in pieces."""
    window = micro_batch * micro_batches
    data, model = digits(), build_conv_net(16, 3)
    x, y = data.x_train[:window].clone(), data.y_train[:window].clone()
    whole = trace_activations(model, x, y, window)
    return whole, trace_activations(model, x, y, micro_batch)


def draw_lab(
    fig: Figure,
    *,
    micro_batch: int,
    micro_batches: int,
    lr: float,
    scale: float,
    seeds: Sequence[int],
) -> Generator[None, None, str]:
    """Draw both trainings over the examples seen, and the memory of one step over time."""
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    pictures.draw_memory_over_time(right, *trace_window(micro_batch, micro_batches))
    window, curves = micro_batch * micro_batches, {}
    ways = {"accumulated": (window, scale * lr), "a step each": (micro_batch, lr)}
    for name, (size, rate) in ways.items():
        # Accumulating is the large batch, which is quicker to train.
        arm, steps = {name: {"lr": rate}}, EXAMPLES // size
        for runs in train_runs(build_net, digits(), arm, seeds, steps=steps, batch_size=size):
            if runs.step % 32 == 0:
                yield
        curves[name] = pictures.average_by_window(runs, window // size)
    pictures.draw_by_examples(left, curves, window, examples=EXAMPLES)
    quarter = max(1, EXAMPLES // window // 4)
    ends = {name: losses[:, -quarter:].mean(1).tolist() for name, losses in curves.items()}
    sentence = compare_losses(
        "accumulated", ends["accumulated"], "a step each", ends["a step each"]
    )
    if sentence.startswith("no difference") and micro_batches > 1 and lr < 0.05:
        return f"goal 1 reached: {sentence}"
    return sentence


# ---- the third claim: the same examples, fewer and smoother steps ----


@lru_cache(maxsize=32)
def measure_at_best(
    data_name: str, size: int, seeds: tuple[int, ...], momentum: float
) -> list[float]:
    """Train on 4,096 examples at the best lr of GRID; return each seed's loss on all of them.

    Args:
        data_name: "digits" or "signals".
        size: samples in a step.
        seeds: seeds that measure; TUNING has chosen the lr.
        momentum: of SGD; 0 is plain SGD.
    """
    data = load_task(data_name)
    make_net = partial(build_net, inputs=data.x_train.shape[1])
    # With momentum 0.9 a step is ten times as long in the end, so the grid lies ten times lower.
    lrs = [lr * (1 - momentum) for lr in GRID]
    options: dict[str, Any] = {"steps": BUDGET // size, "batch_size": size}
    arms = tuned(make_net, data, {"sgd": {"momentum": momentum}}, lrs, TUNING, **options).arms
    *_, runs = train_runs(make_net, data, arms, seeds, **options)
    losses: list[float] = runs.evaluate(data.x_train, data.y_train)[0][0].tolist()
    return losses


def load_task(name: str) -> Data:
    """Load a task of the lesson by its name."""
    from nbkit.lab.signal_data import signals

    return {"digits": digits, "signals": signals}[name]()
