"""The pictures of lesson `clipping`: each draws on the axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nbkit.clipping import ClipHistory
from nbkit.lab import plots
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.runs.seeds import Runs
from nbkit.lessons.clipping.networks import UNITS
from nbkit.lessons.clipping.task import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "no clipping": plots.BASELINE,
    "clipped": plots.TECHNIQUE,
    "no clipping, best lr": plots.BEST,
}
CHANCE = math.log(2)  # the loss of guessing one of two answers
NORMS = (0.005, 200)  # the frame of the norms: it holds every threshold of the slider
WINDOW = 5  # steps in each mean of the losses
ROOM = 1.6  # of the axis of steps: the names stand to the right of the curves


def draw_norms(ax: Axes, norms: Sequence[float], *, max_norm: float, firing: int) -> Axes:
    """Draw the gradient's norm at each step against the threshold, with a dot where it is cut.

    Args:
        norms: before clipping.
        firing: units that still fire at the end; the title names them.
    """
    # A norm that is not finite, or beyond the frame, is drawn at its upper edge.
    shown = [norm if norm < NORMS[1] else NORMS[1] for norm in norms]
    steps = range(1, len(shown) + 1)
    ax.plot(steps, shown, color=plots.TECHNIQUE, linewidth=1, gid="ghost")
    cut = [(step, norm) for step, norm in zip(steps, shown, strict=True) if not norm <= max_norm]
    ax.plot([step for step, _ in cut], [norm for _, norm in cut], "o", **_dots())
    ax.axhline(max_norm, color="black", linewidth=1.2, linestyle="--")
    # The name stands inside the frame, above the line or, near the top, below it.
    low = max_norm < NORMS[1] / 4
    label = f"max_norm {shorten_number(max_norm)}"
    ax.text(0.98, max_norm * (1.15 if low else 0.85), label, **_name(ax, low))
    # To the right of the last step there is only the threshold's name.
    ax.set(yscale="log", ylim=NORMS, xlim=(0, ROOM * len(shown)), xlabel="step")
    ax.set_xticks(range(0, len(shown) + 1, max(1, len(shown) // 3)))
    ax.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    ax.set_ylabel("gradient norm")
    share = len(cut) / len(shown)
    ax.set_title(f"clipped in {share:.0%} of steps; {firing} of {UNITS} units fire", fontsize=9)
    return ax


def _dots() -> dict[str, Any]:
    """Return the style of the steps that were clipped."""
    return {"color": plots.TECHNIQUE, "markersize": 4}


def _name(ax: Axes, low: bool) -> dict[str, Any]:
    """Return the style of the threshold's name: x in fractions of the frame, y in norms."""
    side = "bottom" if low else "top"
    return {"transform": ax.get_yaxis_transform(), "ha": "right", "va": side, "fontsize": 8}


def draw_losses(ax: Axes, runs: Runs, *, steps: int) -> Axes:
    """Draw the training losses of each arm so far, as means of a few steps, in a fixed frame."""
    ax.clear()
    whole = runs.step // WINDOW * WINDOW
    # Single steps are too noisy to compare: (arms, seeds, steps) -> means of WINDOW steps.
    means = runs.losses[..., :whole].unflatten(-1, (-1, WINDOW)).mean(-1)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, ROOM * steps), ylim=(0.2, 1.0))
    for name, values in zip(runs.arms, means, strict=True):
        # A loss above the frame is drawn at its upper edge.
        shown = values.clamp(max=0.99)
        label = name.removeprefix("no clipping, ")
        plots.seeds(ax, shown, label=label, color=COLORS[name], x=range(WINDOW, whole + 1, WINDOW))
    ax.axhline(CHANCE, color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.text(ROOM * steps, CHANCE, "guessing ", ha="right", va="bottom", color=plots.QUIET)
    # To the right of the last step there are names only: no tick belongs there.
    ax.set_xticks(range(0, steps + 1, steps // 3))
    return plots.spread_names(ax)


def show_collapse(losses: Sequence[Tensor], firing: Sequence[int]) -> None:
    """Show one training: its loss on the left, the units that still fire on the right."""
    import matplotlib.pyplot as plt

    _, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    steps = range(1, len(losses) + 1)
    left.plot(steps, torch.stack(list(losses)).detach(), color=plots.BASELINE, linewidth=1)
    left.axhline(CHANCE, color=plots.QUIET, linestyle=":")
    # To the right of the last step there is only this name.
    left.text(len(losses) + 2, CHANCE, "guessing", va="bottom", color=plots.QUIET)
    left.set(xlabel="step", ylabel="training loss", ylim=(0.2, 1.0), xlim=(0, 1.25 * len(losses)))
    right.plot(steps, firing, color=plots.BASELINE)
    right.set(xlabel="step", ylabel="units that fire", ylim=(0, UNITS + 0.5))
    right.set_yticks(range(0, UNITS + 1, 4))
    right.set_title(f"{firing[-1]} of {UNITS} after the last step", fontsize=9)
    plt.show()


def draw_steps(
    axes: Sequence[Axes],
    distances: Sequence[float],
    losses: Sequence[float],
    firing: Sequence[int],
    *,
    steps: Mapping[str, tuple[float, float, int]],
) -> None:
    """Draw what lies along minus the gradient, and where a whole and a clipped step end.

    Args:
        axes: for the loss, and for the units that still fire.
        distances, losses, firing: as `walk_along_gradient` measures them.
        steps: name -> distance, loss and firing units at the end of that step.
    """
    upper, lower = axes
    upper.plot(distances, losses, color=plots.QUIET)
    lower.plot(distances, firing, color=plots.QUIET, drawstyle="steps-mid")
    colors = {"whole step": plots.BASELINE, "clipped step": plots.TECHNIQUE}
    for row, (name, (distance, loss, units)) in enumerate(steps.items()):
        for ax, height in ((upper, loss), (lower, units)):
            ax.plot(distance, height, "o", color=colors[name], markersize=9, clip_on=False)
        # The names keep their place, so that they never meet.
        place: Any = {"transform": upper.transAxes, "va": "top", "fontsize": 8}
        told = f"{name}: {shorten_number(distance)} long, loss {shorten_number(loss)}"
        upper.text(0.03, 0.96 - 0.11 * row, told, color=colors[name], **place)
    shared: Any = {"xscale": "log", "xlim": (distances[0], distances[-1])}
    upper.set(yscale="log", ylim=(0.3, 1000), ylabel="loss", **shared)
    upper.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    lower.set(ylim=(0, UNITS + 0.5), ylabel="units that still fire", **shared)
    lower.set_yticks(range(0, UNITS + 1, 4))
    for ax in axes:
        ax.set_xlabel("length of the step")
        ax.set_xticks([0.001, 0.01, 0.1, 1, 10], ["0.001", "0.01", "0.1", "1", "10"])


def show_tunings(compared: Mapping[str, Comparison]) -> None:
    """Show for each task how the lrs were chosen: mean final loss of both arms over the lr."""
    import matplotlib.pyplot as plt

    _, grid = plt.subplots(1, len(compared), figsize=(11, 3), layout="constrained", squeeze=False)
    axes = grid[0]
    for ax, (name, comparison) in zip(axes, compared.items(), strict=True):
        found = comparison.found
        for row, arm in enumerate(found.arms):
            losses = found.scores[row].tolist()
            color, style = COLORS[arm], "o-" if arm == "clipped" else "s--"
            # A run far above guessing has left the frame; inf is not drawn at all.
            ax.plot(found.grids[arm], losses, style, color=color, markersize=4, label=arm)
            best = losses[found.grids[arm].index(found.lrs[arm])]
            ax.plot(found.lrs[arm], best, "o", color=color, markersize=12, fillstyle="none")
        chance = math.log(comparison.classes)
        ax.axhline(chance, color=plots.QUIET, linestyle=":", linewidth=0.8)
        ax.set(xscale="log", xlabel="learning rate", ylim=(0, 1.4 * chance), title=name)
        # Every third lr of the grid, as plain numbers: between them matplotlib would crowd powers.
        ticks = found.grids["clipped"][::3]
        ax.set_xticks(ticks, [shorten_number(lr) for lr in ticks])
        ax.set_xticks([], minor=True)
        ax.text(ticks[0], chance, "guessing", va="bottom", color=plots.QUIET, fontsize=8)
    axes[0].set_ylabel("final loss, four tuning seeds")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    plt.show()


def show_map(cells: Mapping[tuple[float, float], Verdict]) -> None:
    """Show a verdict for each pair of lr and threshold."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    plots.grid(ax, cells, x="lr", y="max_norm")
    seeds = next(iter(cells.values())).effect
    count = "" if seeds is None else f", {seeds.n} seeds a cell"
    plots.caption(ax, f"final loss, clipped / without clipping at its best lr{count}")
    plt.show()


def show_history(history: ClipHistory) -> None:
    """Show the norms of one training, and the threshold that they suggest."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    history.plot(ax=ax)
    plots.write_plain_ticks(ax.yaxis)
    plt.show()


def shorten_number(value: float) -> str:
    """Write a number with two significant digits and no exponent.

    >>> shorten_number(472.3), shorten_number(0.0512)
    ('470', '0.051')
    """
    return f"{float(f'{value:.2g}'):g}"
