"""The exercise of lesson `lr_finder`: the reference passes, plausible wrong versions do not."""

import math

import pytest

from nbkit.lab.exercise import load_exercise

RANGE_TEST = load_exercise("lr_finder", "range_test")


def sets_the_lr_too_late(train_step, optimizer, lrs):
    losses = []
    for lr in lrs:
        losses.append(train_step())
        for group in optimizer.param_groups:
            group["lr"] = lr
    return losses


def sets_the_first_group_only(train_step, optimizer, lrs):
    losses = []
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        losses.append(train_step())
        if not math.isfinite(losses[-1]):
            break
    return losses


def goes_on_after_nan(train_step, optimizer, lrs):
    losses = []
    for lr in lrs:
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(train_step())
    return losses


def compares_with_nan(train_step, optimizer, lrs):
    """The stop rule of several libraries: `nan > 4 * best` is False, so it never stops."""
    losses = []
    for lr in lrs:
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(train_step())
        if losses[-1] > 4 * min(losses):
            break
    return losses


def throws_the_lost_loss_away(train_step, optimizer, lrs):
    losses = []
    for lr in lrs:
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = train_step()
        if not math.isfinite(loss):
            break
        losses.append(loss)
    return losses


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (sets_the_lr_too_late, "expected the steps to train at [0.01, 0.1, 1.0]"),
        (sets_the_first_group_only, "second parameter group"),
        (goes_on_after_nan, "after a loss of nan"),
        (compares_with_nan, "after a loss of nan"),
        (throws_the_lost_loss_away, "got 1 losses after 2 steps"),
        (lambda step, optimizer, lrs: step(), "expected the losses [2.0, 1.0, 3.0]"),
        (lambda step, optimizer, lrs: 1 / 0, "[0.01, 0.1, 1.0]) it raised ZeroDivisionError"),
        (lambda step, optimizer, lrs: 1 / 0, "expected: It returns one loss for each lr, in order"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in RANGE_TEST.check(wrong)


def test_the_reference_passes_and_the_stub_does_not():
    assert RANGE_TEST.check(RANGE_TEST.reference) is None
    assert RANGE_TEST.check(RANGE_TEST.stub) == (
        "for lrs = [0.01, 0.1, 1.0] expected the losses [2.0, 1.0, 3.0] of its steps, got []."
    )
