"""Print so that no run ends because of who reads: a closed pipe, a narrow encoding, a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO


def print_line(text: str = "") -> None:
    """Print a line to stdout, as `write_text` does."""
    write_text(sys.stdout, text + "\n")


def write_text(stream: TextIO | None, text: str) -> None:
    """Write to a stream and flush it; nothing that is wrong with the stream is an exception.

    A character that its encoding lacks becomes an escape. If the reader has gone (`| head`),
    nothing more is shown; if stdout cannot be written for another reason, stderr says so once.
    """
    if stream is None:  # as where the shell has closed it, `>&-`
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        _silence(stream)
        told = isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EINVAL)
        if told and stream is sys.stdout:
            write_text(sys.stderr, f"nbkit: what is printed cannot be written: {error}.\n")


def _silence(stream: TextIO) -> None:
    """Lead a stream to nowhere, so that the text it still holds is no error at the end either."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
