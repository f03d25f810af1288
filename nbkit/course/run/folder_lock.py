"""Reserve a run's output folder with a file that exists as long as the run goes on."""

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
# A run writes 32 hexadecimal digits. After a power cut the file may be empty or hold zeros.
TOKEN = re.compile(rb"[0-9a-f]{32}|[\0\s]*")


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """Create the folder if necessary, and hold a locked token file in it until the block ends.

    Gives the file and the token in it. The tasks of the run, here or on other machines, stop when
    the file has gone or holds another token.

    Raises:
        LessonError: if another run uses the folder, if nothing can be written there, or if the
            file was not written by a run.
    """
    file, token = folder / FILE, uuid.uuid4().hex
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = held.enter_context(lock_file(file))
        except OSError as error:
            raise LessonError(_explain_failure(folder, file, error)) from error
        if descriptor is None:
            raise LessonError(f"another run is at work in {folder}: wait, or choose another --out.")
        # The file is removed at the end, so it must not hold a user's work.
        if not TOKEN.fullmatch(os.read(descriptor, 64)):
            raise LessonError(
                f"{file} was not written by a run and would be lost: choose another folder."
            )
        # Registered before the token is written, so that a full disk leaves no file behind.
        held.callback(file.unlink, missing_ok=True)
        _write_token(descriptor, token, folder)
        yield file, token


def _explain_failure(folder: Path, file: Path, error: OSError) -> str:
    """Say why the file cannot be opened; name a link, because its owner has to remove it."""
    exists = os.path.lexists(file) and not file.is_dir()
    # lock_file raises number 0 for a hard link, a pipe or a device.
    if exists and (file.is_symlink() or error.errno == 0):
        return (
            f"{file} should be a plain file, but it is a link or a device, and a run would write "
            f"to another place. Remove it, or choose another --out."
        )
    return f"{folder} cannot be written: {error.strerror}."


def _write_token(descriptor: int, token: str, folder: Path) -> None:
    """Replace the content of the open file by the token."""
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, token.encode())
    except OSError as error:
        raise LessonError(f"{folder} cannot be written: {error.strerror}.") from error
