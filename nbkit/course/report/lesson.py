"""Render one lesson on the page of a report: how it ended, its claims, its pictures, its files."""

from __future__ import annotations

from collections.abc import Collection
from html import escape
from typing import Any

from nbkit.course.report.columns import (
    ColumnKind,
    describe_claim,
    has_numbers,
    list_columns,
    list_texts,
)
from nbkit.course.report.data import ClaimRow, CourseReport, LessonRun, LessonSection
from nbkit.course.report.markup import (
    make_anchor,
    render_headings,
    render_mark,
    render_marks,
    render_soft,
    render_table,
)
from nbkit.course.report.pictures import Pictures, Thumbnail
from nbkit.course.report.words import (
    describe_hardware,
    format_duration,
    format_memory,
    format_parameters,
)

FILES = {"page": "executed notebook", "notebook": ".ipynb", "record": "record"}


def render_lesson(report: CourseReport, number: int, pictures: Pictures) -> str:
    """Render the section of one lesson, with all runs."""
    lesson = report.lessons[number]
    names = [run.name for run in report.runs]
    body = ""
    for name, side in zip(names, lesson.sides, strict=True):
        body += _render_lesson_run(side, name if report.has_several_runs else None)
    # Other parameters or another version may explain why the verdicts differ.
    if lesson.differs:
        body += f'<p class="soft">Not the same in all runs: {", ".join(lesson.differs)}.</p>'
    if lesson.findings and report.has_several_runs:
        body += _render_claims_of_runs(lesson, names)
    elif lesson.findings:
        body += _render_claims_of_run(lesson)
    body += _render_pictures(lesson, names, pictures)
    heading = f"<h2>{escape(lesson.title)}</h2>"
    return f'<section class="lesson" id="{make_anchor(number)}">{heading}{body}</section>'


def _render_lesson_run(side: LessonRun | None, name: str | None) -> str:
    """Render how the lesson ended in one run, its parameters, its hardware and its files."""
    who = f"<b>{escape(name)}</b>: " if name else ""
    if side is None:
        return f'<p class="soft">{who}{render_mark("NOT RUN")}</p>'
    about = f" in {format_duration(side.seconds)}" if side.seconds else ""
    if side.parameters:
        about += f", with {format_parameters(side.parameters)}"
    if side.memory_mib is not None:
        about += f", {format_memory(side.memory_mib)}"
    about += f". {describe_hardware(side.machine)}."
    reason = ""
    if side.reason:
        where = f"cell {side.cell}: " if side.cell else ""
        reason = f"<pre>{escape(where + side.reason)}</pre>"
    # The links are HTML already; everything before them is text from the record.
    about = escape(about) + _render_links(side)
    return f'<p class="soft">{who}{render_mark(side.state)}{about}</p>{reason}'


def _render_links(side: LessonRun) -> str:
    links = []
    for kind, text in FILES.items():
        # A lesson that failed early may have a record alone.
        if kind in side.links:
            links.append(f'<a href="{escape(side.links[kind])}">{text}</a>')
    return f'<span class="links"> {" · ".join(links)}</span>' if links else ""


def _render_claims_of_run(lesson: LessonSection) -> str:
    """Render the verdicts of a single run as a table; on a phone each row becomes a block."""
    flipped = _find_flipped(lesson.sides[0])
    numbers = list_columns(ColumnKind.NUMBER)
    rows = []
    for row in lesson.findings:
        verdict = row.verdicts[0]
        if verdict is None:
            continue
        cells = f"<td>{_render_verdict_marks(verdict, flipped)}</td><td>{escape(row.sentence)}<br>"
        notes = ". ".join(list_texts(verdict, ColumnKind.NOTE, ColumnKind.CLAIM))
        cells += f"{render_soft(escape(f'{row.claim}: {notes}'))}</td>"
        for column in numbers:
            text = escape(column.text(verdict))
            cells += f'<td class="number" data-name="{escape(column.name)}">{text}</td>'
        rows.append(f"<tr>{cells}</tr>")
    # The classes give the usual columns their widths; another column takes what is left.
    head = '<th class="w-verdict">verdict</th><th>claim</th>'
    for column in numbers:
        head += f'<th class="w-{escape(column.name)}">{escape(column.heading)}</th>'
    return render_table(head, rows)


def _render_claims_of_runs(lesson: LessonSection, names: list[str]) -> str:
    """Render a row for each claim and a column for each run; disagreements are marked."""
    flipped = [_find_flipped(side) for side in lesson.sides]
    rows = []
    for row in lesson.findings:
        cells = f"<td>{_render_claim(row)}</td>"
        for name, verdict, flips in zip(names, row.verdicts, flipped, strict=True):
            cell = _render_verdict(verdict, flips)
            cells += f'<td class="column number" data-name="{escape(name)}">{cell}</td>'
        rows.append(f"<tr{' class=differs' if row.disagree else ''}>{cells}</tr>")
    return render_table('<th class="w-claim">claim</th>' + render_headings(names), rows)


def _render_claim(row: ClaimRow) -> str:
    """Render a claim: its sentence, its id, and what was measured."""
    mark = f"{render_mark('DISAGREE')} " if row.disagree else ""
    details = f"{escape(row.claim)}. {escape(describe_claim(row.verdicts))}"
    return f"{mark}{escape(row.sentence)}<br>{render_soft(details)}"


def _render_verdict(verdict: dict[str, Any] | None, flipped: Collection[str]) -> str:
    """Render one verdict as a cell: the word, the numbers, and the reasons."""
    if verdict is None:
        return render_marks([render_mark("NOT JUDGED")])
    lines = []
    # A skipped claim has a reason and no numbers.
    if has_numbers(verdict):
        lines.append(escape(", ".join(list_texts(verdict, ColumnKind.NUMBER))))
    notes = ". ".join(list_texts(verdict, ColumnKind.NOTE))
    if notes:
        lines.append(render_soft(escape(notes)))
    return _render_verdict_marks(verdict, flipped) + "<br>".join(lines)


def _render_verdict_marks(verdict: dict[str, Any], flipped: Collection[str]) -> str:
    marks = [render_mark(text) for text in list_texts(verdict, ColumnKind.MARK)]
    if verdict["claim"] in flipped:
        marks.append(render_mark("FLIPPED"))
    return render_marks(marks)


def _find_flipped(side: LessonRun | None) -> set[str]:
    """Return the claims of a lesson whose verdict flipped."""
    return {flip["claim"] for flip in side.flips} if side else set()


def _render_pictures(lesson: LessonSection, names: list[str], pictures: Pictures) -> str:
    """Render the lesson's pictures; several runs have a column each."""
    columns = ""
    # The pictures' key holds the number of the run, in the order of the report.
    for number, (name, side) in enumerate(zip(names, lesson.sides, strict=True)):
        link = side.links.get("page") if side else None
        shown = ""
        for picture in pictures.get((number, lesson.title), ()):
            shown += _render_figure(picture, link)
        if shown and len(names) > 1:
            shown = f'<div class="side"><p class="soft">{escape(name)}</p>{shown}</div>'
        columns += shown
    return f'<div class="pictures">{columns}</div>' if columns else ""


def _render_figure(picture: Thumbnail, link: str | None) -> str:
    """Render a picture that links to the executed notebook, where it stands in full size."""
    image = (
        f'<img src="{picture.source}" alt="{escape(picture.alt)}" '
        f'width="{picture.width}" height="{picture.height}">'
    )
    if link:
        image = f'<a href="{escape(link)}">{image}</a>'
    return f"<figure>{image}</figure>"
