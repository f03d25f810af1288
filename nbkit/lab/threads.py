"""How many threads torch computes on: one, unless the user asked for another number.

The networks of the lessons are too small to gain from a second thread, and where other work holds
the cores the threads of one operation wait for each other: a lesson was seen to take four times as
long.
"""

from __future__ import annotations

import os
import re
from functools import cache

import torch

AT_IMPORT = torch.get_num_threads()  # a different count at the opening of a lesson was asked for
COUNTS = re.compile(r"\s*(\d+)\s*(,\s*\d+\s*)*", re.ASCII)  # `4`, or `4,2` for nested teams


def read_thread_count(name: str, text: str) -> int | None:
    """Read the thread count in an environment variable; None where it is empty, which is unset.

    Args:
        name: the variable, for the message.
        text: its value: a number, or numbers with commas between them, of which the first counts.
    Raises:
        ValueError: if it is anything else.

    Clusters often set an empty one, by `OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK`.

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


@cache  # only the first lesson of a process decides; what the user sets later stays
def use_one_thread() -> None:
    """Compute on one thread from here on, unless the user asked for another number.

    They ask by `OMP_NUM_THREADS`, or by `torch.set_num_threads`, which wins before this call and
    after it.

    Raises:
        ValueError: if OMP_NUM_THREADS is no number; nothing has been changed.
    """
    given = read_thread_count("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", ""))
    if given is None and not _is_set_by_hand(torch.get_num_threads()):
        torch.set_num_threads(1)


def _is_set_by_hand(count: int) -> bool:
    """Whether torch would not have chosen this count.

    By itself it takes one thread for each core, where a core has up to four logical ones.
    """
    logical = os.cpu_count() or 1
    return count != AT_IMPORT or not logical / 4 <= count <= logical
