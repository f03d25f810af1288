"""Tune by successive halving: train many configurations a little, and the best of them on.

`plan_rungs` gives the cost of a search before it is paid.
"""

from nbkit.tuning.halving import successive_halving
from nbkit.tuning.report import HalvingRung, TuneReport
from nbkit.tuning.rungs import RungPlan, plan_rungs
from nbkit.tuning.space import SearchRange, find_edges, sample_configs
from nbkit.tuning.study import AskedConfigs, ask_configs

__all__ = [
    "AskedConfigs",
    "HalvingRung",
    "RungPlan",
    "SearchRange",
    "TuneReport",
    "ask_configs",
    "find_edges",
    "plan_rungs",
    "sample_configs",
    "successive_halving",
]
