"""What runs have found out: a table for the terminal, a page for the browser, files for programs.

The page is one file that needs no network; it reads on a phone, in the dark and on paper. The
Markdown and the JSON say the same. All three are made from one `Report`.
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
from nbkit.course.report.data import Report, build
from nbkit.course.report.html import html
from nbkit.course.report.markdown import markdown
from nbkit.course.report.pictures import pictures
from nbkit.course.report.read import OWN, Damaged, Entry, entries, read_records, read_run
from nbkit.course.report.words import format_table, name_of, summarize_records
from nbkit.course.run.leftovers import holds_something

__all__ = ["format_table", "summarize_records", "write_report", "write_reports"]
PAGE, MARKDOWN = "index.html", "report.md"
KIND = "nbkit report"  # as report.json calls itself


def write_report(runs: Sequence[Path], out: Path) -> Report:
    """Put the runs of several folders side by side, and write it as a page, Markdown and JSON.

    Args:
        runs: folders that `nbkit run` has written; of one machine or of several.
        out: the folder for `index.html`, `report.md` and `report.json`; made if it is not there.
    Returns:
        what the three files say.
    Raises:
        ValueError: if there is no run, in one of the folders no record, or in `out` somebody
            else's page.
        OSError: if the files cannot be written.
    """
    if not runs:
        raise ValueError("give at least one folder of a run.")
    found, damaged = [], []
    for folder in runs:
        records, unread = read_run(folder)
        found.append(records)
        damaged += unread

    check_page(out)
    out.mkdir(parents=True, exist_ok=True)
    return _write(found, damaged, list(runs), out)


def check_page(folder: Path) -> None:
    """Refuse to write over a page, Markdown or JSON that no report has written.

    Raises:
        LessonError: if there is one, and beside it no `report.json` of nbkit's; or if it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise LessonError(f"{folder} is a file: choose a folder for the report.")
    there = [file for name in (PAGE, MARKDOWN, OWN) if holds_something(file := folder / name)]
    if there and not (_is_report(folder / OWN) or _is_page(folder)):
        raise LessonError(f"{there[0]} is not nbkit's and would be lost: choose another folder.")


def _is_report(path: Path) -> bool:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("kind") == KIND


def _is_page(folder: Path) -> bool:
    """Whether the page is a report's, and what is beside it is a report's damaged JSON or none."""
    try:
        ours = "<title>nbkit: " in (folder / PAGE).read_text(encoding="utf-8")[:1000]
        text = (folder / OWN).read_text(encoding="utf-8") if holds_something(folder / OWN) else ""
    except (OSError, ValueError):
        return False
    return ours and (not text or text.startswith('{\n "kind": "nbkit report"'))


def write_reports(records: Sequence[Record], folder: Path) -> Report:
    """Write a run as page, Markdown and JSON into its folder, with what else has run there.

    Args:
        records: those at hand; they count where the folder says something else.
        folder: of the run; the records in it are read.
    Raises:
        OSError: if the files cannot be written.
    """
    found, damaged = entries(records, folder)
    at_hand = {name_of(record) for record in records}
    earlier, unread = read_records(folder)
    if others := [entry for entry in earlier if entry.name not in at_hand]:
        found = sorted([*found, *others], key=lambda entry: entry.name)
    damaged += [each for each in unread if Path(each.file).stem not in at_hand]
    return _write([found], damaged, [folder], folder)


def as_json(told: Report) -> str:
    """The report for programs; a number that JSON does not have becomes null."""
    data = {"kind": KIND, "nbkit": nbkit.__version__, **asdict(told)}
    return json.dumps(replace_nonfinite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(
    runs: list[list[Entry]], damaged: list[Damaged], folders: list[Path], out: Path
) -> Report:
    shown, unread, left_out = pictures(runs)
    told = build(runs, [*damaged, *unread], folders=folders, out=out)
    write_whole(out / OWN, as_json(told))  # first: by it the other two are known for nbkit's
    write_whole(out / PAGE, html(told, shown, left_out))
    write_whole(out / MARKDOWN, markdown(told))
    return told
