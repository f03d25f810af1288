"""The exercise of lr_finder: write the range test yourself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from nbkit.lab.exercise import Exercise


def stub(train_step: Callable[[], float], optimizer, lrs: list[float]) -> list[float]:
    """What the learner starts from."""
    losses: list[float] = []
    return losses


def reference(train_step: Callable[[], float], optimizer, lrs: list[float]) -> list[float]:
    """One step at each lr; stop after the first loss that is not finite."""
    losses = []
    for lr in lrs:
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(train_step())
        if not math.isfinite(losses[-1]):
            break
    return losses


class Recorder:
    """A train_step that trains nothing: it writes down the lr it was called with."""

    def __init__(self, losses: list[float], groups: int = 1) -> None:
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
        self.optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=123.0)
        self.losses = losses
        self.seen: list[list[float]] = []

    def __call__(self) -> float:
        """The next of the losses."""
        self.seen.append([group["lr"] for group in self.optimizer.param_groups])
        return self.losses[len(self.seen) - 1]


LRS = [0.01, 0.1, 1.0]


def one_loss_a_rung(attempt: Callable) -> str | None:
    """As many losses as lrs, in order, as train_step returned them."""
    step = Recorder([2.0, 1.0, 3.0])
    losses = attempt(step, step.optimizer, LRS)
    if losses != [2.0, 1.0, 3.0]:
        return f"for lrs = {LRS} expected the losses [2.0, 1.0, 3.0] of its steps, got {losses}."
    return None


def the_update_uses_the_rung(attempt: Callable) -> str | None:
    """The lr is set before the step that uses it."""
    step = Recorder([2.0, 1.0, 3.0])
    attempt(step, step.optimizer, LRS)
    used = [lrs[0] for lrs in step.seen]
    if used != LRS:
        return f"expected the steps to train at {LRS}, they trained at {used}."
    return None


def every_group_is_set(attempt: Callable) -> str | None:
    """Each parameter group at the rung's lr; an optimizer may have several."""
    step = Recorder([2.0, 1.0, 3.0], groups=2)
    attempt(step, step.optimizer, LRS)
    used = [lrs[1] for lrs in step.seen]
    if used != LRS:
        return f"expected the second parameter group at {LRS} too, it trained at {used}."
    return None


def it_stops_when_the_loss_is_lost(attempt: Callable) -> str | None:
    """No step after a loss that is NaN or infinite; that loss is the last one recorded."""
    for lost in (math.nan, math.inf):
        step = Recorder([2.0, lost, 1.0])
        losses = attempt(step, step.optimizer, LRS)
        if len(step.seen) != 2 or len(losses) != 2:
            return (
                f"after a loss of {lost} at the second of three rungs, expected to stop with 2 "
                f"losses after 2 steps, got {len(losses)} losses after {len(step.seen)} steps."
            )
    return None


EXERCISES = [
    Exercise(
        "range_test",
        stub,
        reference,
        [
            one_loss_a_rung,
            the_update_uses_the_rung,
            every_group_is_set,
            it_stops_when_the_loss_is_lost,
        ],
    )
]
