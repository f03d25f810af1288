"""Put runs side by side: turn the records of runs into the content of a report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbkit.course.ledger import JUDGED, number_verdicts
from nbkit.course.report.columns import add_values
from nbkit.course.report.data import ClaimRow, CourseReport, LessonRun, LessonSection, RunSummary
from nbkit.course.report.read import DamagedFile, StoredRecord
from nbkit.course.report.skips import group_skips
from nbkit.course.report.summary import (
    collect_verdicts,
    count_verdicts,
    explain_failure,
    name_state,
    summarize_records,
)
from nbkit.course.report.words import describe_computer, format_count, name_machine
from nbkit.lab.curriculum import word_of
from nbkit.lab.evidence.multiple_tests import adjust_verdicts
from nbkit.lab.evidence.register import without_lesson

ALPHA = 0.05  # the level of Holm's correction
SLOWEST = 3  # the number of cells that are named for each lesson
LINKS = {"page": ".html", "notebook": ".ipynb", "record": ".json"}

Runs = Sequence[Sequence[StoredRecord]]
# For each run, the verdicts of its lessons by the lessons' names.
RunVerdicts = list[dict[str, list[dict[str, Any]]]]


def assemble_report(
    runs: Runs,
    damaged: Sequence[DamagedFile] = (),
    *,
    folders: Sequence[Path | None] | None = None,
    out: Path | None = None,
) -> CourseReport:
    """Put runs side by side.

    Args:
        runs: the records of each run.
        damaged: files that could not be read.
        folders: the folder of each run.
        out: the folder of the report; links are relative to it. Without it there are no links.
    """
    folders = list(folders or [None] * len(runs))
    # The names first, because skips and weakened claims refer to a run by its name.
    names = _name_runs(runs, folders)
    verdicts = _correct_verdicts(runs)
    summaries = []
    for name, run, folder in zip(names, runs, folders, strict=True):
        summaries.append(_sum_up_run(name, run, folder))
    report = CourseReport(
        title="",  # made from the finished report, below
        runs=summaries,
        lessons=_assemble_lessons(runs, verdicts, out),
        skips=group_skips(names, runs),
        tests=_count_tests(verdicts),
        weakened=_list_weakened(names, runs, verdicts),
        no_lesson={name: claim.sentence for name, claim in without_lesson().items()},
        damaged=list(damaged),
    )
    report.title = _make_title(report)
    return report


def _name_runs(runs: Runs, folders: Sequence[Path | None]) -> list[str]:
    """Name each run by its machine; equal names get the folder's name, and then a number."""
    names = []
    for run in runs:
        # A run on a cluster may have several machines.
        machines = _drop_repeats([name_machine(stored.record.machine) for stored in run])
        names.append(", ".join(machines) or "no machine")
    folder_names = []
    for folder in folders:
        folder_names.append(folder.resolve().name if folder else "")
    names = _tell_apart(names, folder_names)
    return _tell_apart(names, range(1, len(runs) + 1))


def _tell_apart(names: Sequence[str], additions: Iterable[object]) -> list[str]:
    """Append its addition to each name that occurs more than once."""
    counts = Counter(names)
    longer = []
    for name, addition in zip(names, additions, strict=True):
        longer.append(f"{name} · {addition}" if counts[name] > 1 else name)
    return longer


def _drop_repeats(items: Iterable[Any]) -> list[Any]:
    """Return each item once, in the order of its first occurrence."""
    return list(dict.fromkeys(items))


def _correct_verdicts(runs: Runs) -> RunVerdicts:
    """Add to each verdict what Holm's correction over the whole page makes of it."""
    every = []
    for run in runs:
        every += collect_verdicts([stored.record for stored in run])
    corrected = iter(adjust_verdicts(every))
    # The corrected verdicts come in the same order, so they are dealt out again in that order.
    verdicts: RunVerdicts = []
    for run in runs:
        by_lesson: dict[str, list[dict[str, Any]]] = {}
        for stored in run:
            by_lesson[stored.name] = [add_values(next(corrected)) for _ in stored.record.verdicts]
        verdicts.append(by_lesson)
    return verdicts


def _count_tests(verdicts: RunVerdicts) -> int:
    """Count the verdicts that Holm's correction took for tests."""
    tests = 0
    for by_lesson in verdicts:
        for several in by_lesson.values():
            for verdict in several:
                tests += verdict["p_holm"] is not None  # a skipped claim is no test
    return tests


def _list_weakened(names: Sequence[str], runs: Runs, verdicts: RunVerdicts) -> list[str]:
    """List the claims whose verdict Holm's correction weakens, with the run and the grid point."""
    weakened = []
    for name, run, by_lesson in zip(names, runs, verdicts, strict=True):
        for stored in run:
            where = []
            if len(runs) > 1:
                where.append(name)
            if word_of(stored.name) != stored.record.lesson:  # a point of a grid
                where.append(stored.name)
            suffix = f" ({', '.join(where)})" if where else ""
            for verdict in by_lesson[stored.name]:
                if verdict["verdict_holm"] != verdict["verdict"]:
                    weakened.append(f"{verdict['claim']}{suffix}")
    return weakened


def _sum_up_run(name: str, run: Sequence[StoredRecord], folder: Path | None) -> RunSummary:
    records = [stored.record for stored in run]
    sizes = [stored.memory_mib for stored in run if stored.memory_mib is not None]
    return RunSummary(
        name=name,
        folder=str(folder or ""),
        machines=_drop_repeats([describe_computer(record.machine) for record in records]),
        # ISO times sort like the times themselves.
        started=min([record.started for record in records], default=""),
        seconds=sum(record.seconds for record in records),
        memory_mib=max(sizes, default=None),
        summary=summarize_records(records),
        lessons=len(records),
        ran=sum(record.ok for record in records),
        verdicts=count_verdicts(collect_verdicts(records)),
    )


def _assemble_lessons(runs: Runs, verdicts: RunVerdicts, out: Path | None) -> list[LessonSection]:
    """Assemble the sections of all lessons: one run keeps its order, several are sorted."""
    sides: list[dict[str, LessonRun]] = []
    titles: list[str] = []
    for run in runs:
        sides.append({stored.name: _assemble_lesson_run(stored, out) for stored in run})
        titles += sides[-1]
    titles = _drop_repeats(titles)
    if len(runs) > 1:
        titles.sort()
    sections = []
    for title in titles:
        in_runs = [side.get(title) for side in sides]  # None where a run lacks the lesson
        rows = _assemble_claim_rows([by_lesson.get(title, []) for by_lesson in verdicts])
        sections.append(LessonSection(title, in_runs, rows, _list_differences(in_runs)))
    return sections


def _assemble_lesson_run(stored: StoredRecord, out: Path | None) -> LessonRun:
    record = stored.record
    # A cell that was never reached has no time.
    timed = [cell for cell in record.cells if isinstance(cell.get("seconds"), int | float)]
    return LessonRun(
        state=name_state(record),
        reason=explain_failure(record),
        cell=record.cell,
        seconds=record.seconds,
        memory_mib=stored.memory_mib,
        parameters=record.parameters,
        nbkit=record.nbkit,
        notebook_sha256=record.notebook_sha256,
        machine=record.machine,
        slowest=sorted(timed, key=lambda cell: -cell["seconds"])[:SLOWEST],
        flips=record.flips,
        links=_find_links(stored, out) if out else {},
    )


def _find_links(stored: StoredRecord, out: Path) -> dict[str, str]:
    """Find the files of a lesson, each as a link from the folder of the report."""
    links = {}
    for kind, end in LINKS.items():
        path = stored.find_file(end)
        if path is not None:
            relative = os.path.relpath(path.resolve(), out.resolve())
            links[kind] = quote(Path(relative).as_posix())
    return links


def _assemble_claim_rows(verdicts: list[list[dict[str, Any]]]) -> list[ClaimRow]:
    """Assemble the rows of a lesson's claims, given its verdicts in each run."""
    numbered = [number_verdicts(run) for run in verdicts]
    keys: list[tuple[str, int]] = []
    for run in numbered:
        keys += run
    rows = []
    for key in _drop_repeats(keys):
        in_runs = [run.get(key) for run in numbered]
        present = [verdict for verdict in in_runs if verdict]
        words = [verdict["verdict"] for verdict in present if verdict["verdict"] in JUDGED]
        rows.append(
            ClaimRow(
                claim=key[0],
                sentence=str(present[0].get("sentence") or key[0]),
                verdicts=in_runs,
                judged=len(words),
                disagree=len(set(words)) > 1,
            )
        )
    return rows


def _list_differences(in_runs: Sequence[LessonRun | None]) -> list[str]:
    """List what differs between the runs of a lesson and may explain different verdicts."""
    present = [one for one in in_runs if one]
    compared: dict[str, list[Any]] = {
        "parameters": [one.parameters for one in present],
        "version of the lesson": [one.notebook_sha256 for one in present],
        "nbkit": [one.nbkit for one in present],
    }
    differs = []
    for name, values in compared.items():
        # Parameters are dictionaries, which no set can hold: compare each with the first.
        if values.count(values[0]) < len(values):
            differs.append(name)
    return differs


def _make_title(report: CourseReport) -> str:
    """Make the title: the summary of one run, or how far several runs agree."""
    if not report.has_several_runs:
        return report.runs[0].summary
    shared = 0
    for lesson in report.lessons:
        for row in lesson.findings:
            shared += row.judged > 1  # the others cannot agree or disagree
    start = f"{len(report.runs)} runs side by side"
    if not shared:
        return f"{start}: no claim was judged in more than one"
    differ = len(report.disagreements)
    title = f"{start}: they agree on {format_count(shared - differ, 'claim')}"
    return f"{title}, disagree on {differ}" if differ else title
