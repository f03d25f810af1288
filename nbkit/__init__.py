"""Techniques that make neural networks train faster and more reliably.

Each one is a function for the training loop that you already have: it imports torch and the
standard library, restores what it touched, and says what it did.
"""

from nbkit.accumulation import MicroBatch, Window, accumulate, check_accumulation
from nbkit.amp import Amp, Skipped, StepReport
from nbkit.base.equivalence import EquivalenceReport
from nbkit.base.state import digest, preserve_state
from nbkit.batchnorm import (
    BNReport,
    bn_gap,
    freeze_bn_,
    guard_bn,
    reestimate_bn_,
    rescale_bn_momentum_,
)
from nbkit.clipping import ClipHistory, ClipReport, clip_gradients_
from nbkit.ddp import (
    LaunchError,
    RankFailure,
    all_mean,
    check_ddp_equivalence,
    is_main,
    launch,
    rank,
    shard,
    world_size,
)
from nbkit.diagnosis import (
    Float64Use,
    Float64Uses,
    NonfiniteReport,
    UnderflowReport,
    find_float64,
    find_nonfinite,
    underflow_report,
)
from nbkit.initialization import (
    Initialized,
    InitReport,
    LSUVReport,
    init_report,
    initialize_,
    lsuv_,
)
from nbkit.lr_finder import LRCurve, lr_range_test

__version__ = "0.1.0"

__all__ = [
    "Amp",
    "BNReport",
    "ClipHistory",
    "ClipReport",
    "EquivalenceReport",
    "Float64Use",
    "Float64Uses",
    "InitReport",
    "Initialized",
    "LRCurve",
    "LSUVReport",
    "LaunchError",
    "MicroBatch",
    "NonfiniteReport",
    "RankFailure",
    "Skipped",
    "StepReport",
    "UnderflowReport",
    "Window",
    "accumulate",
    "all_mean",
    "bn_gap",
    "check_accumulation",
    "check_ddp_equivalence",
    "clip_gradients_",
    "digest",
    "find_float64",
    "find_nonfinite",
    "freeze_bn_",
    "guard_bn",
    "init_report",
    "initialize_",
    "is_main",
    "launch",
    "lr_range_test",
    "lsuv_",
    "preserve_state",
    "rank",
    "reestimate_bn_",
    "rescale_bn_momentum_",
    "shard",
    "underflow_report",
    "world_size",
]
