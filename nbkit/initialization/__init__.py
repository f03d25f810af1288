"""Initial weights: set by a named scheme, scaled to the data, and judged on one batch."""

from nbkit.initialization.lsuv import LSUVLayer, LSUVReport, LSUVVerdict, lsuv_
from nbkit.initialization.report import InitLayer, InitReport, init_report
from nbkit.initialization.schemes import SCHEMES, Initialized, initialize_
from nbkit.initialization.verdict import InitVerdict, LossVerdict

__all__ = [
    "SCHEMES",
    "InitLayer",
    "InitReport",
    "InitVerdict",
    "Initialized",
    "LSUVLayer",
    "LSUVReport",
    "LSUVVerdict",
    "LossVerdict",
    "init_report",
    "initialize_",
    "lsuv_",
]
