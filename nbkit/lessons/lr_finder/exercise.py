"""The exercise of the lesson lr_finder: write the range test yourself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain


def stub_range_test(
    train_step: Callable[[], float], optimizer: torch.optim.Optimizer, lrs: list[float]
) -> list[float]:
    """Return no losses at all: the learner starts from here."""
    losses: list[float] = []
    return losses


def solve_range_test(
    train_step: Callable[[], float], optimizer: torch.optim.Optimizer, lrs: list[float]
) -> list[float]:
    """Take one step at each lr; stop after the first loss that is not finite."""
    losses: list[float] = []
    for lr in lrs:
        # Before the step, or it would train at the lr of the rung before.
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(train_step())
        if not math.isfinite(losses[-1]):
            break
    return losses


class LrRecorder:
    """Stand in for train_step: record the lr of each call and train nothing.

    Args:
        losses: what the calls return, in this order.
        groups: number of parameter groups of the optimizer.
    """

    def __init__(self, losses: list[float], groups: int = 1) -> None:
        # 123 is the lr of no rung, so a group that is never set shows up.
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=123.0)
        for _ in range(groups - 1):
            self.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
        self.losses = losses
        self.seen: list[list[float]] = []  # for each call the lr of each group

    def __call__(self) -> float:
        """Record the lr of each parameter group and return the next of the losses."""
        self.seen.append([group["lr"] for group in self.optimizer.param_groups])
        return self.losses[len(self.seen) - 1]

    def read_lrs(self, group: int) -> list[float]:
        """Read the lr of one parameter group at each call."""
        return [lrs[group] for lrs in self.seen]


LRS = [0.01, 0.1, 1.0]


def one_loss_a_rung(attempt: Attempt) -> str | None:
    """It returns one loss for each lr, in order, as train_step returned them."""
    step = LrRecorder([2.0, 1.0, 3.0])
    losses = attempt(step, step.optimizer, LRS)
    if losses != [2.0, 1.0, 3.0]:
        return f"for lrs = {LRS} expected the losses [2.0, 1.0, 3.0] of its steps, got {losses}."
    return None


def the_update_uses_the_rung(attempt: Attempt) -> str | None:
    """The lr is set before the step that uses it."""
    step = LrRecorder([2.0, 1.0, 3.0])
    attempt(step, step.optimizer, LRS)
    used = step.read_lrs(0)
    if used != LRS:
        return f"expected the steps to train at {LRS}, they trained at {used}."
    return None


def every_group_is_set(attempt: Attempt) -> str | None:
    """Each parameter group trains at the rung's lr; an optimizer may have several."""
    step = LrRecorder([2.0, 1.0, 3.0], groups=2)
    attempt(step, step.optimizer, LRS)
    # The first group is checked above; here the second must follow it.
    used = step.read_lrs(1)
    if used != LRS:
        return f"expected the second parameter group at {LRS} too, it trained at {used}."
    return None


def it_stops_when_the_loss_is_lost(attempt: Attempt) -> str | None:
    """No step follows a loss that is NaN or infinite; that loss is the last one recorded."""
    # `loss > limit` stops at infinity but not at NaN, so both are tried.
    for lost in (math.nan, math.inf):
        step = LrRecorder([2.0, lost, 1.0])
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
        stub_range_test,
        solve_range_test,
        [
            one_loss_a_rung,
            the_update_uses_the_rung,
            every_group_is_set,
            it_stops_when_the_loss_is_lost,
        ],
    )
]

ANSWERS = {
    "smoothing": Answer(
        choices="abc",
        right="c",
        why="c divides by the weights of one loss too many. Its first value is about half of the "
        "truth, so a flat curve starts by rising, and a rule that stops at 1.5 times the best "
        "loss stops at once (Lightning's finder: issue 14167).",
        hints={
            "a": "for a constant loss L its mean is L * (1 - beta**k), and it divides by that.",
            "b": "its mean starts at the first loss and never leaves it, though that loss weighs "
            "ten times as much as the others.",
        },
    )
}
