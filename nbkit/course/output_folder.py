"""Choose the folder that the files of a run or a report are written to."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nbkit.course.arguments import UsageError

RUNS = Path("runs")  # relative: below the folder in which the command was called


def choose_folder(options: argparse.Namespace) -> contextlib.AbstractContextManager[Path]:
    """Return the folder of `--out`, with `--resume` the newest one, or else a new one.

    Raises:
        UsageError: if there is no run to resume; on entering, if no folder can be made.
    """
    if options.out is not None:
        return contextlib.nullcontext(options.out)
    if options.resume:
        return contextlib.nullcontext(find_newest_run())
    return make_folder()


def find_newest_run() -> Path:
    """Return the newest folder under runs/ that holds a record; folders of reports do not count.

    Raises:
        UsageError: if there is none.
    """
    from nbkit.course.record import Record

    folders = []
    for folder in RUNS.glob("*"):
        if any(map(Record.find, folder.glob("*.json"))):
            folders.append(folder)
    if not folders:
        raise UsageError("there is nothing to resume under runs/: name the folder with --out.")
    # The name breaks the tie between runs that started within one tick of the file system's clock.
    return max(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))


@contextlib.contextmanager
def make_folder() -> Iterator[Path]:
    """Make `runs/<time>`, with a number if another run has started in the same second.

    The folder is removed at the end if it is empty.

    Raises:
        UsageError: if it cannot be made.
    """
    folder = _make_numbered_folder(datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    try:
        yield folder
    finally:
        for made in (folder, RUNS):
            with contextlib.suppress(OSError):  # a folder that is not empty cannot be removed
                made.rmdir()


def _make_numbered_folder(name: str) -> Path:
    for number in itertools.count(1):
        folder = RUNS / (name if number == 1 else f"{name}_{number}")
        try:
            # `mkdir` fails if the folder exists, so that no two runs get the same one.
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be made: {error.strerror}. Name a folder with --out."
            ) from error
        return folder
    raise AssertionError("itertools.count never ends")
