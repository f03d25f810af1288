"""Draw the pictures of ddp; each function takes `ax` and returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from torch import Tensor

from nbkit.base.equivalence import EquivalenceReport
from nbkit.lab import plots
from nbkit.lab.evidence.intervals import Interval
from nbkit.lessons.ddp.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Seconds = list[float]
# The frame of the live lab: it stays, so that two moves can be compared by eye.
COSTS = (0.3, 3000.0)  # microseconds an example
WORK, RATIOS = (0.01, 300.0), (0.3, 12.0)
AVERAGE_COLOR = "#F0B890"  # a bucket that travels; the technique's colour, lighter


def draw_costs(ax: Axes, seconds: Mapping[str, Seconds], examples: int) -> Axes:
    """Draw the microseconds that an example costs, by who computes it: each round, and the median.

    Args:
        ax: the axes.
        seconds: of each arm, an entry a round.
        examples: in an update.
    """
    # The limits come first: a scale would look for some of its own.
    ax.set(xlim=COSTS, ylim=(len(seconds) - 0.4, -0.6), xscale="log")
    scale, medians = 1e6 / examples, []
    for row, (name, spent) in enumerate(seconds.items()):
        color = _choose_color(name)
        costs = [scale * each for each in spent]
        medians.append(median(costs))
        ax.plot(costs, [row] * len(costs), "o", color=color, alpha=0.35, markersize=4)
        ax.plot(medians[-1], row, "|", color=color, markersize=20, markeredgewidth=3)
        ax.text(
            1.02 * COSTS[1], row, f"{_word_cost(medians[-1])}", va="center", fontsize=8, color=color
        )
    # The explorer keeps this line of the previous run as a ghost.
    ax.plot(medians, range(len(medians)), linestyle="none", gid="ghost")
    ax.set_yticks(range(len(seconds)), list(seconds))
    _label_ticks(ax.xaxis, (1, 10, 100, 1000))
    ax.set_xlabel("microseconds an example")
    return ax


def _word_cost(cost: float) -> str:
    """Return a cost in two digits, or whole from 100 on."""
    return f"{cost:.0f}" if cost >= 100 else f"{cost:.2g}"


def _choose_color(name: str) -> str:
    """Return the colour of an arm: two processes, one process, or two that do not average."""
    if "thread" in name:
        return plots.BASELINE
    return plots.QUIET if "not averaging" in name else plots.TECHNIQUE


def _label_ticks(axis: object, values: Sequence[float]) -> None:
    """Write these values at a logarithmic axis, as plain numbers."""
    axis.set_ticks(values, [f"{value:g}" for value in values])  # type: ignore[attr-defined]
    axis.set_ticks([], minor=True)  # type: ignore[attr-defined]


def draw_visited(ax: Axes, visited: Sequence[tuple[float, Interval]]) -> Axes:
    """Draw the time of two processes / one over the computing between two averages.

    Args:
        ax: the axes.
        visited: of each setting: ms between two averages, and the ratio. The last is the present
            one; those before it are hollow dots.
    """
    *before, (work, ratio) = visited
    ax.set(xlim=WORK, ylim=RATIOS, xscale="log", yscale="log")
    ax.axhline(1, color=plots.QUIET, linewidth=1)
    ax.axhline(0.75, color=plots.QUIET, linewidth=1, linestyle=":")
    ax.text(WORK[1], 1.03, "as fast as one ", ha="right", va="bottom", fontsize=7)
    ax.text(WORK[1], 0.73, "a quarter saved ", ha="right", va="top", fontsize=7)
    for x, seen in before:
        ax.plot(x, _clip(seen.estimate), "o", color=plots.QUIET, fillstyle="none", markersize=5)
    ends = [_clip(ratio.low), _clip(ratio.high)]
    ax.plot([work, work], ends, color=plots.TECHNIQUE, linewidth=2)
    ax.plot(work, _clip(ratio.estimate), "o", color=plots.TECHNIQUE, markersize=7)
    _label_ticks(ax.xaxis, (0.1, 1, 10, 100))
    _label_ticks(ax.yaxis, (0.5, 1, 2, 5, 10))
    ax.set(xlabel="ms computed per average", ylabel="time, two / one")
    return ax


def _clip(ratio: float) -> float:
    """Return the ratio, or the edge of the picture that is nearest to it."""
    return min(max(ratio, RATIOS[0]), RATIOS[1])


def draw_drift(ax: Axes, weights: Mapping[int, Sequence[Tensor]]) -> Axes:
    """Draw how far the weights of two ranks are apart, over the number of steps.

    Args:
        ax: the axes.
        weights: for each number of steps, the weights of rank 0 and of rank 1.
    """
    steps, shares = list(weights), []
    for zero, one in weights.values():
        shares.append(100 * measure_drift(zero, one))
    ax.plot(steps, shares, "o-", color=plots.TECHNIQUE, markersize=5)
    ax.set(xlabel="steps", ylabel="% of the weights' length", xlim=(0, None), ylim=(0, None))
    ax.set_title("how far the two networks are apart", fontsize=10)
    return ax


def show_drift(
    ranks: Callable[..., Sequence[Tensor]] | None,
    train: Callable[[int], Tensor],
    counts: Sequence[int],
) -> None:
    """Show how far two ranks have drifted apart, in a picture and in a number.

    Args:
        ranks: runs a function on both; None where there are no two processes.
        train: returns a rank's weights after so many steps.
        counts: these numbers of steps.
    Raises:
        RuntimeError: if they have the same weights, which two ranks that share nothing cannot have.
    """
    import matplotlib.pyplot as plt

    if ranks is None:
        return
    weights = {}
    for steps in counts:
        weights[steps] = ranks(train, steps)
    drift = measure_drift(*weights[max(counts)])
    if drift == 0:
        raise RuntimeError(f"expected two networks that drift apart, got equal ones: {counts}.")
    _, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
    draw_drift(ax, weights)
    plt.show()
    print(f"after {max(counts)} steps they are {drift:.0%} of their weights' length apart")


def measure_drift(zero: Tensor, one: Tensor) -> float:
    """Return the distance between the weights of two ranks, as a share of their length."""
    return float((zero - one).norm() / zero.norm())


def draw_timelines(ax: Axes, lines: Sequence[Timeline], title: str, end: float) -> Axes:
    """Draw one update of each rank: what it does, and below it the buckets that travel.

    Args:
        ax: the axes.
        lines: a timeline for each rank.
        title: of the picture.
        end: seconds at the right edge.
    """
    looks = {"forward": "#9CC3DE", "backward": plots.BASELINE, "step": "#444444"}
    for number, line in enumerate(lines):
        row = 2.5 * number
        for name, color in looks.items():
            _draw_span(ax, getattr(line, name), row, color)
        # Waiting is a hollow box: the rank does nothing.
        _draw_span(ax, line.waiting, row, "white", edge=plots.QUIET)
        for turn, bucket in enumerate(line.buckets):
            # Neighbours at two heights, so that buckets that travel together can be told apart.
            _draw_span(ax, bucket, row + 0.75 + 0.4 * (turn % 2), plots.TECHNIQUE, height=0.3)
    ax.set_yticks([0, 0.95, 2.5, 3.45], ["rank 0", "its buckets", "rank 1", "its buckets"])
    ax.set(xlim=(0, 1000 * end), ylim=(4.1, -0.6))
    ax.set_title(title, fontsize=10, loc="left")
    return ax


def _draw_span(
    ax: Axes,
    span: tuple[float, float],
    row: float,
    color: str,
    *,
    height: float = 0.8,
    edge: str = "white",
) -> None:
    """Draw one bar of a timeline, in milliseconds."""
    start, stop = span
    ax.barh(
        row,
        1000 * (stop - start),
        left=1000 * start,
        height=height,
        color=color,
        edgecolor=edge,
        linewidth=0.6,
    )


def show_timelines(lines: Mapping[int, Sequence[Timeline]]) -> None:
    """Show an update for each size of the buckets, one below the other, on one axis of time."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    size = (10, 0.5 + 1.6 * len(lines))
    _, axes = plt.subplots(
        len(lines), figsize=size, sharex=True, squeeze=False, layout="constrained"
    )
    axes = axes[:, 0]
    end = max(line.step[1] for each in lines.values() for line in each)
    for ax, (bucket_kb, each) in zip(axes, lines.items(), strict=True):
        sent = len(each[0].buckets)
        told = f"buckets of {bucket_kb:,} kB: {sent} sent, {each[0].overlapped} of them early"
        draw_timelines(ax, each, told, 1.02 * end)
    axes[-1].set_xlabel("ms")
    looks = {"forward": "#9CC3DE", "backward": plots.BASELINE, "step": "#444444"}
    patches = [Patch(color=color, label=name) for name, color in looks.items()]
    patches.append(Patch(facecolor="white", edgecolor=plots.QUIET, label="waiting"))
    patches.append(Patch(color=plots.TECHNIQUE, label="a bucket travels"))
    axes[0].figure.legend(handles=patches, loc="outside upper center", ncols=5, frameon=False)
    plots.caption(axes[0], "one update of median length of 13, two ranks, one thread each")
    plt.show()


def draw_errors(ax: Axes, reports: Mapping[str, EquivalenceReport]) -> Axes:
    """Draw how far each gradient of two processes is from that of one, and the rounding limit."""
    tolerances = []
    for row, report in enumerate(reports.values()):
        tolerances.append(report.tolerance)
        color = plots.BASELINE if report.equivalent else plots.TECHNIQUE
        shown = max(report.error, 1e-17)  # a log axis has no place for 0
        ax.barh(row, shown, left=1e-18, color=color, height=0.6)
        ax.text(2 * shown, row, f"{report.error:.1g}", va="center", fontsize=8, color=color)
    # One line for all: the least strict limit of the reports.
    ax.axvline(max(tolerances), color=plots.QUIET, linestyle=":")
    ax.set_yticks(range(len(reports)), list(reports))
    ax.set(xscale="log", xlim=(1e-17, 1e3), ylim=(len(reports) - 0.4, -0.6))
    ax.set_xlabel("largest error of the gradient, relative; left of the dotted line it is rounding")
    return ax
