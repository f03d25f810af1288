"""The learning-rate range test: find a learning rate in a hundred training steps."""

from nbkit.lr_finder.curve import LRCurve
from nbkit.lr_finder.range_test import lr_range_test
from nbkit.lr_finder.suggest import StopReason

__all__ = ["LRCurve", "StopReason", "lr_range_test"]
