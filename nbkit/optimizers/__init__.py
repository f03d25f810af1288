"""Build an optimizer with the right parameters in the right place, and see who got what."""

from nbkit.optimizers.lamb import Lamb, divide_norms
from nbkit.optimizers.make import make_optimizer
from nbkit.optimizers.muon import MuonAdamW, orthogonalize_matrix
from nbkit.optimizers.report import OptimizerReport, describe_optimizer

__all__ = [
    "Lamb",
    "MuonAdamW",
    "OptimizerReport",
    "describe_optimizer",
    "divide_norms",
    "make_optimizer",
    "orthogonalize_matrix",
]
