"""The columns of the table of claims: one entry a column, for HTML, Markdown and JSON alike.

To add a column, add an entry to COLUMNS. The page of one run shows it as a column. Where several
runs stand side by side, each run has one cell for a claim, and the entry is a line of that cell.
`report.json` holds its value in each verdict, under the entry's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nbkit.course.report.words import (
    count_held_tasks,
    describe_baseline,
    describe_elsewhere,
    describe_holm,
    describe_measure,
    describe_recording,
    describe_task,
    format_effect,
    format_sample_size,
)

Verdict = Mapping[str, Any]


class ColumnKind(Enum):
    """The kinds of columns: each kind has its place in the table."""

    MARK = "mark"  # in colour or bold, in front of everything else
    NUMBER = "number"  # in a column; only verdicts with an effect have numbers
    NOTE = "note"  # in small print below the claim, or below the numbers of a run
    CLAIM = "claim"  # in small print below the claim: the same in each run


@dataclass(frozen=True)
class Column:
    """One column: where it stands, and what it makes of a verdict."""

    name: str  # the key in report.json, and the heading on a phone
    text: Callable[[Verdict], str]  # what people read; an empty text is left out
    kind: ColumnKind
    heading: str = ""  # of the table of one run
    label: str = ""  # in front of the text, where it is a line of a run's cell
    value: Callable[[Verdict], object] | None = None  # for JSON; None: the verdict has it already


def _read_verdict(verdict: Verdict) -> str:
    return str(verdict["verdict"])


def _read_reason(verdict: Verdict) -> str:
    return str(verdict.get("reason") or "")


COLUMNS = [
    Column("verdict", _read_verdict, ColumnKind.MARK, heading="verdict"),
    Column("effect", format_effect, ColumnKind.NUMBER, heading="effect, interval"),
    Column("n", format_sample_size, ColumnKind.NUMBER, heading="n", label="n = "),
    Column(
        "tasks",
        count_held_tasks,
        ColumnKind.NUMBER,
        heading="tasks",
        label="tasks: ",
        value=count_held_tasks,
    ),
    Column("reason", _read_reason, ColumnKind.NOTE),
    Column("elsewhere", describe_elsewhere, ColumnKind.NOTE),
    Column("recorded", describe_recording, ColumnKind.NOTE),
    Column("metric", describe_measure, ColumnKind.CLAIM),
    Column("task", describe_task, ColumnKind.CLAIM),
    Column("baseline", describe_baseline, ColumnKind.CLAIM),
    Column("verdict_holm", describe_holm, ColumnKind.NOTE),
]


def list_columns(*kinds: ColumnKind) -> list[Column]:
    """List the columns of these kinds, in the order of COLUMNS."""
    return [column for column in COLUMNS if column.kind in kinds]


def list_texts(verdict: Verdict, *kinds: ColumnKind) -> list[str]:
    """List the texts, each with its label, that the columns of these kinds have for a verdict."""
    texts = []
    for column in list_columns(*kinds):
        text = column.text(verdict)
        if text and (column.kind is not ColumnKind.NUMBER or has_numbers(verdict)):
            texts.append(column.label + text)
    return texts


def has_numbers(verdict: Verdict) -> bool:
    """Return whether anything was measured for a verdict."""
    return verdict.get("effect") is not None


def add_values(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict for JSON: with the value of each column that computes one."""
    values = dict(verdict)
    for column in COLUMNS:
        if column.value is not None:
            values[column.name] = column.value(verdict)
    return values


def describe_claim(verdicts: Collection[Verdict | None]) -> str:
    """Describe what a claim is about, given its verdicts in all runs: the first one that says it.

    Runs of an older version may not have recorded it.
    """
    for verdict in verdicts:
        texts = list_texts(verdict, ColumnKind.CLAIM) if verdict else []
        if texts:
            return ". ".join(texts)
    return ""
