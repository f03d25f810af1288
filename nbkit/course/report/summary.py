"""Sum up the records of a run: a table for the terminal, one line, and how each lesson ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbkit.course.record import Record
from nbkit.course.report.words import count_held_tasks, describe_flip, format_count

VERDICTS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
# The states of a lesson, by the status in its record. UNFINISHED: the record was never closed, so
# its writer is either still at work or was killed.
STATES = {"ok": "RAN", "failed": "FAILED", "running": "UNFINISHED", "waiting": "NOT BEGUN"}


def format_table(records: Sequence[Record]) -> str:
    """Format lesson, seconds, claim and verdict as a table, with flips and failures below it."""
    rows = [("lesson", "seconds", "claim", "verdict")]
    below = []
    for record in records:
        rows += _make_rows(record)
        below += [describe_flip(flip) for flip in record.flips]
        if not record.ok:
            below.append(f"{record.name} {describe_failure(record)}")
    # Each column is as wide as its longest cell; the last one needs no padding.
    lesson, seconds, claim, _ = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for a, b, c, d in rows:
        lines.append(f"{a:<{lesson}}  {b:>{seconds}}  {c:<{claim}}  {d}".rstrip())
    return "\n".join([*lines, *below])


def _make_rows(record: Record) -> list[tuple[str, str, str, str]]:
    """Make the rows of one lesson; only the first one shows its name and time."""
    cells = [(str(verdict.get("claim")), _word_verdict(verdict)) for verdict in record.verdicts]
    if not record.ok:
        cells.append(("", name_state(record)))
    rows = []
    # A lesson without a claim still has a row, with its name and its time.
    name, seconds = record.name, f"{record.seconds:.1f}"
    for claim, verdict in cells or [("", "")]:
        rows.append((name, seconds, claim, verdict))
        name, seconds = "", ""
    return rows


def _word_verdict(verdict: Mapping[str, Any]) -> str:
    """Return `SUPPORTED`, `SUPPORTED (2 of 2 tasks)`, or `SKIPPED (needs cuda)`."""
    word, reason = str(verdict.get("verdict")), verdict.get("reason")
    tasks = count_held_tasks(verdict)
    if tasks:
        return f"{word} ({tasks} tasks)"
    return f"{word} ({reason})" if word == "SKIPPED" and reason else word


def summarize_records(records: Sequence[Record]) -> str:
    """Count, in one line, the lessons that ran, the verdicts, and the verdicts that flipped."""
    ran = sum(record.ok for record in records)
    flipped = sum(len(record.flips) for record in records)
    # Only the words that occur: a run without a refuted claim does not mention it.
    claims = []
    for word, number in count_verdicts(collect_verdicts(records)).items():
        claims.append(f"{number} {word.lower()}")

    line = f"{ran} of {format_count(len(records), 'lesson')} ran"
    if claims:
        line += f"; claims: {', '.join(claims)}"
    if flipped:
        line += f"; {flipped} flipped"
    return line


def collect_verdicts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Collect the verdicts of all records, in order."""
    return [verdict for record in records for verdict in record.verdicts]


def count_verdicts(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count verdicts by their word, in the order of VERDICTS; a count of 0 is left out."""
    # `get`, because a place without a verdict is counted as an empty one.
    counts = Counter([verdict.get("verdict") for verdict in verdicts])
    return {word: counts[word] for word in VERDICTS if counts[word]}


def name_state(record: Record) -> str:
    """Return RAN, FAILED, UNFINISHED or NOT BEGUN."""
    return STATES.get(record.status, record.status.upper())


def describe_failure(record: Record) -> str:
    """Describe in one line how a lesson ended: `failed in cell 4: ZeroDivisionError: ...`."""
    where = f" in cell {record.cell}" if record.cell else ""
    first_line, _, _ = (explain_failure(record) or "").partition("\n")
    return f"{name_state(record).lower()}{where}: {first_line}"


def explain_failure(record: Record) -> str | None:
    """Return the reason why a lesson did not run to its end; None if it did."""
    if record.ok or record.reason:
        return record.reason
    if record.status == "running":
        return "its record was never closed; the run was killed, or is still at it"
    if record.status == "waiting":
        return "the run has not come to it"
    return "no reason was recorded"
