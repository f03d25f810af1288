"""The running statistics of BatchNorm: measure how far off they are, and keep them right."""

from nbkit.batchnorm.freeze import freeze_bn_
from nbkit.batchnorm.gap import bn_gap
from nbkit.batchnorm.guard import BNGuard, guard_bn
from nbkit.batchnorm.momentum import rescale_bn_momentum_
from nbkit.batchnorm.reestimate import reestimate_bn_
from nbkit.batchnorm.report import BNLayer, BNReport, BNVerdict
from nbkit.batchnorm.undo import Undo

__all__ = [
    "BNGuard",
    "BNLayer",
    "BNReport",
    "BNVerdict",
    "Undo",
    "bn_gap",
    "freeze_bn_",
    "guard_bn",
    "reestimate_bn_",
    "rescale_bn_momentum_",
]
