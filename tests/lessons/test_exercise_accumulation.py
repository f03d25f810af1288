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


def one_big_batch(model, loss_fn, optimizer, batches, steps):
    """The right gradient, at the price that accumulation is there to save."""
    for window in windows(batches, steps):
        x, y = (torch.cat(part) for part in zip(*window, strict=True))
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()


def one_backward(model, loss_fn, optimizer, batches, steps):
    """The right gradient, with all activations of the window in memory together."""
    for window in windows(batches, steps):
        total = sum(len(y) for _, y in window)
        optimizer.zero_grad()
        sum(loss_fn(model(x), y) * len(y) / total for x, y in window).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (epoch(lambda **_: 1.0), "at step 1, got the sum of 3 mean losses"),
        (
            epoch(lambda *, count, **_: 1 / count),
            "all 5 samples at step 1, got that of loss / 2: t",
        ),
        (epoch(lambda *, steps, **_: 1 / steps), "got that of loss / 3: this window has only 2 "),
        (epoch(lambda *, n, **_: n / 4), "got one that is 1.5 times that"),
        (one_big_batch, "expected at most 2 samples in a forward pass, got 6"),
        (one_backward, "expected backward() after each micro-batch, got 3 forward passes"),
        (epoch(lambda *, n, steps, **_: n / (2 * steps)), "got one that is"),
        (epoch(by_samples, clear="micro"), "all 6 samples at step 1, got one that is off by"),
        (epoch(lambda **_: 1.0, clear="micro"), "that of the last micro-batch alone"),
        (epoch(by_samples, clear="never"), "all 6 samples at step 2, got one that is off by"),
        (epoch(by_samples, step="micro"), "expected 2 optimizer steps, got 6"),
        (epoch(by_samples, skip_short=True), "expected 1 optimizer step, got 0"),
        (steps_too_early, "all 6 samples at step 1, got one that is off by"),
        (lambda *_: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in EPOCH.check(wrong)


def test_a_fixed_divisor_of_weighted_losses_is_caught_at_the_short_window():
    def fixed(*, n, total, count, steps):
        return (n / total) * count / steps

    assert "at step 1, got one that is 0.667 times that" in EPOCH.check(epoch(fixed))


def scaled_gradients(model, loss_fn, optimizer, batches, steps):
    """Sum over samples, and divide the gradient by their number before the step."""
    for window in windows(batches, steps):
        optimizer.zero_grad()
        for x, y in window:
            (loss_fn(model(x), y) * len(y)).backward()
        for p in model.parameters():
            p.grad /= sum(len(y) for _, y in window)
        optimizer.step()


def by_autograd(model, loss_fn, optimizer, batches, steps):
    """Add up torch.autograd.grad by hand."""
    weights = list(model.parameters())
    for window in windows(batches, steps):
        total, sums = sum(len(y) for _, y in window), [torch.zeros_like(p) for p in weights]
        for x, y in window:
            found = torch.autograd.grad(loss_fn(model(x), y), weights)
            sums = [s + g * len(y) / total for s, g in zip(sums, found, strict=True)]
        for p, g in zip(weights, sums, strict=True):
            p.grad = g
        optimizer.step()


def counting(model, loss_fn, optimizer, batches, steps):
    """Count micro-batches; step and clear at the end of each window."""
    optimizer.zero_grad(set_to_none=False)
    for i, (x, y) in enumerate(batches):
        window = batches[i - i % steps :][:steps]
        (loss_fn(model(x), y) * len(y) / sum(len(one) for _, one in window)).backward()
        if (i + 1) % steps == 0 or i + 1 == len(batches):
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("right", [scaled_gradients, by_autograd, counting])
def test_other_right_versions_pass(right):
    assert EPOCH.check(right) is None


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
