"""Settings of a run that are the same for all of its lessons."""

from __future__ import annotations

from dataclasses import dataclass

from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.run.executors import LOCAL


@dataclass(frozen=True)
class RunOptions:
    """Collect how a run executes its lessons, apart from which lessons and parameters.

    Args:
        timeout: time limit of one cell, in seconds.
        jobs: number of lessons to run at once; they share the cores. With dask, the threads of
            the workers decide.
        resume: keep finished results in the output folder if the parameters, the lesson and nbkit
            are unchanged.
        to_ledger: also write the record of each successful lesson into the ledger.
        executor: `local`, `dask:ADDRESS` or `module:callable`.
        per_gpu: number of lessons that may share a GPU; 0 lets every lesson see all GPUs.
    """

    timeout: float = CELL_SECONDS
    jobs: int = 1
    resume: bool = False
    to_ledger: bool = False
    executor: str = LOCAL
    per_gpu: int = 1
