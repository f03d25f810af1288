"""Clipping gradients: by their global norm, by value, or adaptively, unit by unit."""

from nbkit.clipping.clip import ClipHistory, clip_gradients_
from nbkit.clipping.report import ClipReport
from nbkit.clipping.rule import ClipRule

__all__ = ["ClipHistory", "ClipReport", "ClipRule", "clip_gradients_"]
