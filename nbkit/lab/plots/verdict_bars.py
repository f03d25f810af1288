"""Draw verdicts as bars: the effect with its interval, held against the margin of its claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.plots.palette import VERDICTS, style_verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Larger effects are drawn here: the margins of all claims lie far below.
LARGEST_EFFECT = 10.0


def effects(ax: Axes, verdicts: Sequence[Verdict]) -> Axes:
    """Draw one row for each verdict: the effect, its interval, and the margin of its claim."""
    labels = []
    for row, verdict in enumerate(verdicts):
        labels.append(f"{verdict.claim.id}  {verdict.verdict}")
        # A verdict without an effect was not measured: its row has a label only.
        if verdict.effect is not None:
            _draw_effect_row(ax, row, verdict, verdict.effect)
    ax.set_yticks(range(len(verdicts)), labels)
    # The axis runs downwards, so that the first verdict stands at the top.
    ax.set_ylim(len(verdicts) - 0.4, -0.6)
    ax.set_xlabel("effect, with its interval; the black bar is the margin")
    return ax


def _draw_effect_row(ax: Axes, row: int, verdict: Verdict, effect: Interval) -> None:
    """Draw one row: the interval as a bar, the estimate as the verdict's mark, the margin."""
    color, margin = VERDICTS[verdict.verdict], verdict.claim.margin
    # An interval without an upper end has to end somewhere on the axis.
    high = min(effect.high, LARGEST_EFFECT)
    ax.plot([effect.low, high], [row, row], color=color, linewidth=3, solid_capstyle="butt")
    ax.plot(min(effect.estimate, LARGEST_EFFECT), row, **style_verdict(verdict.verdict))
    if margin is not None:
        ax.plot([margin, margin], [row - 0.35, row + 0.35], color="black", linewidth=1)
    text = verdict.reason if margin is None else str(effect)
    # x in fractions of the axes, y in data: the text stands to the right of the frame.
    ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)


def against_margin(ax: Axes, verdict: Verdict, *, label: str, title: str = "") -> Axes:
    """Draw one verdict: the interval as a bar, its estimate as a dot, the margin as a line.

    Args:
        label: name of the axis, in a few words.
        title: text in front of the verdict.
    """
    effect, margin, color = verdict.effect, verdict.claim.margin, VERDICTS[verdict.verdict]
    ax.set_title(f"{title} {verdict.verdict}".strip(), color=color, fontsize=10)
    ax.set(yticks=[], ylim=(-1, 1), xlabel=label)
    if effect is None or margin is None:
        return ax

    # An interval without an upper end has to end somewhere on the axis.
    far = 4 * margin
    # Pale, so that the marker of the estimate stands out whatever its shape.
    ends = [effect.low, min(effect.high, far)]
    ax.plot(ends, [0, 0], color=color, alpha=0.35, linewidth=6, solid_capstyle="butt")
    ax.plot(min(effect.estimate, far), 0, **style_verdict(verdict.verdict))
    ax.axvline(margin, color="black", linewidth=1)
    ax.annotate(f"margin {margin:g}", (margin, 0.8), xytext=(4, 0), textcoords="offset points")
    # The axis of a ratio starts at 0, so that lengths can be compared by eye.
    if verdict.claim.measure == "ratio":
        ax.set_xlim(0, max(2 * margin, 1.15 * min(effect.high, far)))
    return ax
