"""Set initial weights by a named scheme, scale them to the data, judge them on one batch."""

from nbkit.initialization.initializer import Initialized, initialize_
from nbkit.initialization.lsuv import LSUVLayer, LSUVReport, LSUVVerdict, lsuv_
from nbkit.initialization.report import InitLayer, InitReport, init_report
from nbkit.initialization.schemes import SCHEMES
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
