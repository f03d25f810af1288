"""The running statistics of BatchNorm: how far off they are, and how to keep them right."""

from nbkit.batchnorm.control import BNGuard, Undo, freeze_bn_, guard_bn, rescale_bn_momentum_
from nbkit.batchnorm.reestimate import BNLayer, BNReport, bn_gap, reestimate_bn_

__all__ = [
    "BNGuard",
    "BNLayer",
    "BNReport",
    "Undo",
    "bn_gap",
    "freeze_bn_",
    "guard_bn",
    "reestimate_bn_",
    "rescale_bn_momentum_",
]
