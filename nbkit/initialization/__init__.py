"""Initial weights: set by a named scheme, scaled to the data, and judged on one batch."""

from nbkit.initialization.lsuv import LSUVLayer, LSUVReport, lsuv_
from nbkit.initialization.report import InitLayer, InitReport, init_report
from nbkit.initialization.schemes import SCHEMES, Initialized, initialize_

__all__ = [
    "SCHEMES",
    "InitLayer",
    "InitReport",
    "Initialized",
    "LSUVLayer",
    "LSUVReport",
    "init_report",
    "initialize_",
    "lsuv_",
]
