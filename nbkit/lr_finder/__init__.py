"""The learning-rate range test: which learning rate, in a hundred steps."""

from nbkit.lr_finder.curve import LRCurve
from nbkit.lr_finder.range_test import lr_range_test

__all__ = ["LRCurve", "lr_range_test"]
