"""Hold the options of one launch, which the ranks read from the job's folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Say how one launch runs its function.

    Attributes:
        nproc: number of ranks.
        backend: "gloo" or "nccl".
        timeout: seconds for the whole call; None for no limit.
        deadline: when the timeout is over, in seconds as `time.time()` counts.
        max_restarts: how often all ranks start again after one has failed.
        method: how multiprocessing starts a rank: "spawn" or "forkserver".
        seed: seed of the launch, from which each rank's seed follows.
        sources: lines of the files that only the caller knows, such as notebook cells.
    """

    nproc: int
    backend: str
    timeout: float | None = None
    deadline: float | None = None
    max_restarts: int = 0
    method: str = "forkserver"
    seed: int = 0
    sources: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def write_options(self, job: Path) -> None:
        """Write the options into the job's folder."""
        (job / "options.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read_options(cls, job: Path) -> JobOptions:
        """Read the options that `write_options` has written."""
        return cls(**json.loads((job / "options.json").read_text()))
