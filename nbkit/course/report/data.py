"""What a report says, as plain data: the page, the Markdown and the JSON are made from it alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbkit.course.ledger import JUDGED, numbered
from nbkit.course.report.read import Damaged, Entry
from nbkit.course.report.words import (
    count_verdicts,
    machine_line,
    machine_name,
    plural,
    reason,
    state,
    summarize_records,
)
from nbkit.lab.curriculum import word_of
from nbkit.lab.evidence.claims import SKIPPED, all_claims, without_lesson
from nbkit.lab.evidence.multiple_tests import adjust_verdicts

ALPHA = 0.05
SLOWEST = 3  # cells that are named for each lesson
LINKS = {"page": ".html", "notebook": ".ipynb", "record": ".json"}


@dataclass
class Run:
    """One run, as a column's heading: on which machine, when, and what came of it in all."""

    name: str  # the machine's; with the folder's where two are alike
    folder: str
    machines: list[str]
    started: str
    seconds: float  # its lessons' added up
    memory_mib: float | None  # the largest lesson's
    summary: str
    lessons: int
    ran: int
    verdicts: dict[str, int]


@dataclass
class Side:
    """One lesson in one run."""

    state: str
    reason: str | None
    cell: int | None
    seconds: float
    memory_mib: float | None
    parameters: dict[str, Any]
    nbkit: str
    notebook_sha256: str
    machine: dict[str, Any]
    slowest: list[dict[str, Any]]  # cells, the slowest first
    flips: list[dict[str, Any]]
    links: dict[str, str]  # relative to the report


@dataclass
class Finding:
    """One claim in all runs: a verdict for each, None where it was not judged."""

    claim: str
    sentence: str
    verdicts: list[dict[str, Any] | None]
    judged: int  # in how many runs
    disagree: bool  # two runs have judged it, and not alike


@dataclass
class Lesson:
    """One lesson, or a point of its grid, in all runs; None where a run did not have it."""

    title: str  # the stem of its files
    sides: list[Side | None]
    findings: list[Finding]
    differs: list[str]  # what else is not the same in all runs


@dataclass
class Skip:
    """One reason, and each claim that was not judged for it."""

    reason: str
    claims: list[dict[str, Any]]  # run, lesson, claim, and the reason in its own words


@dataclass
class Report:
    """Everything that a report says."""

    title: str
    runs: list[Run]
    lessons: list[Lesson]
    skips: list[Skip]
    tests: int  # how many verdicts Holm's correction counts
    weakened: list[str]  # claims that do not stand when all count together, with where needed
    no_lesson: dict[str, str]  # claims of the register that nothing measures yet
    damaged: list[Damaged] = field(default_factory=list)

    @property
    def disagreements(self) -> list[Finding]:
        """The claims on which the runs do not agree."""
        return [f for lesson in self.lessons for f in lesson.findings if f.disagree]


def build(
    runs: Sequence[Sequence[Entry]],
    damaged: Sequence[Damaged] = (),
    *,
    folders: Sequence[Path | None] | None = None,
    out: Path | None = None,
) -> Report:
    """Put runs side by side.

    Args:
        runs: what each has left.
        damaged: files that could not be read.
        folders: where each run is.
        out: the folder that the report will be in: links go from there.
    """
    folders = list(folders or [None] * len(runs))
    judged = iter(adjust_verdicts([v for run in runs for e in run for v in e.record.verdicts]))
    verdicts = [{e.name: [next(judged) for _ in e.record.verdicts] for e in run} for run in runs]
    names = _names(runs, folders)
    told = [_run(*each) for each in zip(names, runs, folders, strict=True)]
    sides = [{entry.name: _side(entry, out) for entry in run} for run in runs]
    found = [v for run in verdicts for several in run.values() for v in several]
    titles = dict.fromkeys(entry.name for run in runs for entry in run)
    lessons = [
        _lesson(
            title,
            [side.get(title) for side in sides],
            [run.get(title, []) for run in verdicts],
        )
        for title in (titles if len(runs) == 1 else sorted(titles))
    ]
    report = Report(
        title="",
        runs=told,
        lessons=lessons,
        skips=_skips(names, runs),
        tests=sum(v["p_holm"] is not None for v in found),
        weakened=_weakened(names, runs, verdicts),
        no_lesson={name: claim.sentence for name, claim in without_lesson().items()},
        damaged=list(damaged),
    )
    report.title = _title(report)
    return report


def _weakened(
    names: Sequence[str],
    runs: Sequence[Sequence[Entry]],
    verdicts: Sequence[dict[str, list[dict[str, Any]]]],
) -> list[str]:
    """The claims that Holm's correction has weakened; of several runs or points, in which one."""
    told = []
    for name, run, judged in zip(names, runs, verdicts, strict=True):
        for entry in run:
            where = [name] if len(runs) > 1 else []
            where += [entry.name] if word_of(entry.name) != entry.record.lesson else []
            after = f" ({', '.join(where)})" if where else ""
            changed = (v for v in judged[entry.name] if v["verdict_holm"] != v["verdict"])
            told += [f"{v['claim']}{after}" for v in changed]
    return told


def _title(report: Report) -> str:
    if len(report.runs) == 1:
        return report.runs[0].summary
    shared = sum(f.judged > 1 for lesson in report.lessons for f in lesson.findings)
    differ = len(report.disagreements)
    first = f"{len(report.runs)} runs side by side"
    if not shared:
        return f"{first}: no claim was judged in more than one"
    agreed = f"{first}: they agree on {plural(shared - differ, 'claim')}"
    return f"{agreed}, disagree on {differ}" if differ else agreed


def _names(runs: Sequence[Sequence[Entry]], folders: Sequence[Path | None]) -> list[str]:
    """A name for each run that no other has: the machine's, then the folder's, then a number."""
    machines = [dict.fromkeys(machine_name(e.record.machine) for e in run) for run in runs]
    names = [", ".join(each) or "no machine" for each in machines]
    for also in ([f.resolve().name if f else "" for f in folders], range(1, len(runs) + 1)):
        count = Counter(names)
        names = [f"{n} · {a}" if count[n] > 1 else n for n, a in zip(names, also, strict=True)]
    return names


def _run(name: str, run: Sequence[Entry], folder: Path | None) -> Run:
    records = [entry.record for entry in run]
    return Run(
        name=name,
        folder=str(folder or ""),
        machines=list(dict.fromkeys(machine_line(r.machine) for r in records)),
        started=min((r.started for r in records), default=""),
        seconds=sum(r.seconds for r in records),
        memory_mib=max((e.memory_mib for e in run if e.memory_mib is not None), default=None),
        summary=summarize_records(records),
        lessons=len(records),
        ran=sum(r.ok for r in records),
        verdicts=count_verdicts(v for r in records for v in r.verdicts),
    )


def _side(entry: Entry, out: Path | None) -> Side:
    record = entry.record
    timed = [c for c in record.cells if isinstance(c.get("seconds"), int | float)]
    links = {}
    if out is not None:
        there = {name: entry.file(end) for name, end in LINKS.items()}
        links = {name: _relative(path, out) for name, path in there.items() if path}
    return Side(
        state=state(record),
        reason=reason(record),
        cell=record.cell,
        seconds=record.seconds,
        memory_mib=entry.memory_mib,
        parameters=record.parameters,
        nbkit=record.nbkit,
        notebook_sha256=record.notebook_sha256,
        machine=record.machine,
        slowest=sorted(timed, key=lambda cell: -cell["seconds"])[:SLOWEST],
        flips=record.flips,
        links=links,
    )


def _relative(path: Path, out: Path) -> str:
    """The way from the report to a file, as it stands in a link."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())


def _lesson(title: str, sides: list[Side | None], verdicts: list[list[dict[str, Any]]]) -> Lesson:
    columns = [numbered(run) for run in verdicts]
    findings = []
    for key in dict.fromkeys(key for column in columns for key in column):
        row = [column.get(key) for column in columns]
        first = next(verdict for verdict in row if verdict)
        words = [v["verdict"] for v in row if v and v["verdict"] in JUDGED]
        sentence = str(first.get("sentence") or key[0])
        findings.append(Finding(key[0], sentence, row, len(words), len(set(words)) > 1))
    there = [side for side in sides if side]
    same: dict[str, list[Any]] = {
        "parameters": [side.parameters for side in there],
        "version of the lesson": [side.notebook_sha256 for side in there],
        "nbkit": [side.nbkit for side in there],
    }
    differs = [name for name, values in same.items() if any(v != values[0] for v in values)]
    return Lesson(title, sides, findings, differs)


def _skips(names: Sequence[str], runs: Sequence[Sequence[Entry]]) -> list[Skip]:
    """Every claim that was not judged, by reason; the reason with the most claims first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, run in zip(names, runs, strict=True):
        for entry in run:
            for claim, why in _not_judged(entry):
                told = {"run": name, "lesson": entry.name, "claim": claim, "reason": why}
                groups.setdefault(_general(why), []).append(told)
    return [Skip(*group) for group in sorted(groups.items(), key=lambda group: -len(group[1]))]


def _not_judged(entry: Entry) -> Iterator[tuple[str, str]]:
    record = entry.record
    for verdict in record.verdicts:
        if verdict["verdict"] == SKIPPED:
            yield str(verdict["claim"]), str(verdict.get("reason") or "no reason was recorded")
    if not record.ok:
        found = {verdict["claim"] for verdict in record.verdicts}
        registered = (c for c in all_claims().values() if c.lesson == record.lesson)
        yield from (
            (c.id, "the lesson did not come to its end") for c in registered if c.id not in found
        )


def _general(reason: str) -> str:
    """The reason without its numbers: `3 of the 8 seeds it needs` is one of too few seeds."""
    if reason.startswith("the machine was busy"):
        return "the machine was busy"
    few = re.fullmatch(r"\d+ of the \d+ (.+) it needs", reason)
    return f"too few {few[1]}" if few else reason
