"""Mixed precision: autocast, loss scaling in the right order, and a count of skipped steps."""

from nbkit.amp.amp import Amp
from nbkit.amp.skips import Skipped, StepReport

__all__ = ["Amp", "Skipped", "StepReport"]
