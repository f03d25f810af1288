"""One lesson on the page of a report: how it ended, its claims, its pictures, its files."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape
from typing import Any

from nbkit.course.report.data import Finding, Lesson, Report, Side
from nbkit.course.report.pictures import Picture, Pictures
from nbkit.course.report.words import (
    after_holm,
    duration,
    effect,
    hardware_line,
    measured,
    memory,
)

FILES = {"page": "executed notebook", "notebook": ".ipynb", "record": "record"}


def target(number: int) -> str:
    """The name of a lesson's section, for links within the page."""
    return f"lesson-{number + 1}"


def mark(word: str, count: int | None = None) -> str:
    """A verdict or a state, in its colour; with how many."""
    shown = word if count is None else f"{count} {word}"
    return f'<span class="mark {escape(word.lower().split()[0])}">{escape(shown)}</span>'


def lesson_section(report: Report, number: int, pictures: Pictures) -> str:
    """One lesson in all runs."""
    lesson = report.lessons[number]
    names = [run.name for run in report.runs]
    one = len(names) == 1
    heads = "".join(
        _side(side, None if one else name) for name, side in zip(names, lesson.sides, strict=True)
    )
    if lesson.differs:
        heads += f'<p class="soft">Not the same in all runs: {", ".join(lesson.differs)}.</p>'
    return (
        f'<section class="lesson" id="{target(number)}"><h2>{escape(lesson.title)}</h2>{heads}'
        f"{_alone(lesson) if one else _side_by_side(lesson, names)}"
        f"{_pictures(lesson, names, pictures)}</section>"
    )


def _side(side: Side | None, name: str | None) -> str:
    """How the lesson ended in one run, with what, on what; and where its files are."""
    who = f"<b>{escape(name)}</b>: " if name else ""
    if side is None:
        return f'<p class="soft">{who}{mark("NOT RUN")}</p>'
    given = ", ".join(f"{key} = {value!r}" for key, value in side.parameters.items())
    about = f" in {duration(side.seconds)}" if side.seconds else ""
    about += f", with {given}" if given else ""
    if side.memory_mib is not None:
        about += f", {memory(side.memory_mib)}"
    about += f". {hardware_line(side.machine)}."
    links = " · ".join(
        f'<a href="{escape(side.links[kind])}">{text}</a>'
        for kind, text in FILES.items()
        if kind in side.links
    )
    links = f'<span class="links"> {links}</span>' if links else ""
    where = f"cell {side.cell}: " if side.cell else ""
    told = f"<pre>{escape(where + side.reason)}</pre>" if side.reason else ""
    return f'<p class="soft">{who}{mark(side.state)}{escape(about)}{links}</p>{told}'


def _alone(lesson: Lesson) -> str:
    """The verdicts of one run as a table; on a phone each row becomes a block."""
    (side,) = lesson.sides
    flipped = _flipped(side)
    rows = "".join(
        f"<tr><td>{_marks(verdict, flipped)}</td>"
        f"<td>{escape(finding.sentence)}<br>"
        f'<span class="soft">{escape(_in_words(finding, verdict))}</span></td>'
        f'<td class="number" data-name="effect">{escape(effect(verdict))}</td>'
        f'<td class="number" data-name="n">{_count(verdict)}</td></tr>'
        for finding in lesson.findings
        for verdict in finding.verdicts
        if verdict
    )
    head = (
        '<tr><th class="w-verdict">verdict</th><th>claim</th>'
        '<th class="w-effect">effect, interval</th><th class="w-n">n</th></tr>'
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""


def _side_by_side(lesson: Lesson, names: list[str]) -> str:
    """A row for each claim, a column for each run; where they disagree, the row says so."""
    if not lesson.findings:
        return ""
    flipped = [_flipped(side) for side in lesson.sides]
    rows = ""
    for finding in lesson.findings:
        cells = "".join(
            f'<td class="column number" data-name="{escape(name)}">{_cell(verdict, flips)}</td>'
            for name, verdict, flips in zip(names, finding.verdicts, flipped, strict=True)
        )
        differs = f"{mark('DISAGREE')} " if finding.disagree else ""
        words = next((told for v in finding.verdicts if v and (told := measured(v))), "")
        rows += (
            f"<tr{' class=differs' if finding.disagree else ''}>"
            f"<td>{differs}{escape(finding.sentence)}<br>"
            f'<span class="soft">{escape(finding.claim)}. {escape(words)}</span></td>{cells}</tr>'
        )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<table><thead><tr><th class="w-claim">claim</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(verdict: dict[str, Any] | None, flipped: Collection[str]) -> str:
    """One verdict in a column: the word, the numbers, and why."""
    if verdict is None:
        return f'<span class="marks">{mark("NOT JUDGED")}</span>'
    lines = [_marks(verdict, flipped)]
    if verdict.get("effect") is not None:
        lines.append(f"{escape(effect(verdict))}, n = {_count(verdict)}")
    why = ". ".join(str(t) for t in (verdict.get("reason"), after_holm(verdict)) if t)
    lines.append(f'<span class="soft">{escape(why)}</span>' if why else "")
    return lines[0] + "<br>".join(line for line in lines[1:] if line)


def _marks(verdict: dict[str, Any], flipped: Collection[str]) -> str:
    more = mark("FLIPPED") if verdict["claim"] in flipped else ""
    return f'<span class="marks">{mark(str(verdict["verdict"]))}{more}</span>'


def _flipped(side: Side | None) -> set[str]:
    return {flip["claim"] for flip in side.flips} if side else set()


def _count(verdict: dict[str, Any]) -> str:
    count, over = verdict.get("n"), verdict.get("over", "")
    return escape("–" if count is None else f"{count} {over}".rstrip())


def _in_words(finding: Finding, verdict: dict[str, Any]) -> str:
    """Which claim, why this verdict, and what was measured."""
    told = (verdict.get("reason"), measured(verdict), after_holm(verdict))
    return f"{finding.claim}: " + ". ".join(str(words) for words in told if words)


def _pictures(lesson: Lesson, names: list[str], pictures: Pictures) -> str:
    """The lesson's pictures; those of several runs in a column for each."""
    columns = []
    for number, (name, side) in enumerate(zip(names, lesson.sides, strict=True)):
        link = side.links.get("page") if side else None
        shown = "".join(_figures(pictures.get((number, lesson.title), ()), link))
        if shown and len(names) > 1:
            shown = f'<div class="side"><p class="soft">{escape(name)}</p>{shown}</div>'
        columns.append(shown)
    together = "".join(columns)
    return f'<div class="pictures">{together}</div>' if together else ""


def _figures(pictures: Iterable[Picture], link: str | None) -> Iterable[str]:
    for picture in pictures:
        image = (
            f'<img src="{picture.source}" alt="{escape(picture.alt)}" '
            f'width="{picture.width}" height="{picture.height}">'
        )
        linked = f'<a href="{escape(link)}">{image}</a>' if link else image
        yield f"<figure>{linked}</figure>"
