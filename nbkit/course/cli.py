"""`nbkit`: run the lessons, or work in them.

The command line is read before anything is loaded, so that `nbkit --help` answers at once and
without the lab.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import nbkit
from nbkit.course.console import say, write_text

OK, LESSON_FAILED, BAD_USAGE, FLIPPED, STOPPED = 0, 1, 2, 3, 130


class UsageError(Exception):
    """What was asked for cannot be done; the message says what can."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        the exit status: 0 done, 1 a lesson failed, or the ledger could not be read or written,
        2 bad usage, 3 a verdict is another than the ledger's, 130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    words, for_jupyter = _split(words)
    try:
        options = _parser().parse_args(words)
    finally:
        write_text(sys.stdout, "")  # of --help: a reader that has gone is no error
    try:
        if options.command == "lab":
            return lab(options.folder, for_jupyter)
        if for_jupyter:
            raise UsageError(f"nothing is expected after `--`, got {' '.join(for_jupyter)}.")
        if options.command == "copy":
            return copy(options.folder, not options.without_solutions, options.lessons)
        if options.command == "report":
            return report(options.runs, options.out)
        return doctor() if options.command == "doctor" else run(options)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "nbkit":
            raise
        problem = f"{missing.name} is not installed. Get it with: " + 'pip install "nbkit[lab]"'
    except UsageError as error:
        problem = str(error)
    except KeyboardInterrupt:
        return STOPPED
    finally:
        write_text(sys.stdout, "")  # as above, of what others have printed
    write_text(sys.stderr, f"nbkit {options.command}: {problem}\n")
    return BAD_USAGE


def run(options: argparse.Namespace) -> int:
    """Execute lessons headless."""
    from nbkit.course.lessons import LessonError, find_lessons
    from nbkit.course.run.course_run import LedgerError, run_lessons
    from nbkit.course.run.interrupts import keep_handlers
    from nbkit.course.run.options import RunOptions
    from nbkit.course.run.tasks import read_grid
    from nbkit.lab.knobs import KnobError
    from nbkit.lab.shipped import lessons_dir

    parameters = dict(options.parameter)
    if len(parameters) < len(options.parameter):
        raise UsageError("each parameter can be given once.")
    try:
        with keep_handlers(), _output_folder(options) as out:
            signal.signal(signal.SIGTERM, _like_ctrl_c)  # what Slurm and Kubernetes send
            records = run_lessons(
                find_lessons(options.lessons, lessons_dir()),
                out,
                parameters,
                options.profile,
                read_grid(options.grid),
                RunOptions(
                    timeout=options.timeout,
                    jobs=options.jobs,
                    resume=options.resume,
                    to_ledger=options.record,
                    executor=options.executor,
                    per_gpu=options.per_gpu,
                ),
            )
    except (LessonError, KnobError) as error:
        raise UsageError(error) from error
    except LedgerError:  # printed below the table
        return LESSON_FAILED
    if not all(record.ok for record in records):
        return LESSON_FAILED
    flipped = any(record.flips for record in records)
    return FLIPPED if flipped and not options.record else OK


def lab(folder: Path, for_jupyter: Sequence[str] = ()) -> int:
    """Copy the lessons to a folder, where nothing is overwritten, and open JupyterLab there."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise ModuleNotFoundError(name="jupyterlab")
    copy(folder, solutions=True)
    root = f"--ServerApp.root_dir={folder.resolve()}"
    return subprocess.call([sys.executable, "-m", "jupyterlab", root, *for_jupyter])


def copy(folder: Path, solutions: bool, lessons: Sequence[str] = ()) -> int:
    """Copy the lessons, or those that are named, to a folder to work in."""
    from nbkit.course.copy import copy_lessons, with_solutions
    from nbkit.course.lessons import LessonError
    from nbkit.lab.shipped import lessons_dir

    try:
        copied, kept = copy_lessons(lessons_dir(), folder, solutions=solutions, names=lessons)
        solved = [] if solutions else with_solutions(folder, kept)
    except LessonError as error:
        raise UsageError(error) from error
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}.") from error
    say(f"{folder}: lessons copied: {len(copied)}")
    if kept:
        say(f"{folder}: kept as they were: {', '.join(kept)}")
    if solved:
        say(f"{folder}: SOLUTIONS are still in {', '.join(solved)}: choose another folder.")
    return OK


def report(runs: Sequence[Path], out: Path | None) -> int:
    """Put runs side by side, as a page, Markdown and JSON."""
    from nbkit.course.report.write import PAGE
    from nbkit.course.report.write import report as write_report

    made = contextlib.nullcontext(out or runs[0]) if out or len(runs) == 1 else new_folder()
    try:
        with made as out:
            told = write_report(runs, out)
    except ValueError as error:
        raise UsageError(error) from error
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}.") from error
    say(f"{told.title}\n\nEverything on one page: {out / PAGE}")
    return OK


def doctor() -> int:
    """What this machine can do."""
    from nbkit.lab.doctor import examine

    say(str(examine()))
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbkit", description=nbkit.__doc__)
    parser.add_argument("--version", action="version", version=f"nbkit {nbkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "execute lessons headless: notebooks, records and a page with the verdicts"
    run = commands.add_parser("run", help=text, description=text)
    run.add_argument(
        "lessons", nargs="*", metavar="LESSON", help="1, lr_finder, a glob or a notebook; all"
    )
    run.add_argument(
        *("-p", "--parameter"), nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    run.add_argument(
        *("--grid",), action="append", default=[], metavar="NAME=V1,V2,...",
        help="run at each of these values; of several grids, at each combination",
    )  # fmt: skip
    run.add_argument(
        "--profile", choices=("smoke", "lesson", "full"), help="seconds, a minute, more"
    )
    run.add_argument(
        "--jobs",
        type=_count,
        default=1,
        metavar="N",
        help="lessons at a time, of dask as many as it has threads; %(default)s",
    )
    run.add_argument(
        *("--timeout",), type=_seconds, default=600, metavar="S",
        help="seconds for one cell; %(default)s",
    )  # fmt: skip
    run.add_argument("--out", type=Path, metavar="DIR", help="for what they leave; runs/<time>")
    run.add_argument(
        *("--resume",), action="store_true",
        help="in DIR, or the newest under runs/, run only what is not done",
    )  # fmt: skip
    run.add_argument(
        "--record", action="store_true", help="keep the verdicts: later runs are held against them"
    )
    run.add_argument(
        *("--executor",), default="local", metavar="NAME",
        help="local; dask:ADDRESS of a scheduler; module:callable, which takes the jobs",
    )  # fmt: skip
    run.add_argument(
        *("--per-gpu",), type=_count_or_none, default=1, metavar="N",
        help="lessons that may share a GPU; 0 leaves the GPUs to all; %(default)s",
    )  # fmt: skip

    text = "one page, Markdown and JSON from one or several runs, side by side"
    report = commands.add_parser("report", help=text, description=text)
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="of one run: its folder; of several: runs/<time>"
    )

    text = "what this machine can do, what is skipped on it and why, what installs the rest"
    commands.add_parser("doctor", help=text, description=text)

    text = "copy the lessons to a folder to work in; what is there already is kept"
    copy = commands.add_parser("copy", help=text, description=text)
    copy.add_argument("folder", type=Path, metavar="DIR")
    copy.add_argument(
        *("lessons",), nargs="*", metavar="LESSON",
        help="1, lr_finder, a glob or a notebook of yours, with its claims and modules; all",
    )  # fmt: skip
    copy.add_argument(
        *("--without-solutions",), action="store_true",
        help="for students: stubs, no solutions, no outputs; marked for nbgrader",
    )  # fmt: skip

    text = "copy the lessons to a folder of yours and open JupyterLab there"
    lab = commands.add_parser(
        "lab", help=text, description=text, epilog="What follows `--` goes to JupyterLab."
    )
    lab.add_argument(
        "folder", nargs="?", type=Path, default=Path("nbkit-lessons"), metavar="DIR",
        help="%(default)s; a lesson that is there already is kept",
    )  # fmt: skip
    return parser


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after `--`."""
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")


def _count(text: str, least: int = 1) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) >= least:
            return count
    raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")


def _count_or_none(text: str) -> int:
    return _count(text, least=0)


def _like_ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def _newest_folder() -> Path:
    """The folder under runs/ that was made last; one of a report alone is no run's."""
    from nbkit.course.record import Record

    folders = [
        folder for folder in Path("runs").glob("*") if any(map(Record.find, folder.glob("*.json")))
    ]
    if not folders:
        raise UsageError("there is nothing to resume under runs/: name the folder with --out.")
    return max(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _output_folder(options: argparse.Namespace) -> contextlib.AbstractContextManager[Path]:
    """The folder for a run's files: the one that was named, the newest, or a new one."""
    if options.out is not None:
        return contextlib.nullcontext(options.out)
    return contextlib.nullcontext(_newest_folder()) if options.resume else new_folder()


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """Make `runs/<time>`, with a number where another run has started in the same second.

    At the end it is removed if nothing is in it.

    Raises:
        UsageError: if it cannot be made.
    """
    runs, time = Path("runs"), datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = runs / (time if number == 1 else f"{time}_{number}")
        try:
            folder.mkdir(parents=True)  # fails if it is there: no two runs get the same one
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be made: {error.strerror}. Name a folder with --out."
            ) from error
        break
    try:
        yield folder
    finally:
        for made in (folder, runs):
            with contextlib.suppress(OSError):  # it holds something
                made.rmdir()


if __name__ == "__main__":
    sys.exit(main())
