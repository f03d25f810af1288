"""Techniques that make neural networks train faster and more reliably.

Each one is a function for the training loop that you already have. It imports torch and the
standard library, restores what it touched, and reports what it did.

`import nbkit` loads no technique. A public name loads its package when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

# A type checker does not run `__getattr__`: it reads the names here.
if TYPE_CHECKING:
    from nbkit.accumulation import MicroBatch, Window, accumulate, check_accumulation
    from nbkit.amp import Amp, Skipped, StepReport
    from nbkit.base.equivalence import EquivalenceCause, EquivalenceReport
    from nbkit.base.state import digest, preserve_state
    from nbkit.batchnorm import (
        BNReport,
        BNVerdict,
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
        PassPhase,
        UnderflowReport,
        find_float64,
        find_nonfinite,
        underflow_report,
    )
    from nbkit.initialization import (
        Initialized,
        InitReport,
        InitVerdict,
        LossVerdict,
        LSUVReport,
        LSUVVerdict,
        init_report,
        initialize_,
        lsuv_,
    )
    from nbkit.lr_finder import LRCurve, StopReason, lr_range_test
    from nbkit.optimizers import (
        Lamb,
        MuonAdamW,
        OptimizerReport,
        describe_optimizer,
        make_optimizer,
    )
    from nbkit.schedules import (
        Plateau,
        PlateauVerdict,
        Schedule,
        Scheduled,
        lr_schedule,
        updates,
    )
    from nbkit.transfer import LRGroups, lr_groups
    from nbkit.tuning import (
        AskedConfigs,
        HalvingRung,
        SearchRange,
        TuneReport,
        ask_configs,
        sample_configs,
        successive_halving,
    )

__version__ = "0.1.0"

__all__ = [
    "Amp",
    "AskedConfigs",
    "BNReport",
    "BNVerdict",
    "ClipHistory",
    "ClipReport",
    "EquivalenceCause",
    "EquivalenceReport",
    "Float64Use",
    "Float64Uses",
    "HalvingRung",
    "InitReport",
    "InitVerdict",
    "Initialized",
    "LRCurve",
    "LRGroups",
    "LSUVReport",
    "LSUVVerdict",
    "Lamb",
    "LaunchError",
    "LossVerdict",
    "MicroBatch",
    "MuonAdamW",
    "NonfiniteReport",
    "OptimizerReport",
    "PassPhase",
    "Plateau",
    "PlateauVerdict",
    "RankFailure",
    "Schedule",
    "Scheduled",
    "SearchRange",
    "Skipped",
    "StepReport",
    "StopReason",
    "TuneReport",
    "UnderflowReport",
    "Window",
    "accumulate",
    "all_mean",
    "ask_configs",
    "bn_gap",
    "check_accumulation",
    "check_ddp_equivalence",
    "clip_gradients_",
    "describe_optimizer",
    "digest",
    "find_float64",
    "find_nonfinite",
    "freeze_bn_",
    "guard_bn",
    "init_report",
    "initialize_",
    "is_main",
    "launch",
    "lr_groups",
    "lr_range_test",
    "lr_schedule",
    "lsuv_",
    "make_optimizer",
    "preserve_state",
    "rank",
    "reestimate_bn_",
    "rescale_bn_momentum_",
    "sample_configs",
    "shard",
    "successive_halving",
    "underflow_report",
    "updates",
    "world_size",
]

# The package that each public name comes from. test_public_names.py holds this table, the imports
# above and `__all__` equal.
_PACKAGES = {
    "nbkit.accumulation": ("MicroBatch", "Window", "accumulate", "check_accumulation"),
    "nbkit.amp": ("Amp", "Skipped", "StepReport"),
    "nbkit.base.equivalence": ("EquivalenceCause", "EquivalenceReport"),
    "nbkit.base.state": ("digest", "preserve_state"),
    "nbkit.batchnorm": (
        "BNReport",
        "BNVerdict",
        "bn_gap",
        "freeze_bn_",
        "guard_bn",
        "reestimate_bn_",
        "rescale_bn_momentum_",
    ),
    "nbkit.clipping": ("ClipHistory", "ClipReport", "clip_gradients_"),
    "nbkit.ddp": (
        "LaunchError",
        "RankFailure",
        "all_mean",
        "check_ddp_equivalence",
        "is_main",
        "launch",
        "rank",
        "shard",
        "world_size",
    ),
    "nbkit.diagnosis": (
        "Float64Use",
        "Float64Uses",
        "NonfiniteReport",
        "PassPhase",
        "UnderflowReport",
        "find_float64",
        "find_nonfinite",
        "underflow_report",
    ),
    "nbkit.initialization": (
        "InitReport",
        "InitVerdict",
        "Initialized",
        "LSUVReport",
        "LSUVVerdict",
        "LossVerdict",
        "init_report",
        "initialize_",
        "lsuv_",
    ),
    "nbkit.lr_finder": ("LRCurve", "StopReason", "lr_range_test"),
    "nbkit.optimizers": (
        "Lamb",
        "MuonAdamW",
        "OptimizerReport",
        "describe_optimizer",
        "make_optimizer",
    ),
    "nbkit.schedules": (
        "Plateau",
        "PlateauVerdict",
        "Schedule",
        "Scheduled",
        "lr_schedule",
        "updates",
    ),
    "nbkit.transfer": ("LRGroups", "lr_groups"),
    "nbkit.tuning": (
        "AskedConfigs",
        "HalvingRung",
        "SearchRange",
        "TuneReport",
        "ask_configs",
        "sample_configs",
        "successive_halving",
    ),
}


def __getattr__(name: str) -> object:
    """Load the package of a public name, or a technique's package, at the first use (PEP 562)."""
    if f"nbkit.{name}" in _PACKAGES:
        return import_module(f"nbkit.{name}")
    for package, names in _PACKAGES.items():
        if name in names:
            value: object = getattr(import_module(package), name)
            globals()[name] = value  # Python asks this function only for names that are not here.
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names too, loaded or not, for tab completion."""
    return sorted({*globals(), *__all__})
