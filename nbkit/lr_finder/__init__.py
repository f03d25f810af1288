"""The learning-rate range test: which learning rate, in a hundred steps."""

from nbkit.lr_finder.curve import LRCurve, StopReason
from nbkit.lr_finder.range_test import lr_range_test

__all__ = ["LRCurve", "StopReason", "lr_range_test"]
