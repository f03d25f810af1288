"""Clip gradients by their global norm, by value, or adaptively, unit by unit.

`MODES` and the functions of `factors` and `units` are the rule itself. They are public so that a
loop that trains many runs at once can clip each run by the same rule.
"""

from nbkit.clipping.clip import clip_gradients_
from nbkit.clipping.factors import (
    UNIT_FLOOR,
    Units,
    choose_norm_dtype,
    clamp_values,
    compute_norm_factor,
    compute_unit_factor,
    needs_wide_norms,
    scale_gradient,
)
from nbkit.clipping.history import ClipHistory
from nbkit.clipping.report import ClipReport
from nbkit.clipping.rule import MODES, ClipRule
from nbkit.clipping.units import find_units

__all__ = [
    "MODES",
    "UNIT_FLOOR",
    "ClipHistory",
    "ClipReport",
    "ClipRule",
    "Units",
    "choose_norm_dtype",
    "clamp_values",
    "clip_gradients_",
    "compute_norm_factor",
    "compute_unit_factor",
    "find_units",
    "needs_wide_norms",
    "scale_gradient",
]
