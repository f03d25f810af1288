"""Add label_smoothing: train on labels that give some probability to the wrong classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from nbkit.lab.runs.option import Loss, LossOption, Rule, StackedLoss
from nbkit.lab.runs.run_values import stack_used_option


class LabelSmoothing(LossOption):
    """Smooth as torch's cross_entropy does.

    loss = (1 - s) * cross-entropy + s * mean of -log p over all classes
    """

    defaults: ClassVar = {"label_smoothing": 0.0}
    numbers = ("label_smoothing",)

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that the smoothing is a share."""
        smoothing = rule["label_smoothing"]
        if not 0 <= smoothing <= 1:
            return f"label_smoothing must be from 0 to 1, got {smoothing}"
        return None

    def make_loss(self, rule: Rule) -> Loss | None:
        """Return torch's cross-entropy with the arm's smoothing."""
        # None leaves room for another option that replaces the loss.
        if not rule["label_smoothing"]:
            return None
        return partial(F.cross_entropy, label_smoothing=rule["label_smoothing"])

    def stack_loss(self, rules: Sequence[Rule], like: Tensor) -> StackedLoss | None:
        """Return smoothed losses if any run smooths."""
        smoothing = stack_used_option(rules, "label_smoothing", like)
        return None if smoothing is None else partial(smooth_losses, smoothing=smoothing)


def smooth_losses(logits: Tensor, y: Tensor, smoothing: Tensor) -> Tensor:
    """Return each run's mean smoothed cross-entropy, (runs); `smoothing` is (runs, 1)."""
    # Classes before samples: over a last dimension torch's softmax takes nine times as long.
    logs = F.log_softmax(logits.mT, 1)  # (runs, classes, batch)
    # hard: -log p of the right class; soft: the mean of -log p over all classes; (runs, batch) each
    hard, soft = F.nll_loss(logs, y, reduction="none"), -logs.mean(1)
    return ((1 - smoothing) * hard + smoothing * soft).mean(1)


OPTION = LabelSmoothing()
