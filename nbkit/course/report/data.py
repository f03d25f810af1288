"""The content of a report as plain data, from which the page, the Markdown and the JSON are made.

The names of the fields are the keys of `report.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nbkit.course.report.read import DamagedFile


@dataclass
class RunSummary:
    """One run: when and on which machines it ran, and its totals."""

    name: str  # the machine's; with the folder's where two are alike
    folder: str
    machines: list[str]
    started: str
    seconds: float  # the sum over its lessons
    memory_mib: float | None  # the largest lesson's
    summary: str
    lessons: int
    ran: int
    verdicts: dict[str, int]


@dataclass
class LessonRun:
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

    @property
    def first_reason_line(self) -> str:
        """The first line of the reason; the rest is a traceback."""
        return (self.reason or "").partition("\n")[0]


@dataclass
class ClaimRow:
    """One claim in all runs: a verdict for each run, None where it was not judged."""

    claim: str
    sentence: str
    verdicts: list[dict[str, Any] | None]
    judged: int  # the number of runs that judged it
    disagree: bool  # whether two runs that judged it came to different verdicts


@dataclass
class LessonSection:
    """One lesson, or one point of its grid, in all runs; None where a run does not have it."""

    title: str  # the stem of its files
    sides: list[LessonRun | None]
    findings: list[ClaimRow]
    differs: list[str]  # what is not the same in all runs, besides the verdicts


@dataclass
class SkipGroup:
    """One reason, and each claim that was not judged for this reason."""

    reason: str
    claims: list[dict[str, Any]]  # run, lesson, claim, and the reason word for word


@dataclass
class CourseReport:
    """The content of a report."""

    title: str
    runs: list[RunSummary]
    lessons: list[LessonSection]
    skips: list[SkipGroup]
    tests: int  # the number of verdicts that Holm's correction counts
    weakened: list[str]  # claims whose verdict Holm's correction weakens, and in which run
    no_lesson: dict[str, str]  # claims of the register that no lesson measures yet
    damaged: list[DamagedFile] = field(default_factory=list)

    @property
    def disagreements(self) -> list[ClaimRow]:
        """The claims on which the runs do not agree."""
        return [row for lesson in self.lessons for row in lesson.findings if row.disagree]

    @property
    def has_several_runs(self) -> bool:
        """Whether runs stand side by side, so that each statement needs the name of its run."""
        return len(self.runs) > 1
