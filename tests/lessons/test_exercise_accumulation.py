"""The check passes the reference, fails the stub, and fails every plausible wrong version."""

import pytest
import torch

from nbkit.lab.exercise import load_exercise

EPOCH = load_exercise("accumulation", "accumulated_epoch")


def windows(batches, steps):
    return [batches[start : start + steps] for start in range(0, len(batches), steps)]


def epoch(weight, *, clear="window", step="window", skip_short=False):
    """A version of the exercise; each wrong one differs from the reference in one place."""

    def attempt(model, loss_fn, optimizer, batches, steps):
        for window in windows(batches, steps):
            if skip_short and len(window) < steps:
                continue
            total = sum(len(y) for _, y in window)
            if clear == "window":
                optimizer.zero_grad()
            for x, y in window:
                if clear == "micro":
                    optimizer.zero_grad()
                share = weight(n=len(y), total=total, count=len(window), steps=steps)
                (loss_fn(model(x), y) * share).backward()
                if step == "micro":
                    optimizer.step()
            if step == "window":
                optimizer.step()

    return attempt


def by_samples(*, n, total, **_):
    return n / total


def steps_too_early(model, loss_fn, optimizer, batches, steps):
    """Counts from zero, so the first step comes after one micro-batch."""
    for i, (x, y) in enumerate(batches):
        (loss_fn(model(x), y) / steps).backward()
        if i % steps == 0:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (epoch(lambda **_: 1.0), "at step 1, got one that is 3 times that"),
        (epoch(lambda *, count, **_: 1 / count), "4, 4, 1 samples, 3 to a step, expected the grad"),
        (epoch(lambda *, n, **_: n / 4), "got one that is 1.5 times that"),
        (epoch(lambda *, n, steps, **_: n / (2 * steps)), "got one that is"),
        (epoch(by_samples, clear="micro"), "all 6 samples at step 1, got one that is off by"),
        (epoch(by_samples, clear="never"), "all 6 samples at step 2, got one that is off by"),
        (epoch(by_samples, step="micro"), "expected 2 optimizer steps, got 6"),
        (epoch(by_samples, skip_short=True), "expected 2 optimizer steps, got 1"),
        (steps_too_early, "all 6 samples at step 1, got one that is off by"),
        (lambda *_: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in EPOCH.check(wrong)


def test_a_fixed_divisor_is_caught_at_the_short_window():
    """`loss / steps` is right until the last window has fewer micro-batches."""

    def fixed(*, n, total, count, steps):
        return (n / total) * count / steps

    said = EPOCH.check(epoch(fixed))
    assert "2, 2, 2, 2, 2 samples" in said
    assert "at step 2, got one that is 0.667 times that" in said


def test_the_reference_passes_and_the_stub_does_not():
    assert EPOCH.check(EPOCH.reference) is None
    assert EPOCH.check(EPOCH.stub) == (
        "for micro-batches of 2, 2, 2, 2, 2, 2 samples, 3 to a step, expected 2 optimizer steps, "
        "got 0."
    )


def test_the_check_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    EPOCH.check(EPOCH.reference)
    assert torch.equal(before, torch.get_rng_state())
