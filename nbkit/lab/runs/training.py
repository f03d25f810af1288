"""The one training loop: an iterator of steps, for whoever wants to watch, stop or draw it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer update: its index from 0, the loss before it, and the lr that it used.

    `loss` is detached and stays on the device: reading it, `float(step.loss)`, waits for that.
    """

    index: int
    loss: Tensor
    lr: float


def train(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    steps: int | None = None,
    schedule: Callable[[int], float] | None = None,
) -> Iterator[Step]:
    """Train, one yield after each optimizer update; whoever consumes it decides how far it goes.

    Args:
        model: called as `model(x)`; its mode (train or eval) is left as it is.
        batches: pairs (x, y); started again when they end and more steps are wanted.
        optimizer: takes the steps.
        loss_fn: called as `loss_fn(model(x), y)`, gives one number.
        steps: how many; None is one pass over the batches.
        schedule: step -> factor on each group's lr, as torch's LambdaLR has it; the lrs are put
            back when the training ends or is abandoned.
    Raises:
        ValueError: if steps is negative; or, on the way, if the batches are used up and cannot be
            started again.

    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> schedule = lambda step: 1 / (step + 1)
    >>> [step.lr for step in train(
    ...     model, batches, optimizer, nn.functional.mse_loss, steps=2, schedule=schedule)]
    [0.1, 0.05]
    """
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be at least 0, or None for one pass, got {steps}.")

    wanted = batches if steps is None else islice(_again(batches, steps), steps)
    return _train(model, wanted, optimizer, loss_fn, schedule)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and give the setting back on every way out.

    Nets this small gain nothing from a second thread, and where other work holds the cores its
    threads wait for each other: half a second of training was seen to take twenty.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    schedule: Callable[[int], float] | None,
) -> Iterator[Step]:
    groups = optimizer.param_groups
    lrs = [group["lr"] for group in groups] if schedule else []
    try:
        for index, (x, y) in enumerate(batches):
            if schedule:
                factor = schedule(index)
                for group, lr in zip(groups, lrs, strict=True):
                    group["lr"] = lr * factor
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield Step(index, loss.detach(), groups[0]["lr"])
    finally:
        for group, lr in zip(groups, lrs, strict=False):  # no lrs where there is no schedule
            group["lr"] = lr


def _again(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """The batches, over and over."""
    taken = 0
    while True:
        before = taken
        for batch in batches:
            yield batch
            taken += 1
        if taken == before:
            raise ValueError(
                f"the batches ended after {taken} of {steps} steps and cannot be started again: "
                f"give a list, a DataLoader or Data.batches(...), or ask for {taken} steps."
            )
