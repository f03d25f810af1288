"""A run's folder belongs to one run at a time, and a file in it stands while the run goes on."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from nbkit.course.lessons import LessonError
from nbkit.course.run.locks import lock_file

FILE = ".run"
TEXT = re.compile(rb"[0-9a-f]{32}|[\0\s]*")  # what a run writes; a power cut may leave zeros


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """Make the folder if need be, and put a file there that stands while the run goes on.

    Gives the file and what is written in it. Whoever runs a part of the run, on this machine or on
    another one, stops when the file is gone or says something else.

    Raises:
        LessonError: if another run is at work in the folder, nothing can be written there, or the
            file is not one that a run has written.
    """
    file, text = folder / FILE, uuid.uuid4().hex
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = held.enter_context(lock_file(file))
        except OSError as error:
            raise LessonError(_explain(folder, file, error)) from error
        if descriptor is None:
            raise LessonError(f"another run is at work in {folder}: wait, or choose another --out.")
        if not TEXT.fullmatch(os.read(descriptor, 64)):
            raise LessonError(f"{file} is not a run's and would be lost: choose another folder.")
        held.callback(file.unlink, missing_ok=True)
        _write_text(descriptor, text, folder)
        yield file, text


def _explain(folder: Path, file: Path, error: OSError) -> str:
    """Say why the file cannot be opened; a link is named, as its owner has to take it away."""
    if os.path.lexists(file) and not file.is_dir() and (file.is_symlink() or error.errno == 0):
        return (
            f"{file} should be a plain file of a run's, but it is a link or a device: what a run "
            f"writes would go elsewhere. Remove it, or choose another --out."
        )
    return f"{folder} cannot be written: {error.strerror}."


def _write_text(descriptor: int, text: str, folder: Path) -> None:
    """Put the text into the open file in place of what an earlier run has left there."""
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())
    except OSError as error:
        raise LessonError(f"{folder} cannot be written: {error.strerror}.") from error
