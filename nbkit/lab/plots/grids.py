"""Draw verdicts as a map over two knobs, and say in one sentence what the map shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkit.lab.evidence.claims import EQUALITY, Outcome
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.plots.palette import VERDICTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

Cell = tuple[float, float]  # the value of the knob on x, and that of the knob on y
LISTED = 3  # cells that the sentence names one by one; of more it gives the number


def grid(ax: Axes, verdicts: Mapping[Cell, Verdict], *, x: str, y: str) -> Axes:
    """Draw one verdict per cell over the values of two knobs, to show where a technique helps.

    Args:
        verdicts: the verdict for each pair of values (of the knob on x, of the knob on y).
        x, y: names of the two knobs.

    Under its verdict, a cell shows the effect with two digits.
    """
    columns = sorted({column for column, _ in verdicts})
    rows = sorted({row for _, row in verdicts})
    # Cells have equal sizes: they stand at the places 0, 1, 2, ... and not at their values.
    for (column, row), verdict in verdicts.items():
        i, j = columns.index(column), rows.index(row)
        ax.add_patch(_make_square(i, j, VERDICTS[verdict.verdict]))
        ax.text(i, j, _describe_cell(verdict), ha="center", va="center", color="white", fontsize=8)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=x, ylabel=y)
    return ax


def conclude(verdicts: Mapping[Cell, Verdict], *, x: str, y: str) -> str:
    """Say in one sentence where the claim is supported, refuted or open.

    Args:
        verdicts, x, y: as for `grid`.

    The sentence has verdicts and the values of knobs only, no effect, so that it is the same on
    two machines that agree on the verdicts. If one knob alone decides, it says so.

    Raises:
        ValueError: if there is no cell.
    """
    if not verdicts:
        raise ValueError("conclude needs at least one cell, got none: measure {(x, y): verdict}.")
    outcomes = {cell: verdict.verdict for cell, verdict in verdicts.items()}
    distinct = list(dict.fromkeys(outcomes.values()))
    if len(distinct) == 1:
        count = "the only cell" if len(outcomes) == 1 else f"all {len(outcomes)} cells"
        return f"{distinct[0].capitalize()} in {count}."
    for place, name in enumerate((x, y)):
        by_value = _group_by_knob(outcomes, place)
        if by_value is not None:
            return _describe_one_knob(by_value, name, (y, x)[place])
    return _describe_cells(outcomes, x, y)


def _group_by_knob(outcomes: Mapping[Cell, Outcome], place: int) -> dict[float, Outcome] | None:
    """Return the outcome at each value of one knob; None unless that knob alone decides it."""
    by_value: dict[float, Outcome] = {}
    for cell, outcome in outcomes.items():
        if by_value.setdefault(cell[place], outcome) != outcome:
            return None
    # With a single value of the other knob, nothing shows that the other one does not matter.
    return by_value if len({cell[1 - place] for cell in outcomes}) > 1 else None


def _describe_one_knob(by_value: Mapping[float, Outcome], name: str, other: str) -> str:
    """Say which values of the knob that decides have which outcome."""
    values: dict[Outcome, list[str]] = {}
    for value in sorted(by_value):
        values.setdefault(by_value[value], []).append(f"{value:g}")
    parts = []
    for outcome, found in values.items():
        parts.append(f"{outcome.lower()} at {name} = {_join_words(found)}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}; {other} does not change the verdict."


def _describe_cells(outcomes: Mapping[Cell, Outcome], x: str, y: str) -> str:
    """Count the cells of each outcome, the most frequent first, and name those of the others."""
    cells: dict[Outcome, list[str]] = {}
    for column, row in sorted(outcomes):
        cell = f"({x} = {column:g}, {y} = {row:g})"
        cells.setdefault(outcomes[column, row], []).append(cell)
    parts: list[str] = []
    for outcome in sorted(cells, key=lambda outcome: -len(cells[outcome])):
        found = cells[outcome]
        part = f"{outcome.lower()} in {len(found)} of {len(outcomes)} cells"
        # The first outcome is what holds almost everywhere; only exceptions are listed.
        if parts and len(found) <= LISTED:
            part = f"{outcome.lower()} at {_join_words(found)}"
        parts.append(part)
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _join_words(words: Sequence[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _describe_cell(verdict: Verdict) -> str:
    """Write the verdict of a cell, and under it the effect, if there is one."""
    word, effect = verdict.verdict.lower(), verdict.effect
    if effect is None:
        return word
    if verdict.claim.measure == EQUALITY:
        return f"{word}\n{round(effect.estimate * effect.n)} of {effect.n}"
    return f"{word}\n{effect.estimate:.2g}"


def _make_square(i: int, j: int, color: str) -> Rectangle:
    """Make the square of one cell of a grid, with a little white around it."""
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.48, j - 0.48), 0.96, 0.96, color=color)
