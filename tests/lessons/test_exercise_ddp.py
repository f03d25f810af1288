"""The check of ddp's exercise passes the reference and tells the wrong versions why."""

import pytest
import torch

from nbkit.lab.exercise import load_exercise

EXERCISE = load_exercise("ddp", "average_gradients")


def forgets_to_write_back(model, share, all_mean):
    for p in model.parameters():
        all_mean(p.grad * share)


def sums(model, share, all_mean):
    for p in model.parameters():
        p.grad = 2 * all_mean(torch.zeros_like(p) if p.grad is None else p.grad)


def means_of_means(model, share, all_mean):
    for p in model.parameters():
        p.grad = all_mean(torch.zeros_like(p) if p.grad is None else p.grad)


def weights_after_the_mean(model, share, all_mean):
    for p in model.parameters():
        p.grad = share * all_mean(torch.zeros_like(p) if p.grad is None else p.grad)


def skips_what_has_no_gradient(model, share, all_mean):
    """The usual one; it hangs as soon as the ranks use different parts of the model."""
    for p in model.parameters():
        if p.grad is not None:
            p.grad = all_mean(p.grad * share)


def keeps_none(model, share, all_mean):
    for p in model.parameters():
        mean = all_mean(torch.zeros_like(p) if p.grad is None else p.grad * share)
        if p.grad is not None:
            p.grad = mean


def averages_the_weights(model, share, all_mean):
    reference = EXERCISE.reference
    reference(model, share, all_mean)
    for p in model.parameters():
        p.data = all_mean(p.data)


def sends_all_at_once(model, share, all_mean):
    """Right, and quicker: one message, as DDP's buckets have it."""
    ps = list(model.parameters())
    flat = [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in ps]
    mean = all_mean(share * torch.cat(flat))
    for p, part in zip(ps, mean.split([p.numel() for p in ps]), strict=True):
        p.grad = part.view_as(p)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (forgets_to_write_back, "got [1.0, 4.0] on rank 0 and [3.0, 0.0] on rank 1"),
        (sums, "expected [2.0, 2.0] in p.grad on both, got [4.0, 4.0]"),
        (means_of_means, "the mean over the four rows is 1.5, got [2.0]"),
        (weights_after_the_mean, "the mean over the four rows is 1.5, got [3.0] on rank 0"),
        (skips_what_has_no_gradient, "rank 0 called all_mean 1 times and rank 1 2 times"),
        (keeps_none, "got [3.0, None] on rank 0 and [3.0, 3.0] on rank 1"),
        (
            averages_the_weights,
            "the gradient [1], rank 1 [6] and [3]: expected the weights untouched, got [5.5]",
        ),
        (lambda model: None, "it raised TypeError"),
        (
            lambda model, share, all_mean: all_mean(torch.zeros(2 if model[0].grad == 1 else 1)),
            "in call 1 of all_mean rank 0 sent shape (2,) and rank 1 (1,)",
        ),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in EXERCISE.check(wrong)


@pytest.mark.parametrize("right", [EXERCISE.reference, sends_all_at_once])
def test_right_versions_pass(right):
    assert EXERCISE.check(right) is None


def test_the_stub_does_not():
    assert EXERCISE.check(EXERCISE.stub) == (
        "rank 0 has the gradients [1, 4], rank 1 [3, 0], both half of the rows: expected "
        "[2.0, 2.0] in p.grad on both, got [1.0, 4.0] on rank 0 and [3.0, 0.0] on rank 1."
    )
