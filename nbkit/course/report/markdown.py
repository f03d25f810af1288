"""A report as Markdown: for a pull request, a summary in CI, or a mail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nbkit.course.report.data import ALPHA, Finding, Lesson, Report, Side
from nbkit.course.report.words import (
    after_holm,
    date,
    duration,
    effect,
    flip_in_words,
    hardware_line,
    measured,
    memory,
    plural,
)
from nbkit.lab.evidence.claims import NO_LESSON


def markdown(report: Report) -> str:
    """The whole report; what the page says, without the pictures."""
    parts = [
        f"# {plain(report.title)}",
        _runs(report),
        *_trouble(report),
        _times(report),
        _skips(report),
        *(_lesson(report, lesson) for lesson in report.lessons),
        _no_lesson(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: object) -> str:
    """Text in which nothing is markup, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|~#$])", r"\\\1", line)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what stands in its cells is Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _runs(report: Report) -> str:
    return grid(
        ["run", "machine", "started", "lessons", "verdicts", "time", "memory"],
        (
            [
                f"**{plain(run.name)}**",
                "; ".join(map(plain, run.machines)),
                plain(date(run.started)),
                f"{run.ran} of {run.lessons} ran",
                ", ".join(f"{n} {word}" for word, n in run.verdicts.items()),
                duration(run.seconds),
                memory(run.memory_mib),
            ]
            for run in report.runs
        ),
    ) + (
        f"\n\n{plural(report.tests, 'test')} on this page, corrected for being several "
        f"(Holm, {100 * ALPHA:.0f}\u00a0%): "
        + (f"no longer stand: {', '.join(map(plain, report.weakened))}." if report.weakened
           else "each verdict stands as it is.")
    )  # fmt: skip


def _trouble(report: Report) -> Iterable[str]:
    """What an instructor has to see first: failures, flips, disagreements, damage."""
    failed, flips = [], []
    for lesson in report.lessons:
        for run, side in zip(report.runs, lesson.sides, strict=True):
            on = f"{run.name}, " if len(report.runs) > 1 else ""
            if side and side.state != "RAN":
                failed.append(f"- **{side.state}** {plain(f'{on}{lesson.title}{why(side)}')}")
            flips += [f"- {plain(on + flip_in_words(f))}" for f in (side.flips if side else [])]
    if failed:
        yield "## Did not run to the end\n\n" + "\n".join(failed)
    if flips:
        yield "## Flipped against the ledger\n\n" + "\n".join(flips)
    if differ := report.disagreements:
        lines = [f"- {_differ(report, finding)}" for finding in differ]
        yield "## The runs disagree\n\n" + "\n".join(lines)
    if report.damaged:
        lines = [f"- {plain(d.file)}: {plain(d.problem)}" for d in report.damaged]
        yield "## Could not be read\n\n" + "\n".join(lines)


def _differ(report: Report, finding: Finding) -> str:
    """Who says what of a claim."""
    pairs = zip(report.runs, finding.verdicts, strict=True)
    said = ", ".join(f"**{plain(v['verdict'])}** on {plain(run.name)}" for run, v in pairs if v)
    return f"{said}: {plain(finding.sentence)} ({plain(finding.claim)})"


def why(side: Side) -> str:
    """Where and why a lesson did not run to its end."""
    where = f" in cell {side.cell}" if side.cell else ""
    return f"{where}: {side.reason}" if side.reason else where


def _times(report: Report) -> str:
    rows = []
    for lesson in report.lessons:
        for run, side in zip(report.runs, lesson.sides, strict=True):
            if side:
                slow = ", ".join(f"{c['cell']}: {duration(c['seconds'])}" for c in side.slowest)
                row = [plain(lesson.title), duration(side.seconds), plain(slow)]
                row.append(memory(side.memory_mib))
                rows.append([row[0], plain(run.name), *row[1:]])
    head = ["lesson", "machine", "time", "slowest cells", "memory"]
    return "## Times and memory\n\n" + grid(head, rows) if rows else ""


def _skips(report: Report) -> str:
    if not report.skips:
        return "## Skipped, and why\n\nNothing: each claim of these lessons was judged."
    several = len(report.runs) > 1
    lines = []
    for skip in report.skips:
        named = (plain(c["claim"] + (f" ({c['run']})" if several else "")) for c in skip.claims)
        count = plural(len(skip.claims), "claim")
        lines.append(f"- **{count}: {plain(skip.reason)}**: {', '.join(named)}")
    return "## Skipped, and why\n\n" + "\n".join(lines)


def _lesson(report: Report, lesson: Lesson) -> str:
    lines = [f"## {plain(lesson.title)}"]
    for run, side in zip(report.runs, lesson.sides, strict=True):
        lines.append(_side(run.name, side))
    if lesson.differs:
        lines.append(f"Not the same in all runs: {', '.join(lesson.differs)}.")
    if lesson.findings:
        head = ["claim", *(plain(run.name) for run in report.runs)]
        rows = (
            [
                f"{'**They disagree.** ' if f.disagree else ''}{plain(f.sentence)} "
                f"({plain(f.claim)}. {plain(_measured(f.verdicts))})",
                *(_verdict(verdict) for verdict in f.verdicts),
            ]
            for f in lesson.findings
        )
        lines.append(grid(head, rows))
    return "\n\n".join(lines)


def _measured(verdicts: Sequence[dict[str, Any] | None]) -> str:
    return next((words for v in verdicts if v and (words := measured(v))), "")


def _side(name: str, side: Side | None) -> str:
    if side is None:
        return f"**{plain(name)}**: not run."
    given = ", ".join(f"{key} = {value!r}" for key, value in side.parameters.items())
    links = ", ".join(f"[{text}]({target})" for text, target in side.links.items())
    return (
        f"**{plain(name)}**: {side.state}{f' in {duration(side.seconds)}' if side.seconds else ''}"
        f"{', with ' + plain(given) if given else ''}. {plain(hardware_line(side.machine))}."
        f"{' ' + links if links else ''}"
    )


def _verdict(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "–"
    words = [f"**{plain(verdict['verdict'])}**"]
    if verdict.get("effect") is not None:
        count = f"{verdict.get('n', '–')} {verdict.get('over', '')}".rstrip()
        words += [plain(effect(verdict)), f"n = {plain(count)}"]
    words += [plain(told) for told in (verdict.get("reason"), after_holm(verdict)) if told]
    return "<br>".join(words)


def _no_lesson(report: Report) -> str:
    if not report.no_lesson:
        return ""
    lines = "\n".join(f"- {plain(sentence)}" for sentence in report.no_lesson.values())
    return f"## {NO_LESSON}\n\n{plural(len(report.no_lesson), 'claim')}:\n\n{lines}"
