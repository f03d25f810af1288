"""Draw training curves and final losses: seeds as thin lines or dots, their median as a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from nbkit.base.numbers import read_real
from nbkit.lab.plots.frame import (
    draw_chance,
    spread_names,
    write_beside,
    write_plain_ticks,
)
from nbkit.lab.plots.palette import BASELINE, QUIET
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 1.4  # length of the axis of steps over that of the curves: the names stand in the rest


def seeds(
    ax: Axes,
    values: torch.Tensor,
    *,
    label: str,
    color: str,
    x: Sequence[float] | None = None,
    at: float = 1.0,
) -> Axes:
    """Draw each seed as a thin line and their median as a thick one, with its name beside it.

    Args:
        values: (seeds, points); a diverged run's NaN and infinite points are left out of its line.
        label: the name beside the median.
        color: colour of all lines.
        x: the points' positions; 1, 2, 3, ... by default.
        at: position of the name along the median, from 0 to 1; 1 is its end.
    """
    rows = values.detach().float().cpu()
    # matplotlib leaves a gap at NaN, but an infinite point would stretch its axes.
    rows = torch.where(rows.isfinite(), rows, math.nan)
    x = range(1, rows.shape[1] + 1) if x is None else x
    # matplotlib draws one line for each column: (seeds, points) -> (points, seeds).
    ax.plot(x, rows.T, color=color, alpha=0.25, linewidth=0.8)
    median = rows.nanmedian(dim=0).values
    # The live lab finds the median by its gid, and keeps it as the ghost of the previous run.
    ax.plot(x, median, color=color, linewidth=2.2, label=label, gid="median")
    # The name stands beside a point that is drawn: where all seeds diverged, there is none.
    drawn = median.isfinite().nonzero().flatten().tolist()
    if drawn:
        point = drawn[min(int(at * len(drawn)), len(drawn) - 1)]
        write_beside(ax, label, (x[point], float(median[point])), color)
    return ax


def arms(
    ax: Axes,
    runs: Runs,
    colors: Mapping[str, str],
    *,
    steps: int | None = None,
    ylim: tuple[float, float] | None = None,
    chance: float | None = None,
) -> Axes:
    """Clear `ax`, and draw the training losses of each arm so far in the arm's colour.

    Args:
        runs: the losses so far.
        colors: of each arm, by name.
        steps: number of steps of the whole training. The axis of steps then keeps its length
            while the curves grow; by default it ends after the last step so far.
        ylim: lowest and highest loss of the frame, above 0. The axis then stays the same in
            every picture, and runs that leave the frame are named at its upper edge, as in "yours:
            3 of 8 diverged"; by default the axis follows the losses.
        chance: the loss of guessing, drawn as a dotted line with its name.
    Raises:
        ValueError: if ylim are not two numbers, 0 < low < high, or steps is not a positive number.
    """
    _check_frame(steps, ylim)
    ax.clear()
    for name, losses in zip(runs.arms, runs.losses, strict=True):
        seeds(ax, losses, label=name, color=colors[name])
    # The axis ends after the last step, to leave room for the names.
    last = ROOM * runs.step + 1 if steps is None else ROOM * steps
    ax.set(xlabel="step", ylabel="training loss", yscale="log", xlim=(0, last))
    if steps is not None:
        # To the right of the last step there are names only: no tick belongs there.
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= steps])
    if chance is not None:
        draw_chance(ax, chance)
    if ylim is not None:
        ax.set_ylim(ylim)
        _name_lost_runs(ax, runs, colors, ylim[1])
    write_plain_ticks(ax.yaxis)
    return spread_names(ax)


def _check_frame(steps: int | None, ylim: tuple[float, float] | None) -> None:
    """Refuse a frame of `arms` in which nothing could be drawn."""
    if steps is not None and not steps > 0:
        raise ValueError(f"steps must be the number of training steps, above 0, got {steps!r}.")
    if ylim is not None and not 0 < ylim[0] < ylim[1] < math.inf:
        raise ValueError(
            f"ylim must be two losses, 0 < low < high, since the axis is logarithmic, got {ylim}."
        )


def _name_lost_runs(ax: Axes, runs: Runs, colors: Mapping[str, str], top: float) -> None:
    """Write at the upper edge how many runs of each arm diverged, or are above the frame now."""
    row = 0
    for name, losses in zip(runs.arms, runs.losses, strict=True):
        last = losses[:, -1].detach().float().cpu()
        diverged = int((~last.isfinite()).sum())
        above = int((last.isfinite() & (last > top)).sum())
        parts = []
        if diverged:
            parts.append(f"{diverged} of {len(last)} diverged")
        if above:
            parts.append(f"{above} of {len(last)} above {top:g}")
        if not parts:
            continue
        # In fractions of the frame: the first line at the edge, the next ones below it.
        ax.text(
            0.02,
            0.98 - 0.09 * row,
            f"{name}: {', '.join(parts)}",
            transform=ax.transAxes,
            color=colors[name],
            va="top",
            fontsize=9,
        )
        row += 1


def landing(
    ax: Axes, lr: float | Sequence[float], losses: torch.Tensor, *, color: str = BASELINE
) -> Axes:
    """Draw one dot per seed for the final losses of trainings at these lrs, over the lr.

    Args:
        lr: one learning rate for all seeds, or one for each.
        losses: (seeds,) final losses; a diverged run is drawn at the top edge.
        color: colour of the dots.

    The dots of an earlier call are removed.
    """
    # A copy of the list: removing a line while iterating would skip the next one.
    for line in list(ax.lines):
        if line.get_gid() == "landing":
            line.remove()
    single = read_real(lr)
    lrs = lr if single is None else [single] * len(losses)
    bottom, top = ax.get_ylim()
    # A loss that is not finite, or lies above the picture, becomes a dot at its top edge.
    shown = losses.detach().float().cpu().nan_to_num(math.inf, math.inf).clamp(max=top)
    ax.plot(lrs, shown, "o", color=color, alpha=0.6, markersize=5, clip_on=False, gid="landing")
    # A loss below the picture is a real result: the axis grows to show its value.
    lowest = float(shown.min())
    if lowest < bottom:
        ax.set_ylim(lowest - 0.1 * abs(lowest), top)
    return ax


def ladder(ax: Axes, lrs: Sequence[float], losses: torch.Tensor, *, chance: float) -> Axes:
    """Draw final loss against learning rate: one dot per seed, and the median as a line.

    Args:
        lrs: (lrs,) the grid of learning rates.
        losses: (lrs, seeds) final training losses; a diverged run is drawn at the top edge.
        chance: the loss of guessing, drawn as a dotted line.
    """
    losses = losses.detach().float().cpu()
    # A training that is far worse than guessing counts as diverged.
    top = 3 * chance
    shown = torch.where(losses.isfinite(), losses, math.inf).clamp(max=top)
    for lr, row in zip(lrs, shown, strict=True):
        ax.plot([lr] * len(row), row, "o", color=BASELINE, alpha=0.35, markersize=4, clip_on=False)
    ax.plot(lrs, shown.median(dim=1).values, color=BASELINE, linewidth=2)
    ax.axhline(chance, color=QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final training loss")
    ax.set_ylim(top=top)
    write_plain_ticks(ax.xaxis)
    write_plain_ticks(ax.yaxis)
    return ax
