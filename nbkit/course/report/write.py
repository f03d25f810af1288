"""Write what runs have measured: a page for the browser, Markdown, and JSON for programs.

The page is one file that needs no network; it reads on a phone, in the dark and on paper. All
three files have the same content, a `CourseReport`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import nbkit
from nbkit.base.whole_file import write_whole
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record, replace_nonfinite
from nbkit.course.report.assembly import assemble_report
from nbkit.course.report.data import CourseReport
from nbkit.course.report.html import render_page
from nbkit.course.report.markdown import format_markdown
from nbkit.course.report.pictures import collect_pictures
from nbkit.course.report.read import (
    OWN,
    DamagedFile,
    StoredRecord,
    check_records,
    read_records,
    read_run,
)
from nbkit.course.report.summary import format_table, summarize_records
from nbkit.course.run.leftovers import holds_something

__all__ = ["format_table", "summarize_records", "write_report", "write_reports"]
PAGE, MARKDOWN = "index.html", "report.md"
KIND = "nbkit report"  # the "kind" in report.json, by which nbkit recognises its own files


def write_report(runs: Sequence[Path], out: Path) -> CourseReport:
    """Put the runs of several folders side by side, and write it as a page, Markdown and JSON.

    Args:
        runs: folders that `nbkit run` has written, on one machine or on several.
        out: the folder for `index.html`, `report.md` and `report.json`; created if missing.
    Returns:
        the content of the three files.
    Raises:
        ValueError: if no run is given, a folder holds no record, or `out` holds a page that is not
            nbkit's.
        OSError: if the files cannot be written.
    """
    if not runs:
        raise ValueError("give at least one folder of a run.")
    found, damaged = [], []
    for folder in runs:
        records, unread = read_run(folder)
        found.append(records)
        damaged += unread

    # Every run has been read by now, so that an error leaves no empty folder behind.
    check_page(out)
    out.mkdir(parents=True, exist_ok=True)
    return _write_files(found, damaged, list(runs), out)


def check_page(folder: Path) -> None:
    """Check that no page, Markdown or JSON would be lost that nbkit has not written.

    Raises:
        LessonError: if there is such a file, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise LessonError(f"{folder} is a file: choose a folder for the report.")
    present = []
    for name in (PAGE, MARKDOWN, OWN):
        if holds_something(folder / name):
            present.append(folder / name)
    if present and not (_is_report(folder / OWN) or _is_page(folder)):
        raise LessonError(f"{present[0]} is not nbkit's and would be lost: choose another folder.")


def _is_report(path: Path) -> bool:
    """Return whether a file is the JSON of a report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def _is_page(folder: Path) -> bool:
    """Return whether the page is a report's, and its JSON is missing or was cut off."""
    try:
        # A run that was killed between two files leaves a page beside half a JSON file.
        page = (folder / PAGE).read_text(encoding="utf-8")
        text = (folder / OWN).read_text(encoding="utf-8") if holds_something(folder / OWN) else ""
    except (OSError, ValueError):
        return False
    is_ours = "<title>nbkit: " in page[:1000]
    return is_ours and (not text or text.startswith('{\n "kind": "nbkit report"'))


def write_reports(records: Sequence[Record], folder: Path) -> CourseReport:
    """Write the report of a run into its folder, with the lessons that ran there earlier.

    Args:
        records: the records in memory; they replace the ones in the folder.
        folder: the folder of the run; the other records in it are read.
    Raises:
        OSError: if the files cannot be written.
    """
    found, damaged = check_records(records, folder)
    at_hand = {record.name for record in records}
    earlier, unread = read_records(folder)
    # With `--resume`, or another lesson in the same folder, the page shows both.
    others = [stored for stored in earlier if stored.name not in at_hand]
    if others:
        found = sorted([*found, *others], key=lambda stored: stored.name)
    damaged += [each for each in unread if Path(each.file).stem not in at_hand]
    return _write_files([found], damaged, [folder], folder)


def format_json(report: CourseReport) -> str:
    """Format the report for programs; NaN and infinity, which JSON does not have, become null."""
    data = {"kind": KIND, "nbkit": nbkit.__version__, **asdict(report)}
    return json.dumps(replace_nonfinite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write_files(
    runs: list[list[StoredRecord]], damaged: list[DamagedFile], folders: list[Path], out: Path
) -> CourseReport:
    pictures, unread, left_out = collect_pictures(runs)
    report = assemble_report(runs, [*damaged, *unread], folders=folders, out=out)
    # The JSON comes first: it is by the JSON that nbkit recognises the other two as its own.
    write_whole(out / OWN, format_json(report))
    write_whole(out / PAGE, render_page(report, pictures, left_out))
    write_whole(out / MARKDOWN, format_markdown(report))
    return report
