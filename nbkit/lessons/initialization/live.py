"""The live lab of the lesson initialization: signal, gradient and training of two starts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.initialization.pictures import COLORS, draw_signals, draw_start_arms
from nbkit.lessons.initialization.task import (
    BATCH,
    LRS,
    TUNING,
    build_deep_net,
    load_centred_digits,
    make_scaled_init,
    report_init,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

LAB_STEPS, LAB_LR = 40, 0.003
RIVAL = "PyTorch, best lr"


def keep_start(model: nn.Module) -> None:
    """Leave the model as PyTorch has made it."""


@cache
def find_default_lr(depth: int, activation: str) -> float:
    """Find the best lr of PyTorch's own start for the trainings of the lab."""
    make = partial(build_deep_net, depth, activation)
    arms = {"PyTorch": {"optimizer": "adam"}}
    data, seeds = load_centred_digits(), TUNING[:2]
    found = tuned(make, data, arms, LRS[::2], seeds, steps=LAB_STEPS, batch_size=BATCH)
    return found.lrs["PyTorch"]


def draw_lab(
    fig: Figure,
    *,
    depth: int,
    scheme: str,
    gain: float,
    activation: str,
    rival_at_its_best: bool,
    seeds: Sequence[int],
) -> Generator[None, None, str]:
    """Draw each layer's signal and gradient, and train, from PyTorch's start and from yours."""
    data = load_centred_digits()
    look = data.x_train[:256], data.y_train[:256]
    make = partial(build_deep_net, depth, activation)
    inits = {"PyTorch": keep_start, "yours": make_scaled_init(scheme, gain, activation)}
    *left, right = fig.subplots(1, 3)
    for name, init in inits.items():
        draw_signals(left, report_init(make, init, look), label=name, color=COLORS[name])
    yield

    adam = {"lr": LAB_LR, "optimizer": "adam"}
    arms: dict[str, dict[str, Any]] = {"yours": {**adam, "init": inits["yours"]}, "PyTorch": adam}
    rival = "PyTorch"
    if rival_at_its_best:
        rival = RIVAL
        arms[RIVAL] = {**adam, "lr": find_default_lr(depth, activation)}
    for runs in train_runs(make, data, arms, seeds, steps=LAB_STEPS, batch_size=BATCH):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (LAB_STEPS // 3, LAB_STEPS):
            draw_start_arms(right, runs, steps=LAB_STEPS)
        yield
    final = dict(zip(runs.arms, runs.final().tolist(), strict=True))
    return compare_losses("yours", final["yours"], rival, final[rival])
