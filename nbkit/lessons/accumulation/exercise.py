"""The exercise of accumulation: several micro-batches, one step, the large batch's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from nbkit.lab.answers import Answer
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


class WatchedLinear(nn.Linear):
    """Note how many samples are in memory at once: the most in a forward pass, or in several."""

    def __init__(self) -> None:
        # Weights are filled in by the check: the random state is the learner's.
        with torch.device("meta"):
            super().__init__(4, 3)
        self.to_empty(device="cpu")
        self.largest = 0  # samples in one forward pass
        self.waiting = 0  # forward passes whose backward pass has not come
        self.most_waiting = 0

    def forward(self, x: Tensor) -> Tensor:
        """Compute as Linear does, and note the samples."""
        out = super().forward(x)
        self.largest = max(self.largest, len(x))
        if out.requires_grad:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            # Called when the gradient of this output is there: its activations can go.
            out.register_hook(self._end_wait)
        return out

    def _end_wait(self, _: Tensor) -> None:
        self.waiting -= 1


def _check_epoch(attempt: Callable[..., Any], sizes: Sequence[int], steps: int) -> str | None:
    """Run the attempt on micro-batches of these sizes; compare each step with its large batch."""
    generator = torch.Generator().manual_seed(0)
    model = WatchedLinear()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x = torch.randn(sum(sizes), 4, generator=generator)
    y = torch.randint(3, (len(x),), generator=generator)
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    optimizer = RecordingSGD(model)
    attempt(model, cross_entropy, optimizer, batches, steps)

    given = f"for micro-batches of {', '.join(map(str, sizes))} samples, {steps} to a step,"
    problem = _find_memory_problem(model, max(sizes))
    windows = [batches[start : start + steps] for start in range(0, len(batches), steps)]
    if problem is None and len(optimizer.taken) != len(windows):
        expected = f"{len(windows)} optimizer step{'s' * (len(windows) > 1)}"
        problem = f"expected {expected}, got {len(optimizer.taken)}."
    if problem is not None:
        return f"{given} {problem}"
    for number, (window, taken) in enumerate(zip(windows, optimizer.taken, strict=True), start=1):
        expected_gradient = _compute_weighted(model, window, [len(y) for _, y in window])
        if off := _describe_difference(taken, expected_gradient, model, window, steps):
            at = f"the gradient of all {sum(len(y) for _, y in window)} samples at step {number}"
            return f"{given} expected {at}, got {off}."
    return None


def _find_memory_problem(model: WatchedLinear, micro_batch: int) -> str | None:
    """Find what holds more samples in memory than one micro-batch has."""
    if model.largest > micro_batch:
        return (
            f"expected at most {micro_batch} samples in a forward pass, got {model.largest}: that "
            f"is the large batch, which does not fit into memory."
        )
    if model.most_waiting > 1:
        return (
            f"expected backward() after each micro-batch, got {model.most_waiting} forward passes "
            f"before the first one: until then all of their activations are in memory."
        )
    return None


def _compute_weighted(model: nn.Module, window: list[Batch], weights: Sequence[float]) -> Tensor:
    """Compute the weighted mean of the gradients of the micro-batches' mean losses."""
    model.zero_grad()
    for (x, y), weight in zip(window, weights, strict=True):
        (cross_entropy(model(x), y) * weight / sum(weights)).backward()
    return _flatten_gradient(model)


def _describe_difference(
    taken: Tensor, expected: Tensor, model: nn.Module, window: list[Batch], steps: int
) -> str | None:
    """Describe what is wrong with a gradient, by its cause if known; None if it is right."""
    if _is_close(taken, expected):
        return None
    alike = _compute_weighted(model, window, [1.0] * len(window))
    last = _compute_weighted(model, window[-1:], [1.0])
    causes = {
        f"that of loss / {len(window)}: the mean of the micro-batches' means, in which a sample of "
        f"a small micro-batch counts more": alike,
        f"that of loss / {steps}: this window has only {len(window)} micro-batches": alike
        * (len(window) / steps),
        f"the sum of {len(window)} mean losses: give each a weight": alike * len(window),
        "that of the last micro-batch alone: is zero_grad() inside the loop over the window?": last,
    }
    for cause, gradient in causes.items():
        if _is_close(taken, gradient):
            return cause
    factor = float(taken @ expected / expected.square().sum())
    if _is_close(taken, factor * expected):
        return f"one that is {factor:.3g} times that"
    return f"one that is off by {float((taken - expected).abs().max() / expected.abs().max()):.0%}"


def _is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def one_step_for_each_window(attempt: Callable[..., Any]) -> str | None:
    """Equal micro-batches: as many steps as windows, each with its window's gradient."""
    return _check_epoch(attempt, [2, 2, 2, 2, 2, 2], steps=3)


def samples_count_alike_in_ragged_windows(attempt: Callable[..., Any]) -> str | None:
    """A sample of a small micro-batch weighs what every other sample does."""
    # Two micro-batches where three make a step: loss / 2 and loss / 3 are different mistakes.
    return _check_epoch(attempt, [4, 1], steps=3)


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

ANSWERS = {
    "last_window": Answer(
        choices="abc",
        right="a",
        why="it takes the length of the short window for its modulus and goes on counting from the "
        "start of the epoch. With n = 7, k = 4 it steps after 5 as well, since 6 % 3 == 0.",
        hints={
            "b": "look again at its two conditions: a multiple of k, or the very last.",
            "c": "look again at where each window starts and ends: 0 to 3, then 4 to 6.",
        },
    )
}
