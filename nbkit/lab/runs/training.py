"""Train in one loop, an iterator of steps that its consumer can watch, stop or draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.optimizers import check_plain_step


@dataclass(frozen=True, slots=True)
class Step:
    """Describe one optimizer update: its index from 0, the loss before it, the lr that it used.

    `loss` is detached and stays on the device; `float(step.loss)` synchronises.
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
    """Train, with a yield after each optimizer update; the consumer decides when to stop.

    Args:
        model: called as `model(x)`; its mode (train or eval) is left as it is.
        batches: pairs (x, y); iterated again when they end before `steps` is reached.
        optimizer: takes the steps.
        loss_fn: called as `loss_fn(model(x), y)`, returns one number.
        steps: number of optimizer updates; None is one pass over the batches.
        schedule: step -> factor on each group's lr, as in torch's LambdaLR; the lrs are restored
            when the training ends or is abandoned.
    Raises:
        TypeError: if `optimizer.step` needs a closure.
        ValueError: if steps is negative; or, during the training, if the batches end early and
            cannot be iterated again.

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
    check_plain_step(optimizer, "train")

    wanted = batches if steps is None else islice(_repeat_batches(batches, steps), steps)
    return _take_steps(model, wanted, optimizer, loss_fn, schedule)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and restore the setting on every way out.

    Networks this small gain nothing from a second thread. If other work holds the cores, the
    threads wait for each other: half a second of training has taken twenty.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _take_steps(
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
                # From the lrs before the training, so that factors do not multiply up.
                factor = schedule(index)
                for group, lr in zip(groups, lrs, strict=True):
                    group["lr"] = lr * factor
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield Step(index, loss.detach(), groups[0]["lr"])
    finally:
        # Without a schedule there are no lrs, and none has changed.
        for group, lr in zip(groups, lrs, strict=False):
            group["lr"] = lr


def _repeat_batches(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """Yield the batches again and again; refuse an iterator, which gives them only once."""
    taken = 0
    while True:
        # A pass that yields nothing means an iterator that is used up, or no batches at all.
        before = taken
        for batch in batches:
            yield batch
            taken += 1
        if taken == before:
            raise ValueError(
                f"the batches ended after {taken} of {steps} steps and cannot be started again: "
                f"give a list, a DataLoader or Data.batches(...), or ask for {taken} steps."
            )
