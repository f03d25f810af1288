"""Techniques that make neural networks train faster and more reliably.

Each one is a function for the training loop that you already have: it imports torch and the
standard library, restores what it touched, and says what it did.
"""

from nbkit.lr_finder import LRCurve, lr_range_test
from nbkit.state import digest, preserve_state

__version__ = "0.1.0"

__all__ = ["LRCurve", "digest", "lr_range_test", "preserve_state"]
