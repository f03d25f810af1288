"""The exercise of accumulation: several micro-batches, one step, the large batch's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from nbkit.lab.exercise import Exercise

Batch = tuple[Tensor, Tensor]
LossFn = Callable[[Tensor, Tensor], Tensor]


def stub_accumulated_epoch(
    model: nn.Module, loss_fn: LossFn, optimizer: Optimizer, batches: list[Batch], steps: int
) -> None:
    """Do nothing: this is what the learner starts from."""


def solve_accumulated_epoch(
    model: nn.Module, loss_fn: LossFn, optimizer: Optimizer, batches: list[Batch], steps: int
) -> None:
    """Take one optimizer step for each `steps` batches, as if they had been one."""
    for start in range(0, len(batches), steps):
        window = batches[start : start + steps]
        # Counted before the first backward: the weights need the whole window.
        total = sum(len(y) for _, y in window)
        optimizer.zero_grad()
        for x, y in window:
            loss = loss_fn(model(x), y) * len(y) / total
            loss.backward()
        optimizer.step()


class RecordingSGD(torch.optim.SGD):
    """Record the gradient of each step, and leave the weights alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.0)
        self.model = model
        self.taken: list[Tensor] = []

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Keep the gradient."""
        self.taken.append(_flatten_gradient(self.model))


def _flatten_gradient(model: nn.Module) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([g.flatten() for g in grads]).clone()


def _check_epoch(attempt: Callable[..., Any], sizes: Sequence[int], steps: int) -> str | None:
    """Run the attempt on micro-batches of these sizes; compare each step with its large batch."""
    generator = torch.Generator().manual_seed(0)
    model = nn.utils.skip_init(nn.Linear, 4, 3)  # the random state is the learner's
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x = torch.randn(sum(sizes), 4, generator=generator)
    y = torch.randint(3, (len(x),), generator=generator)
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    optimizer = RecordingSGD(model)
    attempt(model, cross_entropy, optimizer, batches, steps)

    given = f"for micro-batches of {', '.join(map(str, sizes))} samples, {steps} to a step,"
    windows = [batches[start : start + steps] for start in range(0, len(batches), steps)]
    if len(optimizer.taken) != len(windows):
        expected = f"{len(windows)} optimizer step{'s' * (len(windows) > 1)}"
        return f"{given} expected {expected}, got {len(optimizer.taken)}."
    for number, (window, taken) in enumerate(zip(windows, optimizer.taken, strict=True), start=1):
        model.zero_grad()
        whole = [torch.cat(part) for part in zip(*window, strict=True)]
        cross_entropy(model(whole[0]), whole[1]).backward()
        if off := _describe_difference(taken, _flatten_gradient(model)):
            at = f"the gradient of all {len(whole[0])} samples at step {number}"
            return f"{given} expected {at}, got one that is {off}."
    return None


def _describe_difference(taken: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a gradient, in words; None if it is right but for rounding."""
    if torch.allclose(taken, expected, rtol=1e-4, atol=1e-6):
        return None
    factor = float(taken @ expected / expected.square().sum())
    if torch.allclose(taken, factor * expected, rtol=1e-4, atol=1e-6):
        return f"{factor:.3g} times that"
    error = float((taken - expected).abs().max() / expected.abs().max())
    return f"off by {error:.0%}"


def one_step_for_each_window(attempt: Callable[..., Any]) -> str | None:
    """Equal micro-batches: as many steps as windows, each with its window's gradient."""
    return _check_epoch(attempt, [2, 2, 2, 2, 2, 2], steps=3)


def samples_count_alike_in_ragged_windows(attempt: Callable[..., Any]) -> str | None:
    """A sample of a small micro-batch weighs what every other sample does."""
    return _check_epoch(attempt, [4, 4, 1], steps=3)


def a_short_window_at_the_end_is_whole(attempt: Callable[..., Any]) -> str | None:
    """The last window has fewer micro-batches, and is a batch all the same."""
    return _check_epoch(attempt, [2, 2, 2, 2, 2], steps=3)


def a_window_may_be_one_micro_batch(attempt: Callable[..., Any]) -> str | None:
    """With one micro-batch to a step it is the plain loop."""
    return _check_epoch(attempt, [3, 2], steps=1)


EXERCISES = [
    Exercise(
        "accumulated_epoch",
        stub_accumulated_epoch,
        solve_accumulated_epoch,
        [
            one_step_for_each_window,
            samples_count_alike_in_ragged_windows,
            a_short_window_at_the_end_is_whole,
            a_window_may_be_one_micro_batch,
        ],
    )
]
