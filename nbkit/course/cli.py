"""`nbkit`: run the lessons, or work in them.

The command line is read before anything else is loaded, so that `nbkit --help` answers at once,
also where the lab is not installed. For the same reason each command imports what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbkit.course.arguments import UsageError, build_parser
from nbkit.course.console import print_line, write_text
from nbkit.course.output_folder import choose_folder, make_folder

if TYPE_CHECKING:
    from nbkit.course.record import Record

OK, LESSON_FAILED, BAD_USAGE, FLIPPED, STOPPED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Execute one command.

    Returns:
        the exit status: 0 done; 1 a lesson failed, or the ledger could not be read or written;
        2 bad usage; 3 a verdict differs from the ledger's; 130 stopped by Ctrl-C.
    """
    words, for_jupyter = _split_words(list(sys.argv[1:] if argv is None else argv))
    try:
        options = build_parser().parse_args(words)
    finally:
        # argparse has printed the help; flushing it here reports a closed pipe without a traceback.
        write_text(sys.stdout, "")
    try:
        return _call_command(options, for_jupyter)
    except ModuleNotFoundError as missing:
        # A missing module of nbkit's own is a fault in nbkit, not a package to install.
        if (missing.name or "").partition(".")[0] == "nbkit":
            raise
        problem = f"{missing.name} is not installed. Get it with: " + 'pip install "nbkit[lab]"'
    except UsageError as error:
        problem = str(error)
    except KeyboardInterrupt:
        return STOPPED
    finally:
        # Libraries print without flushing; flush for them, for the same reason as above.
        write_text(sys.stdout, "")
    write_text(sys.stderr, f"nbkit {options.command}: {problem}\n")
    return BAD_USAGE


def _split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the words before and after `--`."""
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def _call_command(options: argparse.Namespace, for_jupyter: Sequence[str]) -> int:
    # Only the command lab passes words on, those behind `--`.
    if options.command == "lab":
        return lab_command(options.folder, for_jupyter)
    if for_jupyter:
        raise UsageError(f"nothing is expected after `--`, got {' '.join(for_jupyter)}.")
    if options.command == "copy":
        return copy_command(
            options.folder,
            solutions=not options.without_solutions,
            outputs=options.with_outputs,
            lessons=options.lessons,
        )
    if options.command == "report":
        return report_command(options.runs, options.out)
    if options.command == "doctor":
        return doctor_command()
    if options.command == "new":
        return new_command(options.word)
    return run_command(options)


def run_command(options: argparse.Namespace) -> int:
    """Run lessons headless."""
    from nbkit.course.lessons import LessonError, find_lessons
    from nbkit.course.run.course_run import LedgerError, run_lessons
    from nbkit.course.run.grid import read_grid
    from nbkit.course.run.interrupts import keep_handlers
    from nbkit.course.run.options import RunOptions
    from nbkit.lab.knobs import KnobError
    from nbkit.lab.shipped import lessons_dir

    # A dictionary keeps the last of two equal names; refuse that instead of choosing silently.
    parameters = dict(options.parameter)
    if len(parameters) < len(options.parameter):
        raise UsageError("each parameter can be given once.")
    try:
        with keep_handlers(), choose_folder(options) as out:
            # Slurm and Kubernetes stop a job with SIGTERM; report what ran, as after Ctrl-C.
            signal.signal(signal.SIGTERM, _raise_interrupt)
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
    except LedgerError:  # its message has been printed below the table
        return LESSON_FAILED
    # With --record the new verdicts are the ledger's, so that a flip is no failure.
    return _find_exit_status(records, ignore_flips=options.record)


def _find_exit_status(records: Sequence[Record], ignore_flips: bool) -> int:
    flipped = False
    for record in records:
        if not record.ok:  # a failure counts more than a flip
            return LESSON_FAILED
        flipped = flipped or bool(record.flips)
    return FLIPPED if flipped and not ignore_flips else OK


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def lab_command(folder: Path, for_jupyter: Sequence[str] = ()) -> int:
    """Copy the lessons for a learner, overwriting nothing, and open JupyterLab in that folder."""
    # Look before copying: without JupyterLab, no folder should appear.
    if importlib.util.find_spec("jupyterlab") is None:
        raise ModuleNotFoundError(name="jupyterlab")
    copy_command(folder)
    root = f"--ServerApp.root_dir={folder.resolve()}"
    return subprocess.call([sys.executable, "-m", "jupyterlab", root, *for_jupyter])


def copy_command(
    folder: Path, *, solutions: bool = True, outputs: bool = False, lessons: Sequence[str] = ()
) -> int:
    """Copy all lessons, or the named ones, to a folder to work in."""
    from nbkit.course.copy import copy_lessons, find_solved
    from nbkit.course.lessons import LessonError
    from nbkit.lab.shipped import lessons_dir

    try:
        copied, kept = copy_lessons(
            lessons_dir(), folder, solutions=solutions, outputs=outputs, names=lessons
        )
        # A kept file may hold solutions, although the teacher has asked for a copy without them.
        solved = [] if solutions else find_solved(folder, kept)
    except LessonError as error:
        raise UsageError(error) from error
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}.") from error
    companions = [name for name in copied if not name.endswith(".ipynb")]
    print_line(f"{folder}: lessons copied: {len(copied) - len(companions)}")
    if companions:
        print_line(f"{folder}: with the files that they need: {', '.join(companions)}")
    if kept:
        print_line(f"{folder}: kept as they were: {', '.join(kept)}")
    if solved:
        print_line(f"{folder}: SOLUTIONS are still in {', '.join(solved)}: choose another folder.")
    return OK


def report_command(runs: Sequence[Path], out: Path | None) -> int:
    """Report runs side by side, as a page, Markdown and JSON."""
    from nbkit.course.report.write import PAGE, write_report

    # The report of a single run belongs into its folder; that of several needs a new one.
    known = out or (runs[0] if len(runs) == 1 else None)
    chosen = contextlib.nullcontext(known) if known else make_folder()
    try:
        with chosen as folder:
            written = write_report(runs, folder)
    except ValueError as error:
        raise UsageError(error) from error
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}.") from error
    print_line(f"{written.title}\n\nEverything on one page: {folder / PAGE}")
    return OK


def doctor_command() -> int:
    """Print what this machine can do."""
    from nbkit.lab.doctor import examine

    print_line(str(examine(everything=True)))
    return OK


def new_command(word: str) -> int:
    """Write the files of a new lesson into the checkout in the current folder."""
    from nbkit.course.lessons import LessonError
    from nbkit.course.new import create_lesson

    try:
        written = create_lesson(word, Path.cwd())
    except LessonError as error:
        raise UsageError(error) from error
    except OSError as error:
        raise UsageError(f"{error.filename or Path.cwd()}: {error.strerror}.") from error
    for path in written:
        print_line(str(path.relative_to(Path.cwd())))
    print_line("Fill in what says FILL IN; then make store, make test.")
    return OK


if __name__ == "__main__":
    sys.exit(main())
