"""The words of a report: one way to say a number, a verdict, a failure, a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nbkit.course.ledger import MISSING
from nbkit.course.record import Record

VERDICTS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
# A lesson's state: of a record that nobody has closed, whoever wrote it is gone or still at it.
STATES = {"ok": "RAN", "failed": "FAILED", "running": "UNFINISHED", "waiting": "NOT BEGUN"}


def format_table(records: Sequence[Record]) -> str:
    """Lesson, seconds, each claim and its verdict; below them what flipped and what failed."""
    rows = [("lesson", "seconds", "claim", "verdict")]
    below = []
    for record in records:
        findings = [(str(v.get("claim")), _verdict(v)) for v in record.verdicts]
        findings += [] if record.ok else [("", state(record))]
        first = (name_of(record), f"{record.seconds:.1f}")
        for n, finding in enumerate(findings or [("", "")]):
            rows.append((*(("", "") if n else first), *finding))
        below += [flip_in_words(flip) for flip in record.flips]
        below += [] if record.ok else [f"{name_of(record)} {failure(record)}"]
    lesson, seconds, claim, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{a:<{lesson}}  {b:>{seconds}}  {c:<{claim}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([*lines, *below])


def _verdict(verdict: Mapping[str, Any]) -> str:
    """`SUPPORTED`, or `SKIPPED (needs cuda)`."""
    word, why = str(verdict.get("verdict")), verdict.get("reason")
    return f"{word} ({why})" if word == "SKIPPED" and why else word


def summarize_records(records: Sequence[Record]) -> str:
    """One line: how many ran, how many claims met which verdict, how many of these flipped."""
    ran = sum(record.ok for record in records)
    found = count_verdicts(verdict for record in records for verdict in record.verdicts)
    claims = ", ".join(f"{number} {word.lower()}" for word, number in found.items())
    flipped = sum(len(record.flips) for record in records)
    return (
        f"{ran} of {plural(len(records), 'lesson')} ran"
        + (f"; claims: {claims}" if claims else "")
        + (f"; {flipped} flipped" if flipped else "")
    )


def count_verdicts(verdicts: Any) -> dict[str, int]:
    """How many of each word, in the order of VERDICTS; words that nothing has are left out."""
    counts = Counter(verdict.get("verdict") for verdict in verdicts)
    return {word: counts[word] for word in VERDICTS if counts[word]}


def state(record: Record) -> str:
    """RAN, FAILED, UNFINISHED or NOT BEGUN."""
    return STATES.get(record.status, record.status.upper())


def failure(record: Record) -> str:
    """One line: `failed in cell 4: ZeroDivisionError: division by zero`."""
    where = f" in cell {record.cell}" if record.cell else ""
    return f"{state(record).lower()}{where}: {(reason(record) or '').partition(chr(10))[0]}"


def reason(record: Record) -> str | None:
    """Why a lesson did not come to its end; None if it did."""
    if record.ok or record.reason:
        return record.reason
    if record.status == "running":
        return "its record was never closed; the run was killed, or is still at it"
    return "the run has not come to it" if record.status == "waiting" else "no reason was recorded"


def flip_in_words(flip: Mapping[str, Any]) -> str:
    """One line: the verdict that a claim has now, the one in the ledger, and both intervals.

    Where it has none now, the reason stands in place of the interval.
    """
    now, before = (
        f"{verdict['verdict']}, {effect(verdict)}, n = {verdict.get('n')}"
        for verdict in (flip["now"], flip["before"])
    )
    if flip["now"]["verdict"] == MISSING:
        now = f"{MISSING}, {flip['now'].get('reason')}"
    recorded = f"recorded {str(flip['recorded'])[:10]}"
    return f"FLIPPED {flip['claim']}: {now}; {recorded}: {before}"


def effect(verdict: Mapping[str, Any]) -> str:
    """The effect and its interval: `0.12 [0.08, 0.16]`; an open end is a dash."""
    low_high = verdict.get("interval") or []
    words = [number(value) for value in (verdict.get("effect"), *low_high)]
    if len(words) == 3:
        return f"{words[0]} [{words[1]}, {words[2]}]"
    return words[0]


def number(value: object) -> str:
    """Three digits that count; a dash for None."""
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return "–" if value is None else str(value)


def measured(verdict: Mapping[str, Any]) -> str:
    """What was measured, and on which side of what the claim puts it."""
    words = f"Measured: {verdict['metric']}" if verdict.get("metric") else ""
    if words and verdict.get("margin") is not None:
        words += f"; claimed: {verdict.get('bound') or number(verdict['margin'])}"
    return words


def after_holm(verdict: Mapping[str, Any]) -> str:
    """What is left of a verdict when the whole page counts together; empty if it stands."""
    left = verdict.get("verdict_holm", verdict["verdict"])
    if left == verdict["verdict"]:
        return ""
    return f"{left} where all claims of this page count together (Holm)"


def duration(seconds: float) -> str:
    """`7.5 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(mib: float | None) -> str:
    """`812 MiB`, `2.4 GiB`, `memory not measured`."""
    if mib is None:
        return "memory not measured"
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def date(started: str) -> str:
    """`2026-01-02 03:04 UTC` from a record's `started`."""
    day, _, time = started.partition("T")
    return f"{day} {time[:5]} UTC" if time else day


def plural(count: int, word: str) -> str:
    """`1 lesson`, `2 lessons`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def machine_name(facts: Mapping[str, Any]) -> str:
    """What a person calls a machine: its GPU, or else its processor."""
    return str(facts.get("gpu") or facts.get("processor") or facts.get("hardware") or "unknown")


def machine_line(facts: Mapping[str, Any]) -> str:
    """One line: `AMD EPYC, 2 cores, Linux x86_64, torch 2.13.0, Python 3.11.7`."""
    if not facts:
        return "no machine: it has not begun"
    return (
        f"{machine_name(facts)}, {facts.get('cores')} cores, {facts.get('system')}, "
        f"torch {facts.get('torch')}, Python {facts.get('python')}"
    )


def hardware_line(facts: Mapping[str, Any]) -> str:
    """What a lesson's numbers were measured on: `cpu (AMD EPYC), 1 thread, torch 2.13.0`."""
    if not facts:
        return "no machine: it has not begun"
    name, threads = machine_name(facts), facts.get("threads")
    words = [f"{facts['hardware']} ({name})" if facts.get("hardware") else name]
    words += [plural(threads, "thread")] if threads else []
    words += [f"torch {facts['torch']}"] if facts.get("torch") else []
    return ", ".join(words)


def name_of(record: Record) -> str:
    """The stem of a record's files: the lesson's, or a grid point's where the record has one."""
    return getattr(record, "name", "") or record.lesson
