"""Render a report as one HTML page that needs no network and no script; pictures are inside."""

from __future__ import annotations

from html import escape

from nbkit.course.report.assembly import ALPHA
from nbkit.course.report.columns import ColumnKind, list_texts
from nbkit.course.report.data import ClaimRow, CourseReport, RunSummary, SkipGroup
from nbkit.course.report.lesson import render_lesson
from nbkit.course.report.markup import (
    render_lesson_link,
    render_list,
    render_mark,
    render_soft,
)
from nbkit.course.report.overview import render_overview
from nbkit.course.report.pictures import Pictures
from nbkit.course.report.style import STYLE
from nbkit.course.report.words import (
    describe_flip,
    format_count,
    format_date,
    format_duration,
    format_memory,
)
from nbkit.lab.evidence.register import NO_LESSON

# With this policy the browser refuses to load anything from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_page(report: CourseReport, pictures: Pictures, left_out: int = 0) -> str:
    """Render the page: summary, problems, times and skips first, then lesson by lesson.

    Args:
        pictures: thumbnails by the number of the run and the title of the lesson.
        left_out: the number of pictures for which the page has no room.
    """
    lessons = []
    for number in range(len(report.lessons)):
        lessons.append(render_lesson(report, number, pictures))
    parts = [
        _render_top(report.title) + _render_header(report),
        _render_problems(report),
        render_overview(report),
        _render_skips(report),
        *lessons,
        _render_footer(report, left_out),
        "</body></html>\n",
    ]
    # A section with nothing to say is an empty text; it leaves no empty line.
    return "\n".join(filter(None, parts))


def _render_top(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>nbkit: {escape(title)}</title><style>{STYLE}</style></head>\n<body>"
    )


def _render_header(report: CourseReport) -> str:
    cards = "".join(map(_render_card, report.runs))
    return (
        f'<header><h1>{escape(report.title)}</h1><div class="cards">{cards}</div>'
        f"{_render_correction(report)}</header>"
    )


def _render_card(run: RunSummary) -> str:
    """Render the totals of one run: its verdicts, its time and memory, its machine."""
    counts = ""
    for word, number in run.verdicts.items():
        counts += f'<span class="count {word.lower()}"><b>{number}</b>{render_mark(word)}</span>'
    # The sum over lessons would say nothing: each has its process, and returns its memory.
    memory = format_memory(run.memory_mib)
    if run.memory_mib is not None:
        memory += " of memory at most"
    details = ""
    for line in [format_date(run.started), *run.machines, run.folder]:
        if line:
            details += f'<p class="soft">{escape(line)}</p>'
    return (
        f'<article class="card"><h3>{escape(run.name)}</h3><p class="counts">{counts}</p>'
        f"<p>{run.ran} of {format_count(run.lessons, 'lesson')} ran, "
        f"{format_duration(run.seconds)} in all, {memory}</p>{details}</article>"
    )


def _render_correction(report: CourseReport) -> str:
    """Render what remains of the verdicts when the page counts as several tests."""
    if not report.tests:  # without tests there is nothing to correct
        return ""
    remains = "each verdict stands"
    if report.weakened:
        remains = f"no longer decided are {', '.join(report.weakened)}"
    tests = f"{format_count(report.tests, 'test')} on this page"
    words = f"{tests}; counted together (Holm, {100 * ALPHA:.0f}\u00a0%), {remains}."
    return f'<p class="soft">{escape(words)}</p>'


def _render_problems(report: CourseReport) -> str:
    """Render what an instructor has to see before anything else."""
    failed, flips = [], []
    for number, lesson in enumerate(report.lessons):
        for run, side in zip(report.runs, lesson.sides, strict=True):
            if side is None:
                continue
            # The top of the page is short; the link leads to the whole reason.
            link = render_lesson_link(number, lesson.title)
            if report.has_several_runs:
                link += f" on {escape(run.name)}"
            if side.state != "RAN":
                where = f"in cell {side.cell}: " if side.cell else ""
                reason = escape(where + side.first_reason_line)
                failed.append(f"{link} {render_mark(side.state)} {reason}")
            for flip in side.flips:
                flips.append(f"{link}: {escape(describe_flip(flip))}")
    differ = [_render_disagreement(report, row) for row in report.disagreements]
    damaged = [f"{escape(each.file)}: {escape(each.problem)}" for each in report.damaged]
    return (
        _render_alert("Did not run to the end", failed)
        + _render_alert("Flipped against the ledger", flips)
        + _render_alert("The runs disagree", differ, css="alert odd")
        + _render_alert("Could not be read", damaged)
    )


def _render_disagreement(report: CourseReport, row: ClaimRow) -> str:
    """Render the verdict of each run on a claim."""
    verdicts = []
    for run, verdict in zip(report.runs, row.verdicts, strict=True):
        if verdict:
            marks = [render_mark(text) for text in list_texts(verdict, ColumnKind.MARK)]
            verdicts.append(f"{''.join(marks)} on {escape(run.name)}")
    return f"{', '.join(verdicts)}: {escape(row.sentence)} {render_soft(escape(row.claim))}"


def _render_alert(title: str, items: list[str], css: str = "alert") -> str:
    if not items:
        return ""
    return f'<section class="{css}"><h3>{title}: {len(items)}</h3>{render_list(items)}</section>'


def _render_skips(report: CourseReport) -> str:
    """Render what was not judged: each reason, how many claims it concerns, and which."""
    count = 0
    for group in report.skips:
        count += len(group.claims)
    heading = f"<h2>Skipped, and why: {count}</h2>"
    if count:
        items = [_render_skip_group(group, report.has_several_runs) for group in report.skips]
        return f"<section>{heading}{render_list(items)}</section>"
    if report.lessons:
        words = "<p>Nothing: each claim of these lessons was judged.</p>"
        return f"<section>{heading}{words}</section>"
    return ""


def _render_skip_group(group: SkipGroup, several_runs: bool) -> str:
    claims_of: dict[str, list[str]] = {}  # by the name of the run
    for claim in group.claims:
        # The group's reason has no numbers; where the claim's own reason differs, it is shown too.
        detail = f" ({claim['reason']})" if claim["reason"] != group.reason else ""
        claims_of.setdefault(claim["run"], []).append(escape(claim["claim"] + detail))
    lines = []
    for run, claims in claims_of.items():
        name = f"{escape(run)}: " if several_runs else ""
        lines.append(name + ", ".join(claims))
    head = f"{format_count(len(group.claims), 'claim')}: {escape(group.reason)}"
    return f"<b>{head}</b><br>{render_soft('<br>'.join(lines))}"


def _render_footer(report: CourseReport, left_out: int) -> str:
    """Render the claims that no lesson measures yet: their number, and on a click their names."""
    note = ""
    if left_out:
        words = f"{format_count(left_out, 'picture')} had no room on this page."
        note = f'<p class="soft">{words} They are in the notebooks.</p>'
    if not report.no_lesson:
        return f"<footer>{note}</footer>" if note else ""
    head = f"{format_count(len(report.no_lesson), 'claim')}: {render_mark(NO_LESSON)}"
    claims = render_list([escape(sentence) for sentence in report.no_lesson.values()])
    details = f"<details><summary>{head}</summary>{claims}</details>"
    return f'<footer class="lesson">{note}<p></p>{details}</footer>'
