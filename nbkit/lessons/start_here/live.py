"""The live lab of the lesson start_here: momentum against plain SGD, and the verdict beside it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from nbkit.lab import plots
from nbkit.lab.data import digits
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.evidence.verdicts import judge
from nbkit.lessons.start_here.pictures import draw_momentum_arms
from nbkit.lessons.start_here.task import STEPS, find_rival_lr, train_momentum_arms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_lab(
    fig: Figure, *, lr: float, momentum: float, count: int, rival_at_its_best: bool
) -> Generator[None, None, str]:
    """Draw the losses of both arms, and the first claim's verdict on them."""
    left, right = fig.subplots(1, 2)
    rival_lr = find_rival_lr() if rival_at_its_best else lr
    settings = {"lr": lr, "momentum": momentum, "rival_lr": rival_lr}
    for runs in train_momentum_arms(digits(), range(count), **settings):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (STEPS // 3, STEPS):
            draw_momentum_arms(left, runs)
        yield

    claim = load_claims("start_here")["start-momentum"]
    verdict = judge(claim, paired_ratio(*runs.final().tolist()))
    plots.against_margin(right, verdict, label="loss with momentum / without")
    # The axis stays: whatever lies beyond its end is drawn at the end.
    right.set_xlim(0, 3)
    at_best = f", plain SGD at its best lr, {rival_lr:.2g}" if rival_at_its_best else ""
    return f"{verdict.verdict}: {verdict.reason}, n = {count}{at_best}"
