"""A run's folder belongs to one run at a time, and a file in it stands while the run goes on."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from nbkit.course.lessons import LessonError

FILE = ".run"


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[tuple[Path, str]]:
    """Make the folder if need be, and put a file there that stands while the run goes on.

    Gives the file and what is written in it. Whoever runs a part of the run, on this machine or on
    another one, stops when the file is gone or says something else.

    Raises:
        LessonError: if another run is at work in the folder, or nothing can be written there.
    """
    file, text = folder / FILE, uuid.uuid4().hex
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+")
    except OSError as error:
        raise LessonError(f"{folder} cannot be written: {error.strerror}.") from error
    with handle:
        if not _lock(handle.fileno()):
            raise LessonError(f"another run is at work in {folder}: wait, or choose another --out.")
        try:
            _write(handle, text, folder)
            yield file, text
        finally:
            file.unlink(missing_ok=True)


def _write(handle: TextIO, text: str, folder: Path) -> None:
    """Put the text into the open file in place of what an earlier run has left there."""
    try:
        handle.truncate(0)
        os.write(handle.fileno(), text.encode())  # unbuffered: closing has nothing left to write
    except OSError as error:
        raise LessonError(f"{folder} cannot be written: {error.strerror}.") from error


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed or this process ends, however it does."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # no such locks here: then nobody is kept out
        return True
    return os.fstat(descriptor).st_nlink > 0  # 0: its run has just ended and removed it
