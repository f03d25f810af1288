"""The live lab of the lesson weight_norm: one lr and one scale, with and without weight_norm."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from nbkit.lab.data import digits
from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.weight_norm.pictures import LAB_STEPS, draw_normed_arms
from nbkit.lessons.weight_norm.task import BATCH, GRID, TUNING, make_arms, make_small_net, start_net

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVAL = "plain at its best lr"


@cache
def find_plain_lr(scale: float) -> float:
    """Find the best lr of the plain network at this scale, for the trainings of the lab."""
    plain = {"plain": make_arms(partial(start_net, scale=scale))["plain"]}
    options: dict[str, Any] = {"steps": LAB_STEPS, "batch_size": BATCH}
    data = digits()
    return tuned(make_small_net(data), data, plain, GRID[1:5], TUNING, **options).lrs["plain"]


def draw_lab(
    fig: Figure, *, lr: float, scale: float, rival_at_its_best: bool, seeds: Sequence[int]
) -> Generator[None, None, str]:
    """Draw the training losses of both arms, and say which ends lower."""
    ax, data = fig.subplots(), digits()
    arms, rival = make_arms(partial(start_net, scale=scale), lr=lr), "plain"
    if rival_at_its_best:
        rival = RIVAL
        arms[RIVAL] = {**arms["plain"], "lr": find_plain_lr(scale)}
    options: dict[str, Any] = {"steps": LAB_STEPS, "batch_size": BATCH}
    for runs in train_runs(make_small_net(data), data, arms, seeds, **options):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (LAB_STEPS // 3, LAB_STEPS):
            draw_normed_arms(ax, runs)
        yield
    final = dict(zip(runs.arms, runs.final().tolist(), strict=True))
    sentence = compare_losses("weight norm", final["weight norm"], rival, final[rival])
    lost = dict(zip(runs.arms, runs.diverged.sum(1).tolist(), strict=True))
    return f"{describe_norm_goal(lost, sentence, rival)}{sentence}"


def describe_norm_goal(lost: Mapping[str, int], sentence: str, rival: str) -> str:
    """Say which goal a comparison has reached, as the start of a sentence.

    Args:
        lost: how many runs of each arm have diverged.
    """
    if lost["weight norm"] > lost[rival]:
        return "goal 1 reached: "
    is_lower = rival == "plain" and sentence.startswith("weight norm ends lower")
    return "goal 2 reached: " if is_lower else ""
