"""A report as one HTML page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from nbkit.course.report.data import ALPHA, Finding, Report, Run, Side
from nbkit.course.report.lesson import lesson_section, mark, target
from nbkit.course.report.pictures import Pictures
from nbkit.course.report.style import STYLE
from nbkit.course.report.words import (
    count_verdicts,
    date,
    duration,
    flip_in_words,
    memory,
    plural,
)
from nbkit.lab.evidence.claims import NO_LESSON

# The browser itself refuses whatever would come from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html(report: Report, pictures: Pictures, left_out: int = 0) -> str:
    """The page: what holds, what went wrong, times and skips first; then lesson by lesson."""
    title = escape(report.title)
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>nbkit: {title}</title><style>{STYLE}</style></head>\n<body>"
        f'<header><h1>{title}</h1><div class="cards">{"".join(map(_card, report.runs))}</div>'
        f"{_holm(report)}</header>",
        _trouble(report),
        _overview(report),
        _skips(report),
        *(lesson_section(report, number, pictures) for number in range(len(report.lessons))),
        _end(report, left_out),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _card(run: Run) -> str:
    """One run in all: how many claims met which verdict, how long it took, on what."""
    counts = "".join(
        f'<span class="count {word.lower()}"><b>{number}</b>{mark(word)}</span>'
        for word, number in run.verdicts.items()
    )
    used = memory(run.memory_mib) + (" of memory at most" if run.memory_mib is not None else "")
    about = [date(run.started), *run.machines, run.folder]
    lines = "".join(f'<p class="soft">{escape(line)}</p>' for line in about if line)
    return (
        f'<article class="card"><h3>{escape(run.name)}</h3><p class="counts">{counts}</p>'
        f"<p>{run.ran} of {plural(run.lessons, 'lesson')} ran, {duration(run.seconds)} in all, "
        f"{used}</p>{lines}</article>"
    )


def _holm(report: Report) -> str:
    """What is left of the verdicts when they are taken for the several tests that they are."""
    if not report.tests:
        return ""
    left = "each verdict stands"
    if report.weakened:
        left = f"no longer decided are {', '.join(report.weakened)}"
    tests = f"{plural(report.tests, 'test')} on this page"
    words = f"{tests}; counted together (Holm, {100 * ALPHA:.0f}\u00a0%), {left}."
    return f'<p class="soft">{escape(words)}</p>'


def _trouble(report: Report) -> str:
    """What an instructor has to see before anything else."""
    failed, flips = [], []
    for number, lesson in enumerate(report.lessons):
        for run, side in zip(report.runs, lesson.sides, strict=True):
            link = f'<a href="#{target(number)}">{escape(lesson.title)}</a>'
            link += f" on {escape(run.name)}" if len(report.runs) > 1 else ""
            if side and side.state != "RAN":
                where = f"in cell {side.cell}: " if side.cell else ""
                reason = (side.reason or "").partition("\n")[0]
                failed.append(f"{link} {mark(side.state)} {escape(where + reason)}")
            flips += [f"{link}: {escape(flip_in_words(f))}" for f in (side.flips if side else [])]
    differ = [_differ(report, finding) for finding in report.disagreements]
    damaged = [f"{escape(d.file)}: {escape(d.problem)}" for d in report.damaged]
    return (
        _alert("Did not run to the end", failed)
        + _alert("Flipped against the ledger", flips)
        + _alert("The runs disagree", differ, odd=True)
        + _alert("Could not be read", damaged)
    )


def _differ(report: Report, finding: Finding) -> str:
    """Who says what of a claim."""
    pairs = zip(report.runs, finding.verdicts, strict=True)
    said = ", ".join(f"{mark(v['verdict'])} on {escape(run.name)}" for run, v in pairs if v)
    return f'{said}: {escape(finding.sentence)} <span class="soft">{escape(finding.claim)}</span>'


def _alert(title: str, items: list[str], odd: bool = False) -> str:
    if not items:
        return ""
    lines = "".join(f"<li>{item}</li>" for item in items)
    kind = "alert odd" if odd else "alert"
    return f'<section class="{kind}"><h3>{title}: {len(items)}</h3><ul>{lines}</ul></section>'


def _overview(report: Report) -> str:
    """A row for each lesson: its verdicts, its time as a bar, its slowest cells, its memory."""
    if not report.lessons:
        return ""
    sides = [side for lesson in report.lessons for side in lesson.sides if side]
    longest = max(side.seconds for side in sides) or 1.0
    sized = any(side.memory_mib is not None for side in sides)
    one = len(report.runs) == 1
    heads = ["verdicts", "time"] if one else [escape(run.name) for run in report.runs]
    rows = []
    for number, lesson in enumerate(report.lessons):
        cells = f'<td><a href="#{target(number)}">{escape(lesson.title)}</a></td>'
        for place, (run, side) in enumerate(zip(report.runs, lesson.sides, strict=True)):
            words = _state(side, (finding.verdicts[place] for finding in lesson.findings))
            time = _time(side, longest, sized) if side else ""
            name = escape(run.name)
            cells += (
                f"<td>{words}</td><td>{time}</td>"
                if one
                else f'<td class="column" data-name="{name}">{words}{time}</td>'
            )
        rows.append(f"<tr>{cells}</tr>")
    columns = "".join(f"<th>{head}</th>" for head in heads)
    return (
        "<section><h2>What holds, and how long it took</h2>"
        f'<table><thead><tr><th class="w-lesson">lesson</th>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _state(side: Side | None, verdicts: Iterable[dict[str, Any] | None]) -> str:
    if side is None:
        return f'<span class="marks">{mark("NOT RUN")}</span>'
    words = [] if side.state == "RAN" else [mark(side.state)]
    counts = count_verdicts(verdict for verdict in verdicts if verdict)
    words += [mark(word, number) for word, number in counts.items()]
    words += [mark("FLIPPED", len(side.flips))] if side.flips else []
    return f'<span class="marks">{"".join(words) or mark("RAN")}</span>'


def _time(side: Side, longest: float, sized: bool) -> str:
    """The lesson's seconds as a bar and in words, then its memory and its slowest cells."""
    if not side.seconds:
        return ""
    words = [duration(side.seconds), memory(side.memory_mib)] if sized else [duration(side.seconds)]
    slow = ", ".join(f"[{c['cell']}]\u00a0{duration(c['seconds'])}" for c in side.slowest)
    return (
        f'<span class="bar" style="width: {100 * side.seconds / longest:.0f}%"></span>'
        f'<span class="number">{", ".join(words)}</span>'
        + (f'<br><span class="soft">slowest cells: {escape(slow)}</span>' if slow else "")
    )


def _skips(report: Report) -> str:
    """What was not judged and why: the reason, how many, and on which claims it fell."""
    count = sum(len(skip.claims) for skip in report.skips)
    if not count:
        words = "<p>Nothing: each claim of these lessons was judged.</p>" if report.lessons else ""
        return f"<section><h2>Skipped, and why: 0</h2>{words}</section>" if words else ""
    several = len(report.runs) > 1
    rows = []
    for skip in report.skips:
        groups: dict[str, list[str]] = {}
        for claim in skip.claims:
            detail = f" ({claim['reason']})" if claim["reason"] != skip.reason else ""
            groups.setdefault(claim["run"], []).append(escape(claim["claim"] + detail))
        named = "<br>".join(
            (f"{escape(run)}: " if several else "") + ", ".join(claims)
            for run, claims in groups.items()
        )
        rows.append(
            f"<li><b>{plural(len(skip.claims), 'claim')}: {escape(skip.reason)}</b><br>"
            f'<span class="soft">{named}</span></li>'
        )
    return f"<section><h2>Skipped, and why: {count}</h2><ul>{''.join(rows)}</ul></section>"


def _end(report: Report, left_out: int) -> str:
    """The claims of the register that nothing measures yet: counted, and named on a click."""
    note = f"{plural(left_out, 'picture')} had no room on this page." if left_out else ""
    told = f'<p class="soft">{note} They are in the notebooks.</p>' if note else ""
    if not report.no_lesson:
        return f"<footer>{told}</footer>" if told else ""
    rows = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.no_lesson.values())
    head = f"{plural(len(report.no_lesson), 'claim')}: {mark(NO_LESSON)}"
    more = f"<details><summary>{head}</summary><ul>{rows}</ul></details>"
    return f'<footer class="lesson">{told}<p></p>{more}</footer>'
