"""Print without ending the run at a closed pipe, a narrow encoding or a full disk."""

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
    """Write to a stream and flush it; a fault of the stream raises nothing.

    A character that the encoding lacks becomes an escape. If the reader has gone (`| head`),
    nothing more is written; if stdout cannot be written for another reason, stderr says so once.
    """
    if stream is None:  # the shell has closed it: `>&-`
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        _silence_stream(stream)
        # EPIPE and, on Windows, EINVAL: the reader has gone, and does not wait for an answer.
        is_fault = isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EINVAL)
        if is_fault and stream is sys.stdout:
            write_text(sys.stderr, f"nbkit: what is printed cannot be written: {error}.\n")


def _silence_stream(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that flushing it at exit is no error either."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
