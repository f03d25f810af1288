"""Read the command line of `nbkit`, with nothing loaded but Python's own argparse."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import nbkit


class UsageError(Exception):
    """Raised when a command cannot do what was asked; the message says what it can do."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(prog="nbkit", description=nbkit.__doc__)
    parser.add_argument("--version", action="version", version=f"nbkit {nbkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "Run lessons without a browser and report their verdicts on one page."
    _add_run_options(commands.add_parser("run", help=text, description=text))
    text = "Show one or several runs side by side, as a page, Markdown and JSON."
    _add_report_options(commands.add_parser("report", help=text, description=text))
    text = "Say what this machine can do, what is skipped on it and why, and how to get the rest."
    commands.add_parser("doctor", help=text, description=text)
    text = "Copy the lessons to a folder to work in, without outputs. Existing files are kept."
    _add_copy_options(commands.add_parser("copy", help=text, description=text))
    text = "Copy the lessons to a folder, without outputs, and open JupyterLab there."
    epilog = "Words after `--` are passed on to JupyterLab."
    _add_lab_options(commands.add_parser("lab", help=text, description=text, epilog=epilog))
    text = "Start a new lesson of the course: write its files, ready to fill in."
    _add_new_options(commands.add_parser("new", help=text, description=text))
    return parser


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "lessons",
        nargs="*",
        metavar="LESSON",
        help="lessons to run, each a number (1), a name (lr_finder), a pattern (0*_lr*) or the "
        "path of a notebook; default all lessons of the course",
    )
    run.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter of the lessons; may be repeated for other parameters; default the "
        "values in the notebook",
    )
    run.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2,...",
        help="run each lesson once for each of these values; with several grids, once for each "
        "combination; default no grid",
    )
    run.add_argument(
        "--profile",
        choices=("smoke", "lesson", "full"),
        help="how long a lesson may take: smoke is seconds, lesson about a minute, full longer; "
        "default the profile in the notebook, lesson",
    )
    run.add_argument(
        "--timeout",
        type=_read_seconds,
        default=600,
        metavar="S",
        help="time limit for one cell, in seconds; default %(default)s",
    )
    _add_result_options(run)
    _add_machine_options(run)


def _add_result_options(run: argparse.ArgumentParser) -> None:
    """Add the options of `nbkit run` about its output."""
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder; default runs/<time>",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="run only what is not done yet in the folder of --out, or else in the newest folder "
        "under runs/; default run everything",
    )
    run.add_argument(
        "--record",
        action="store_true",
        help="write the verdicts into the ledger, with which later runs are compared; default "
        "only compare",
    )


def _add_machine_options(run: argparse.ArgumentParser) -> None:
    """Add the options of `nbkit run` about where the lessons run, and how many at once."""
    run.add_argument(
        "--jobs",
        type=_read_count,
        default=1,
        metavar="N",
        help="number of lessons to run at once (ignored with dask); default %(default)s",
    )
    run.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="where to run: local, dask:ADDRESS of a scheduler, or module:callable for an "
        "executor that you provide; default %(default)s",
    )
    run.add_argument(
        "--per-gpu",
        type=_read_count_or_zero,
        default=1,
        metavar="N",
        help="number of lessons that may share a GPU; 0 sets no limit; default %(default)s",
    )


def _add_report_options(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="output folder of a run",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the report; default the run's folder, or runs/<time> for several runs",
    )


def _add_copy_options(copy: argparse.ArgumentParser) -> None:
    copy.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="folder to copy to; created if it does not exist",
    )
    copy.add_argument(
        "lessons",
        nargs="*",
        metavar="LESSON",
        help="lessons to copy, each a number (1), a name (lr_finder), a pattern (0*_lr*) or the "
        "path of your notebook, whose claims and modules are copied too; default all lessons of "
        "the course",
    )
    version = copy.add_mutually_exclusive_group()
    version.add_argument(
        "--without-solutions",
        action="store_true",
        help="copy the students' version: exercises as stubs marked for nbgrader, no solutions "
        "either; default copy the solutions, which fold out",
    )
    version.add_argument(
        "--with-outputs",
        action="store_true",
        help="copy the lessons as they were executed; default copy them without outputs, and "
        "without their author's predictions and answers",
    )


def _add_lab_options(lab: argparse.ArgumentParser) -> None:
    lab.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("nbkit-lessons"),
        metavar="DIR",
        help="folder to work in; lessons that are already there are kept; default %(default)s",
    )


def _add_new_options(new: argparse.ArgumentParser) -> None:
    new.add_argument(
        "kind",
        choices=("lesson",),
        metavar="lesson",
        help="what to start; only lessons can be started so far",
    )
    new.add_argument(
        "word",
        metavar="WORD",
        help="name of the lesson: lower-case words joined by underscores, such as label_smoothing",
    )


def _read_seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        # NaN fails both comparisons.
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")


def _read_count(text: str, least: int = 1) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) >= least:
            return count
    raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")


def _read_count_or_zero(text: str) -> int:
    return _read_count(text, least=0)
