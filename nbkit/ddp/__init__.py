"""Train on several processes from a notebook or a script, and on several nodes."""

from nbkit.ddp.check import check_ddp_equivalence
from nbkit.ddp.failures import LaunchError, RankFailure
from nbkit.ddp.group import all_mean, is_main, rank, shard, world_size
from nbkit.ddp.launching import launch

__all__ = [
    "LaunchError",
    "RankFailure",
    "all_mean",
    "check_ddp_equivalence",
    "is_main",
    "launch",
    "rank",
    "shard",
    "world_size",
]
