"""Gradient accumulation: micro-batches whose gradient is the large batch's."""

from nbkit.accumulation.windows import MicroBatch, Window, accumulate, check_accumulation

__all__ = ["MicroBatch", "Window", "accumulate", "check_accumulation"]
