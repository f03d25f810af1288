"""What a run found out: a table for the terminal, a page for the browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from nbkit.course.record import Record, write_whole


def table(records: Sequence[Record]) -> str:
    """Lesson, seconds, each claim and its verdict, in columns."""
    rows = [("lesson", "seconds", "claim", "verdict")]
    for record in records:
        findings = [(str(v.get("claim")), str(v.get("verdict"))) for v in record.verdicts]
        if not record.ok:
            findings.append(("FAILED" + (f" in cell {record.cell}" if record.cell else ""), ""))
        for n, finding in enumerate(findings or [("", "")]):
            first = (record.lesson, f"{record.seconds:.1f}") if n == 0 else ("", "")
            rows.append((*first, *finding))
    return "\n".join("  ".join(row) for row in rows)


def write_page(records: Sequence[Record], path: Path) -> None:
    """Write the table as a page."""
    write_whole(path, f"<pre>{escape(table(records))}</pre>")
