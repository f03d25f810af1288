"""Let torch compute on one thread, unless the user asked for another number.

The networks of the lessons are too small to gain from a second thread, and where other work holds
the cores the threads of one operation wait for each other: one lesson then took four times as long.
"""

from __future__ import annotations

import os
import re
from functools import cache

import torch

# If the count differs when a lesson is opened, the user has set it in between.
COUNT_AT_IMPORT = torch.get_num_threads()
# `4`, or `4,2` for nested teams of threads.
COUNTS = re.compile(r"\s*(\d+)\s*(,\s*\d+\s*)*", re.ASCII)


def read_thread_count(name: str, text: str) -> int | None:
    """Read the thread count from an environment variable; None if it is empty, which means unset.

    Args:
        name: the variable, for the message.
        text: its value: a number, or several with commas between them; the first one counts.
    Raises:
        ValueError: if it is anything else.

    Clusters often set an empty value, by `OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK`.

    >>> read_thread_count("OMP_NUM_THREADS", "4,2"), read_thread_count("OMP_NUM_THREADS", "")
    (4, None)
    """
    if not text.strip():
        return None
    counts = COUNTS.fullmatch(text)
    if counts is None or int(counts[1]) == 0:
        raise ValueError(
            f"{name} must be a whole number of threads from 1 on, got {text!r}. "
            f"Set another value or unset it: without it nbkit computes on one thread."
        )
    return int(counts[1])


@cache  # only the first lesson of a process decides, so that a later choice of the user stays
def use_one_thread() -> None:
    """Compute on one thread from here on, unless the user asked for another number.

    The user asks by `OMP_NUM_THREADS`, or by `torch.set_num_threads`, which has precedence whether
    it is called before this function or after it.

    Raises:
        ValueError: if OMP_NUM_THREADS is not a number; nothing has been changed.
    """
    # torch has applied a valid OMP_NUM_THREADS itself, when it was imported.
    given = read_thread_count("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", ""))
    if given is None and not _is_set_by_hand(torch.get_num_threads()):
        torch.set_num_threads(1)


def _is_set_by_hand(count: int) -> bool:
    """Return whether torch would not have chosen this count.

    torch takes one thread for each core; one core counts as up to four logical processors.
    """
    logical = os.cpu_count() or 1
    return count != COUNT_AT_IMPORT or not logical / 4 <= count <= logical
