"""Gradient accumulation whose gradient is that of the full batch.

for window in accumulate(batches, 4, model=model):
    for micro in window:
        with micro.sync():
            x, y = micro.batch
            loss = loss_fn(model(x), y) * micro.weight
            loss.backward()
    optimizer.step()
    optimizer.zero_grad()

The weights of a window make its gradient exact:

    gradient of the window = sum_i weight_i * gradient of micro-batch i's mean loss
    weight_i = terms_i / sum_j terms_j

This is the gradient of the mean over all loss terms of the window, as if the window were one batch.
It holds for micro-batches of any sizes. The sum of the weighted losses is the window's loss.

>>> batches = [torch.zeros(8, 3), torch.zeros(8, 3), torch.zeros(2, 3)]
>>> for window in accumulate(batches, 2):
...     print([(micro.weight, micro.is_last) for micro in window])
[(0.5, False), (0.5, True)]
[(1.0, True)]

In a process group the sum runs over all ranks (one small all-reduce per window), and the weights
are multiplied by the number of ranks. DDP averages over the ranks, so the averaged gradient is that
of the mean over the terms of all ranks. The weights of a window then sum to 1 when averaged over
the ranks.

If an exception leaves a window early, DDP's synchronisation is switched on again, but the gradients
of the first micro-batches stay in the model. Call `optimizer.zero_grad()` before you go on.

DDP with `static_graph=True` also synchronises the first micro-batch of all, because torch 2.13
crashes if its first backward does not synchronise. BatchNorm still normalises each micro-batch by
itself, K times per step; `check_accumulation` measures how much that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn

from nbkit.accumulation.terms import count_terms, scale_terms
from nbkit.base.batches import count_rows
from nbkit.base.numbers import read_integer

SyncContext = AbstractContextManager[Any]


@dataclass(slots=True)
class MicroBatch:
    """Hold one micro-batch of a window: the data of one forward and backward.

    Attributes:
        batch: the batch as the loader gave it.
        weight: its share of the window's loss terms; multiply the micro-batch's mean loss by it.
        is_last: whether it is the window's last micro-batch, after which the optimizer steps.
    """

    batch: Any
    weight: float
    is_last: bool
    _context: Callable[[], SyncContext] = field(repr=False)

    def sync(self) -> SyncContext:
        """Return the context for forward and backward; in it, only the last micro-batch syncs DDP.

        Put it around the forward too: DDP decides in the forward whether the backward averages
        over the ranks.
        """
        return self._context()


class Window:
    """Hold the micro-batches of one optimizer step; iterate over them once."""

    def __init__(self, micros: list[MicroBatch], progress: _Progress) -> None:
        self._micros = micros
        self._progress = progress
        # The last micro-batch synchronises, unlike the others, and an error in it is noted.
        has_no_terms = not micros[-1].weight
        micros[-1]._context = partial(progress.watch_last_micro, has_no_terms)

    def __len__(self) -> int:
        return len(self._micros)

    def __iter__(self) -> Iterator[MicroBatch]:
        # Check here and not in accumulate: the loop's body may begin with optimizer.zero_grad().
        self._progress.refuse_leftover_gradients()
        for micro in self._micros:
            # Set before the yield: after the last micro-batch the body may end with a break.
            self._progress.is_complete = micro.is_last
            with self._progress.zero_gradients_if(not micro.weight):
                yield micro


class _Progress:
    """Remember whether the latest window has reached the end of its last micro-batch."""

    def __init__(self, model: nn.Module | None) -> None:
        self.model = model
        self.is_complete = True

    @contextmanager
    def watch_last_micro(self, has_no_terms: bool) -> Iterator[None]:
        """Let the last micro-batch synchronise; if it raises, the window counts as left early."""
        try:
            with self.zero_gradients_if(has_no_terms):
                yield
        except BaseException:
            # Any exception, KeyboardInterrupt too, leaves the window early.
            self.is_complete = False
            raise

    @contextmanager
    def zero_gradients_if(self, has_no_terms: bool) -> Iterator[None]:
        """Replace the gradients of a micro-batch without loss terms by zeros.

        Its mean loss is 0 / 0, which is NaN, and NaN times the weight 0 is NaN. DDP averages what
        the hooks return, so the other ranks receive the zeros.
        """
        hooks = []
        if has_no_terms and self.model is not None:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    hooks.append(parameter.register_hook(torch.zeros_like))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def refuse_leftover_gradients(self) -> None:
        """Raise if gradients of an unfinished window would leak into the next window's gradient."""
        if self.model is None or self.is_complete:
            return
        for parameter in self.model.parameters():
            # Zeros do no harm: zero_grad(set_to_none=False) leaves them.
            if parameter.grad is not None and parameter.grad.any():
                raise RuntimeError(
                    "expected a model without gradients at the start of a window, but the window "
                    "before this one was left early and its gradients are still in the model: "
                    "call optimizer.zero_grad() before going on, or finish the window."
                )


def accumulate(
    batches: Iterable[Any],
    steps: int,
    *,
    weight: Callable[[Any], Any] | None = None,
    model: nn.Module | None = None,
    last: Literal["flush", "drop"] = "flush",
) -> Iterator[Window]:
    """Group batches into windows of `steps` micro-batches whose weights make the gradient exact.

    Args:
        batches: any iterable; its length need not be known. One window is read at a time, because
            a weight needs the window's total before the first backward, and nothing beyond it.
        steps: number of micro-batches in a window, at least 1.
        weight: function that returns how many terms the loss of a batch averages over, for example
            the labels that are not ignored: `lambda batch: (batch[1] != -100).sum()`. None counts
            rows.
        model: the DDP model, which `sync()` needs; a plain module is accepted too.
        last: with fewer than `steps` batches at the end, "flush" gives a smaller window and "drop"
            discards them.
    Returns:
        An iterator of windows; each window is an iterable of `MicroBatch`.
    Raises:
        ValueError, TypeError: at once, for wrong arguments.
        ValueError: during iteration, if a weight is negative or not finite.
        RuntimeError: during iteration, on every rank, if some ranks have a window and others have
            no batch left. With a model, also if a window was left early, the next one begins and
            the gradients are still in the model.

    A micro-batch of weight zero has no loss (the mean over no terms is NaN), so it is left out, and
    a window in which all weights are zero is skipped. If other ranks have terms in that window, the
    rank still gets one micro-batch, of weight 0.0, because DDP needs its backward.
    """
    count = read_integer(steps)
    if count is None or count < 1:
        raise ValueError(f"steps must be a whole number of micro-batches, at least 1, got {steps}.")
    if last not in ("flush", "drop"):
        raise ValueError(
            f'last must be "flush" (a smaller window at the end) or "drop", got {last!r}.'
        )
    _check_weight_and_model(weight, model)

    # A generator runs nothing before its first item is asked for, so the checks stand here.
    return _yield_windows(iter(batches), steps, weight or count_rows, model, last)


def _check_weight_and_model(weight: object, model: object) -> None:
    """Refuse a weight that cannot be called, and a model that is not a module."""
    if weight is not None and not callable(weight):
        raise TypeError(
            f"weight must be a function that counts the loss terms of a batch, such as "
            f"lambda batch: (batch[1] != -100).sum(), got {weight!r}."
        )
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got a {type(model).__name__}.")


def _yield_windows(
    source: Iterator[Any],
    steps: int,
    weight: Callable[[Any], Any],
    model: nn.Module | None,
    last: str,
) -> Iterator[Window]:
    """Read the source one window at a time and yield the windows that have loss terms."""
    no_sync = getattr(model, "no_sync", nullcontext)
    # The first backward of a static graph has to synchronise.
    first_must_sync = getattr(model, "static_graph", False)
    progress = _Progress(model)
    spare = None  # the latest batch with terms, which a rank without terms passes in their place
    while True:
        group = list(islice(source, steps))
        if last == "drop" and len(group) < steps:
            group = []
        terms = count_terms(weight, group)
        # This is an all-reduce, so a rank without a batch calls it as well.
        scale = scale_terms(sum(terms), bool(group), model)
        if not group:
            return
        # weight_i = terms_i * scale; a batch without terms has no mean loss and is left out.
        weighted: list[tuple[Any, float]] = []
        for batch, count in zip(group, terms, strict=True):
            if count:
                weighted.append((batch, count * scale))
                spare = batch
        if not scale:  # no rank has a loss term
            continue
        if not weighted:
            weighted = [(group[-1] if spare is None else spare, 0.0)]
        yield Window(_make_micro_batches(weighted, no_sync, first_must_sync), progress)
        first_must_sync = False


def _make_micro_batches(
    weighted: list[tuple[Any, float]], no_sync: Callable[[], SyncContext], first_must_sync: bool
) -> list[MicroBatch]:
    """Make micro-batches whose `sync()` is `no_sync`, except for the first if it must synchronise.

    `Window` replaces the `sync()` of the last one.
    """
    # Without synchronisation, gradients stay on their rank until the last backward.
    micros = [MicroBatch(batch, share, False, no_sync) for batch, share in weighted]
    if first_must_sync:
        micros[0]._context = nullcontext
    micros[-1].is_last = True
    return micros
