"""Gradient accumulation: weight micro-batches so that their gradient is that of one large batch."""

from nbkit.accumulation.check import check_accumulation
from nbkit.accumulation.windows import MicroBatch, Window, accumulate

__all__ = ["MicroBatch", "Window", "accumulate", "check_accumulation"]
