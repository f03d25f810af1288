"""Render the table at the top of a page: what holds in each lesson, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from nbkit.course.report.data import CourseReport, LessonRun, LessonSection
from nbkit.course.report.markup import (
    render_headings,
    render_lesson_link,
    render_mark,
    render_marks,
    render_soft,
    render_table,
)
from nbkit.course.report.summary import count_verdicts
from nbkit.course.report.words import format_duration, format_memory


@dataclass(frozen=True)
class Scale:
    """What all times of the table have in common."""

    longest: float  # seconds; its bar has the full width
    has_memory: bool  # whether the memory of any lesson was measured


def render_overview(report: CourseReport) -> str:
    """Render a row for each lesson: its verdicts, its time as a bar, its slowest cells."""
    if not report.lessons:
        return ""
    names = [run.name for run in report.runs]
    headings = names if report.has_several_runs else ["verdicts", "time"]
    scale = _find_scale(report)
    rows = [_render_row(report, number, scale) for number in range(len(report.lessons))]
    head = '<th class="w-lesson">lesson</th>' + render_headings(headings)
    table = render_table(head, rows)
    return f"<section><h2>What holds, and how long it took</h2>{table}</section>"


def _find_scale(report: CourseReport) -> Scale:
    longest, has_memory = 0.0, False
    for lesson in report.lessons:
        for side in lesson.sides:
            if side is not None:
                longest = max(longest, side.seconds)
                has_memory = has_memory or side.memory_mib is not None
    return Scale(longest, has_memory)


def _render_row(report: CourseReport, number: int, scale: Scale) -> str:
    lesson = report.lessons[number]
    cells = f"<td>{render_lesson_link(number, lesson.title)}</td>"
    for place, run in enumerate(report.runs):
        verdicts = _render_verdicts(lesson, place)
        time = _render_time(lesson.sides[place], scale)
        # One run has a column for each; several runs have one column a run for both.
        if report.has_several_runs:
            name = escape(run.name)
            cells += f'<td class="column" data-name="{name}">{verdicts}{time}</td>'
        else:
            cells += f"<td>{verdicts}</td><td>{time}</td>"
    return f"<tr>{cells}</tr>"


def _render_verdicts(lesson: LessonSection, place: int) -> str:
    """Render how a lesson ended in the run at this place, and how often it gave each verdict."""
    side = lesson.sides[place]
    if side is None:
        return render_marks([render_mark("NOT RUN")])
    marks = []
    if side.state != "RAN":
        marks.append(render_mark(side.state))
    verdicts = [row.verdicts[place] or {} for row in lesson.findings]
    for word, count in count_verdicts(verdicts).items():
        marks.append(render_mark(word, count))
    if side.flips:
        marks.append(render_mark("FLIPPED", len(side.flips)))
    # A lesson without claims has no verdict to show.
    return render_marks(marks or [render_mark("RAN")])


def _render_time(side: LessonRun | None, scale: Scale) -> str:
    """Render a lesson's seconds as a bar and in words, its memory, and its slowest cells."""
    if side is None or not side.seconds:
        return ""
    words = format_duration(side.seconds)
    if scale.has_memory:
        words += f", {format_memory(side.memory_mib)}"
    percent = 100 * side.seconds / scale.longest
    time = (
        f'<span class="bar" style="width: {percent:.0f}%"></span>'
        f'<span class="number">{words}</span>'
    )
    if side.slowest:
        cells = []
        for cell in side.slowest:
            cells.append(f"[{cell['cell']}]\u00a0{format_duration(cell['seconds'])}")
        time += "<br>" + render_soft(escape(f"slowest cells: {', '.join(cells)}"))
    return time
