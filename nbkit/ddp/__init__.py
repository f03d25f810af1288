"""Several processes from a notebook or a script, and the same function on several nodes."""

from nbkit.ddp.job import LaunchError, RankFailure
from nbkit.ddp.launcher import (
    all_mean,
    check_ddp_equivalence,
    is_main,
    launch,
    rank,
    shard,
    world_size,
)
from nbkit.ddp.worker import dumps

__all__ = [
    "LaunchError",
    "RankFailure",
    "all_mean",
    "check_ddp_equivalence",
    "dumps",
    "is_main",
    "launch",
    "rank",
    "shard",
    "world_size",
]
