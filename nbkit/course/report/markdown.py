"""Write a report as Markdown, for a pull request, a summary in CI, or a mail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nbkit.course.report.assembly import ALPHA
from nbkit.course.report.columns import ColumnKind, describe_claim, list_texts
from nbkit.course.report.data import ClaimRow, CourseReport, LessonRun, LessonSection
from nbkit.course.report.words import (
    describe_flip,
    describe_hardware,
    format_count,
    format_date,
    format_duration,
    format_memory,
    format_parameters,
)
from nbkit.lab.evidence.register import NO_LESSON


def format_markdown(report: CourseReport) -> str:
    """Format the whole report: the content of the page, without the pictures."""
    parts = [
        f"# {escape_text(report.title)}",
        _format_runs(report),
        *_format_problems(report),
        _format_times(report),
        _format_skips(report),
        *(_format_lesson(report, lesson) for lesson in report.lessons),
        _format_unmeasured(report),
    ]
    # An empty section leaves no empty lines.
    return "\n\n".join(filter(None, parts)) + "\n"


def escape_text(text: object) -> str:
    """Put text on one line and escape every character that is markup."""
    # A line break would end the row of a table.
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|~#$])", r"\\\1", line)


def _join_escaped(texts: Iterable[object], separator: str = ", ") -> str:
    return separator.join(map(escape_text, texts))


def format_grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose cells are Markdown already."""
    lines = []
    for cells in [head, ["---"] * len(head), *rows]:
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_runs(report: CourseReport) -> str:
    rows = []
    for run in report.runs:
        counts = [f"{number} {word}" for word, number in run.verdicts.items()]
        rows.append(
            [
                f"**{escape_text(run.name)}**",
                _join_escaped(run.machines, "; "),
                escape_text(format_date(run.started)),
                f"{run.ran} of {run.lessons} ran",
                ", ".join(counts),
                format_duration(run.seconds),
                format_memory(run.memory_mib),
            ]
        )
    head = ["run", "machine", "started", "lessons", "verdicts", "time", "memory"]
    remains = "each verdict stands as it is."
    if report.weakened:
        remains = f"no longer stand: {_join_escaped(report.weakened)}."
    return (
        f"{format_grid(head, rows)}\n\n{format_count(report.tests, 'test')} on this page, "
        f"corrected for being several (Holm, {100 * ALPHA:.0f}\u00a0%): {remains}"
    )


def _format_problems(report: CourseReport) -> list[str]:
    """Format what an instructor has to see first: failures, flips, disagreements, damage."""
    failed, flips = [], []
    for lesson in report.lessons:
        for run, side in zip(report.runs, lesson.sides, strict=True):
            if side is None:
                continue
            on = f"{run.name}, " if report.has_several_runs else ""
            if side.state != "RAN":
                where = escape_text(f"{on}{lesson.title}{_explain_end(side)}")
                failed.append(f"- **{side.state}** {where}")
            for flip in side.flips:
                flips.append(f"- {escape_text(on + describe_flip(flip))}")
    differ = []
    for row in report.disagreements:
        differ.append(f"- {_format_disagreement(report, row)}")
    damaged = []
    for each in report.damaged:
        damaged.append(f"- {escape_text(each.file)}: {escape_text(each.problem)}")

    sections = {
        "Did not run to the end": failed,
        "Flipped against the ledger": flips,
        "The runs disagree": differ,
        "Could not be read": damaged,
    }
    parts = []
    for title, lines in sections.items():
        if lines:  # a heading appears only above a problem
            parts.append(f"## {title}\n\n" + "\n".join(lines))
    return parts


def _explain_end(side: LessonRun) -> str:
    """Explain where and why a lesson did not run to its end."""
    where = f" in cell {side.cell}" if side.cell else ""
    return f"{where}: {side.reason}" if side.reason else where


def _format_disagreement(report: CourseReport, row: ClaimRow) -> str:
    """Format the verdict of each run on a claim."""
    verdicts = []
    for run, verdict in zip(report.runs, row.verdicts, strict=True):
        if verdict:
            words = _join_escaped(list_texts(verdict, ColumnKind.MARK))
            verdicts.append(f"**{words}** on {escape_text(run.name)}")
    claim = f"{escape_text(row.sentence)} ({escape_text(row.claim)})"
    return f"{', '.join(verdicts)}: {claim}"


def _format_times(report: CourseReport) -> str:
    rows = []
    for lesson in report.lessons:
        for run, side in zip(report.runs, lesson.sides, strict=True):
            if side is None:  # this run does not have the lesson
                continue
            slowest = []
            for cell in side.slowest:
                slowest.append(f"{cell['cell']}: {format_duration(cell['seconds'])}")
            rows.append(
                [
                    escape_text(lesson.title),
                    escape_text(run.name),
                    format_duration(side.seconds),
                    _join_escaped(slowest),
                    format_memory(side.memory_mib),
                ]
            )
    head = ["lesson", "machine", "time", "slowest cells", "memory"]
    return "## Times and memory\n\n" + format_grid(head, rows) if rows else ""


def _format_skips(report: CourseReport) -> str:
    if not report.skips:
        return "## Skipped, and why\n\nNothing: each claim of these lessons was judged."
    lines = []
    for group in report.skips:
        claims = []
        for claim in group.claims:
            run = f" ({claim['run']})" if report.has_several_runs else ""
            # One run needs no name; of several, the name says where the claim was skipped.
            claims.append(claim["claim"] + run)
        head = f"{format_count(len(group.claims), 'claim')}: {escape_text(group.reason)}"
        lines.append(f"- **{head}**: {_join_escaped(claims)}")
    return "## Skipped, and why\n\n" + "\n".join(lines)


def _format_lesson(report: CourseReport, lesson: LessonSection) -> str:
    parts = [f"## {escape_text(lesson.title)}"]
    for run, side in zip(report.runs, lesson.sides, strict=True):
        parts.append(_format_lesson_run(run.name, side))
    if lesson.differs:
        parts.append(f"Not the same in all runs: {', '.join(lesson.differs)}.")
    if lesson.findings:
        names = [escape_text(run.name) for run in report.runs]
        rows = []
        for row in lesson.findings:
            verdicts = [_format_verdict(verdict) for verdict in row.verdicts]
            rows.append([_format_claim(row), *verdicts])
        parts.append(format_grid(["claim", *names], rows))
    return "\n\n".join(parts)


def _format_lesson_run(name: str, side: LessonRun | None) -> str:
    """Format how a lesson ended in one run, its parameters, its hardware and its files."""
    if side is None:
        return f"**{escape_text(name)}**: not run."
    line = f"**{escape_text(name)}**: {side.state}"
    if side.seconds:
        line += f" in {format_duration(side.seconds)}"
    if side.parameters:
        line += f", with {escape_text(format_parameters(side.parameters))}"
    line += f". {escape_text(describe_hardware(side.machine))}."
    links = [f"[{text}]({target})" for text, target in side.links.items()]
    return f"{line} {', '.join(links)}" if links else line


def _format_claim(row: ClaimRow) -> str:
    """Format a claim: its sentence, its id, and what was measured."""
    mark = "**They disagree.** " if row.disagree else ""
    details = f"{escape_text(row.claim)}. {escape_text(describe_claim(row.verdicts))}"
    return f"{mark}{escape_text(row.sentence)} ({details})"


def _format_verdict(verdict: dict[str, Any] | None) -> str:
    """Format one verdict as a cell: the word in bold, then a line for each other column."""
    if verdict is None:
        return "–"
    lines = [f"**{_join_escaped(list_texts(verdict, ColumnKind.MARK))}**"]
    # What describes the claim itself stands in the first cell of the row.
    for text in list_texts(verdict, ColumnKind.NUMBER, ColumnKind.NOTE):
        lines.append(escape_text(text))
    return "<br>".join(lines)


def _format_unmeasured(report: CourseReport) -> str:
    """Format the claims that no lesson measures yet."""
    if not report.no_lesson:
        return ""
    lines = [f"- {escape_text(sentence)}" for sentence in report.no_lesson.values()]
    count = format_count(len(report.no_lesson), "claim")
    return f"## {NO_LESSON}\n\n{count}:\n\n" + "\n".join(lines)
