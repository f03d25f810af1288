"""Find what is wrong with the numbers: float64 by accident, NaN and infinity, underflow."""

from nbkit.base.watched_pass import PassPhase
from nbkit.diagnosis.float64 import Float64Use, Float64Uses, find_float64
from nbkit.diagnosis.nonfinite import NonfiniteReport, find_nonfinite
from nbkit.diagnosis.underflow import LayerUnderflow, UnderflowReport, underflow_report

__all__ = [
    "Float64Use",
    "Float64Uses",
    "LayerUnderflow",
    "NonfiniteReport",
    "PassPhase",
    "UnderflowReport",
    "find_float64",
    "find_nonfinite",
    "underflow_report",
]
