"""Draw verdict cards: for each claim its sentence, its verdict, and its effect on its own axis.

Effects of different kinds (ratios, differences, shares) never share an axis. Sizes are in inches;
the text of a card stands at the left, its axis in the middle, its numbers at the right.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nbkit.lab import plots
from nbkit.lab.effect_axis import EffectAxis, make_axis
from nbkit.lab.evidence.claims import EQUALITY, SKIPPED, Claim
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.lesson_predictions import LessonPredictions
from nbkit.lab.machine import describe_machine
from nbkit.lab.notebook import display_object

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 9.6, 110
LEFT, AXIS_LEFT, AXIS_RIGHT = 0.15, 4.75, 7.45
LINE = 0.18  # from one line of text to the next
ROW = 0.34  # from one task to the next
AXIS_TOP = 0.5  # above the first task: the margin's name and the arrow
GAP = 0.22  # above and below each card
LEGEND = "bar: interval · black line: margin of the claim · hollow diamond: your prediction"


class Line(NamedTuple):
    """One line of a card's text."""

    text: str
    size: float
    color: str


def show_cards(verdicts: Sequence[Verdict], predictions: LessonPredictions) -> None:
    """Display the cards; as text, and so for nbval, they are the verdicts alone."""
    made: dict[str, Prediction] = {}
    for verdict in verdicts:
        prediction = predictions.find_scored(verdict.claim.id)
        if prediction is not None:
            made[verdict.claim.id] = prediction
    png = io.BytesIO()
    draw_cards(verdicts, made).savefig(png, format="png", dpi=DPI)
    data = {
        "image/png": base64.b64encode(png.getvalue()).decode(),
        "text/plain": "\n".join(map(str, verdicts)),
    }
    # The verdicts' own outputs hold what was measured; this one says what was predicted.
    numbers = [prediction.to_dict() for prediction in made.values()]
    alt = f"Verdict cards. {'. '.join(_describe_card(verdict) for verdict in verdicts)}."
    metadata = {"image/png": {"alt": alt}, "nbkit": {"kind": "cards", "predictions": numbers}}
    display_object(data, raw=True, metadata=metadata)


def draw_cards(verdicts: Sequence[Verdict], predictions: Mapping[str, Prediction]) -> Figure:
    """Draw one card for each verdict, in this order.

    Args:
        predictions: those to be shown beside the result, by the ids of their claims.
    """
    from matplotlib.figure import Figure

    texts = [_write_lines(verdict) for verdict in verdicts]
    heights = []
    for verdict, lines in zip(verdicts, texts, strict=True):
        # An equality has no axis: its text is never the taller side.
        has_axis = verdict.claim.measure != EQUALITY
        axis_height = (AXIS_TOP + ROW * (1 + len(verdict.elsewhere)) + LINE) * has_axis
        heights.append(2 * GAP + max(LINE * (1.5 + len(lines)), axis_height))
    figure = Figure(figsize=(WIDTH, sum(heights) + 2 * LINE), facecolor="white")

    top = figure.get_figheight()
    for verdict, lines, height in zip(verdicts, texts, heights, strict=True):
        _write_text(figure, verdict, lines, top - GAP)
        if verdict.claim.measure == EQUALITY:
            _write_pairs(figure, verdict, top - GAP)
        else:
            _draw_axis(figure, verdict, predictions.get(verdict.claim.id), top - GAP)
        top -= height
        _draw_rule(figure, top)
    _write(figure, LEFT, top - LINE, Line(f"{LEGEND} · {describe_machine()}", 7, plots.QUIET))
    return figure


def _write_lines(verdict: Verdict) -> list[Line]:
    """Write the lines of a card below its verdict: the sentence, and in small print the rest."""
    claim = verdict.claim
    small = [f"measured: {claim.metric}"]
    if claim.baseline:
        small.append(f"held against: {claim.baseline}")
    if claim.task:
        small.append(f"task: {claim.task}")
    # Only a skipped verdict has to explain itself.
    if verdict.verdict == SKIPPED:
        small.insert(0, verdict.reason)
    lines = [Line(text, 10, "black") for text in _wrap_text(claim.sentence, 58)]
    for text in small:
        lines += [Line(part, 8, plots.QUIET) for part in _wrap_text(text, 74)]
    return lines


def _wrap_text(text: str, width: int) -> list[str]:
    # A picture has no code font: the backticks of a claim would be noise.
    return textwrap.wrap(text.replace("`", ""), width)


def _write(figure: Figure, x: float, y: float, line: Line, **look: str) -> None:
    """Write a line at a place in inches from the lower left; its text is no formula."""
    text = figure.text(x / WIDTH, y / figure.get_figheight(), line.text, va="center")
    text.set(fontsize=line.size, color=line.color, parse_math=False, **look)


def _write_text(figure: Figure, verdict: Verdict, lines: Sequence[Line], top: float) -> None:
    """Write the verdict with its mark, the id of the claim, and the lines below."""
    from matplotlib.lines import Line2D

    x, y = (LEFT + 0.1) / WIDTH, (top - LINE / 2) / figure.get_figheight()
    mark = Line2D([x], [y], **plots.style_verdict(verdict.verdict))
    mark.set_transform(figure.transFigure)
    figure.add_artist(mark)
    tasks = verdict.describe_tasks()
    word = f"{verdict.verdict}  {tasks} tasks" if tasks else str(verdict.verdict)
    color = plots.VERDICTS[verdict.verdict]
    _write(figure, LEFT + 0.3, top - LINE / 2, Line(word, 10, color), fontweight="bold")
    identifier = Line(verdict.claim.id, 7, plots.QUIET)
    _write(figure, AXIS_LEFT - 0.3, top - LINE / 2, identifier, horizontalalignment="right")
    for number, line in enumerate(lines, start=1):
        _write(figure, LEFT, top - LINE * (number + 0.6), line)


def _write_pairs(figure: Figure, verdict: Verdict, top: float) -> None:
    """Write how many pairs are equal, one line for each task; an equality has no axis."""
    for number, (task, judged) in enumerate(_list_tasks(verdict)):
        effect = judged.effect
        text = "not measured"
        if effect is not None:
            text = f"{round(effect.estimate * effect.n)} of {effect.n} pairs equal"
        if verdict.elsewhere:
            text = f"{task}: {text}"
        color = plots.VERDICTS[judged.verdict]
        _write(figure, AXIS_LEFT, top - LINE * (number + 1.6), Line(text, 10, color))


def _draw_axis(figure: Figure, verdict: Verdict, prediction: Prediction | None, top: float) -> None:
    """Draw the effect of each task against the margin, on the claim's axis."""
    tasks = _list_tasks(verdict)
    axis = make_axis(verdict.claim, _list_shown(verdict, prediction))
    height = AXIS_TOP + ROW * len(tasks)
    # Inches become fractions of the figure; data y counts rows downwards from the first task.
    full = figure.get_figheight()
    left, width = AXIS_LEFT / WIDTH, (AXIS_RIGHT - AXIS_LEFT) / WIDTH
    ax = figure.add_axes((left, (top - height) / full, width, height / full))
    ax.set_ylim(len(tasks) - 0.5, -0.5 - AXIS_TOP / ROW)
    ax.set(xscale="log" if axis.is_log else "linear", xlim=(axis.low, axis.high), yticks=[])
    ticks = axis.list_ticks()
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.spines[["left", "right", "top"]].set_visible(False)
    _draw_margin(ax, verdict.claim)
    for row, (task, judged) in enumerate(tasks):
        _draw_effect(ax, axis, row, task, judged)
    if prediction is not None:
        _draw_prediction(ax, axis, prediction.guess)


def _draw_margin(ax: Axes, claim: Claim) -> None:
    """Draw the margin, its name above it, and an arrow towards the better side."""
    assert claim.margin is not None
    margins = [-claim.margin, claim.margin] if claim.side == "within" else [claim.margin]
    for margin in margins:
        ax.plot([margin, margin], [-0.5, ax.get_ylim()[0]], color="black", linewidth=1.2)
    name = f"margin {'±' if claim.side == 'within' else ''}{claim.margin:g}"
    ax.text(margins[-1], -0.85, name, ha="center", va="center", fontsize=7)
    # At the end of the axis to which it points, above the name of the margin.
    arrows = {"above": (1.0, "better →", "right"), "below": (0.0, "← better", "left")}
    x, text, side = arrows.get(claim.better_side or "", (0.5, "→ no difference ←", "center"))
    ax.text(x, 1.0, text, transform=ax.transAxes, ha=side, va="top", fontsize=8)


def _draw_effect(ax: Axes, axis: EffectAxis, row: int, task: str, verdict: Verdict) -> None:
    """Draw the interval and the estimate on one task, and write their numbers beside them."""
    effect, outcome = verdict.effect, verdict.verdict
    words = "not measured"
    if effect is not None:
        low, high = _clip_to_axis(axis, effect.low), _clip_to_axis(axis, effect.high)
        ax.plot([low, high], [row, row], color=plots.VERDICTS[outcome], linewidth=3, alpha=0.6)
        estimate = _clip_to_axis(axis, effect.estimate)
        ax.plot(estimate, row, clip_on=False, **plots.style_verdict(outcome))
        words = f"{effect.estimate:.3g} [{effect.low:.3g}, {effect.high:.3g}]"
        words += "\n" + ", ".join(filter(None, [task, f"n = {effect.n} {effect.over}"]))
    ax.text(
        1.05,
        row,
        words,
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=plots.VERDICTS[outcome],
        parse_math=False,
    )


def _draw_prediction(ax: Axes, axis: EffectAxis, guess: float) -> None:
    """Draw the reader's prediction as a hollow diamond, named "you"."""
    x = _clip_to_axis(axis, guess)
    (mark,) = ax.plot(x, 0, "D", color="black", markersize=9, clip_on=False, zorder=5)
    mark.set(markerfacecolor="none", markeredgewidth=1.6)
    ax.annotate("you", (x, 0), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)


def _clip_to_axis(axis: EffectAxis, value: float) -> float:
    # What has left the axis is drawn at its end; the number beside it says how far it is.
    return math.nan if math.isnan(value) else min(max(value, axis.low), axis.high)


def _draw_rule(figure: Figure, y: float) -> None:
    """Draw a thin line between two cards."""
    from matplotlib.lines import Line2D

    height = y / figure.get_figheight()
    rule = Line2D([LEFT / WIDTH, 1 - LEFT / WIDTH], [height] * 2, color=plots.QUIET, linewidth=0.5)
    rule.set_transform(figure.transFigure)
    figure.add_artist(rule)


def _list_tasks(verdict: Verdict) -> list[tuple[str, Verdict]]:
    """List the tasks that a claim was measured on, its own first; a single one needs no name."""
    # The text on the left names the single task in full.
    name = verdict.claim.task_name if verdict.elsewhere else ""
    return [(name, verdict), *verdict.elsewhere]


def _list_shown(verdict: Verdict, prediction: Prediction | None) -> list[float]:
    """List the effects that a card shows."""
    shown = [] if prediction is None else [prediction.guess]
    for _, judged in _list_tasks(verdict):
        if judged.effect is not None:
            shown += [judged.effect.low, judged.effect.high]
    return shown


def _describe_card(verdict: Verdict) -> str:
    """Describe a card in words, for a screen reader."""
    effect = verdict.effect
    return f"{verdict}: {effect}" if effect is not None else str(verdict)
