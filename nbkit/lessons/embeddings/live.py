"""The live lab of the lesson embeddings: a table of your spread against PyTorch's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.embeddings.pictures import LAB_STEPS, draw_table_arms
from nbkit.lessons.embeddings.task import (
    ADAM_GRID,
    BATCH,
    SGD_GRID,
    TUNING,
    make_author_data,
    make_word_net,
    set_spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVAL = "PyTorch at its best lr"


@cache
def find_default_table_lr(optimizer: str) -> float:
    """Find the best lr of PyTorch's own table for the trainings of the lab."""
    data, arms = make_author_data(), {"PyTorch": {"optimizer": optimizer}}
    grid = ADAM_GRID if optimizer == "adam" else SGD_GRID
    options: dict[str, Any] = {"steps": LAB_STEPS, "batch_size": BATCH}
    return tuned(make_word_net(data), data, arms, grid, TUNING[:2], **options).lrs["PyTorch"]


def draw_lab(
    fig: Figure,
    *,
    spread: float,
    lr: float,
    optimizer: str,
    rival_at_its_best: bool,
    seeds: Sequence[int],
) -> Generator[None, None, str]:
    """Draw the training losses with your table and with PyTorch's, and say which ends lower."""
    ax, data, rival = fig.subplots(), make_author_data(), "PyTorch"
    common: dict[str, Any] = {"lr": lr, "optimizer": optimizer}
    arms = {"yours": {**common, "init": partial(set_spread, spread=spread)}, "PyTorch": common}
    if rival_at_its_best:
        rival = RIVAL
        arms[RIVAL] = {**common, "lr": find_default_table_lr(optimizer)}
    options: dict[str, Any] = {"steps": LAB_STEPS, "batch_size": BATCH}
    for runs in train_runs(make_word_net(data), data, arms, seeds, **options):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (LAB_STEPS // 3, LAB_STEPS):
            draw_table_arms(ax, runs)
        yield
    final = dict(zip(runs.arms, runs.final().tolist(), strict=True))
    sentence = compare_losses("yours", final["yours"], rival, final[rival])
    return f"{describe_table_goal(sentence, spread, optimizer, rival)}{sentence}"


def describe_table_goal(sentence: str, spread: float, optimizer: str, rival: str) -> str:
    """Say which goal a comparison has reached, as the start of a sentence."""
    if optimizer == "sgd" and spread <= 0.3 and sentence.startswith("yours ends higher"):
        return "goal 2 reached: "
    if not sentence.startswith("yours ends lower"):
        return ""
    return "goal 3 reached: " if rival == RIVAL else "goal 1 reached: "
