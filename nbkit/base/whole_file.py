"""Write a file so that a reader finds the old file or the new one, never a part of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all, in place of the one that is there.

    Args:
        path: the file. A symbolic link is replaced; the file that it points to stays as it is.
        content: bytes, or text that is encoded as UTF-8.
        durable: wait until the content is on the disk, so that a power cut leaves no empty file.
    Raises:
        OSError: if it cannot be written; the old file is still there.
    """
    part = write_part(path, content, durable=durable)
    # A rename within one folder is atomic.
    try:
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_new(path: Path, content: str | bytes) -> bool:
    """Write a file whole or not at all, unless there is one already; say whether it was written.

    Raises:
        OSError: if it cannot be written; nothing is left of it.
    """
    part = write_part(path, content)
    try:
        os.link(part, path)  # unlike a rename, it takes no other file's place
    except FileExistsError:
        return False
    except OSError:  # no links on this disk: then with a gap in which another file could appear
        if os.path.lexists(path):
            return False
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def write_part(path: Path, content: str | bytes, *, durable: bool = True) -> Path:
    """Write the content to a new hidden file beside `path`, and return that file.

    Raises:
        OSError: if it cannot be written; nothing is left of it.
    """
    # A lone surrogate has no UTF-8. As \udc80 it stays legible, and in JSON it is the same string.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    part = path.with_name(f".{uuid.uuid4().hex}.part")  # short: the file's own name may be long
    try:
        with part.open("xb") as file:  # "x" follows no link that somebody has put there
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part
