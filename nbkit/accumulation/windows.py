"""Gradient accumulation whose gradient is the full batch's: ragged, weighted, on several ranks.

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

so it is the gradient of the mean over all loss terms of the window, whatever the sizes, as if the
window were one batch. The sum of the weighted losses is the window's loss.

>>> batches = [torch.zeros(8, 3), torch.zeros(8, 3), torch.zeros(2, 3)]
>>> for window in accumulate(batches, 2):
...     print([(micro.weight, micro.is_last) for micro in window])
[(0.5, False), (0.5, True)]
[(1.0, True)]

In a process group the sum goes over all ranks (one small all-reduce a window), and the weights are
multiplied by their number: DDP averages over the ranks, so the averaged gradient is that of all
ranks' terms together. The weights of a window then sum to 1 on the average of the ranks.

An exception inside a window leaves DDP's synchronisation on again and the gradients of its first
micro-batches in the model: `optimizer.zero_grad()` before going on.

DDP with `static_graph=True` synchronises its first micro-batch too: torch 2.13 crashes if its first
backward does not. BatchNorm still sees each micro-batch alone, K times a step: `check_accumulation`
says how much that changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from nbkit.base.batch_gradients import (
    apply_model,
    check_batch,
    compute_gradients,
    copy_gradients,
    read_pair,
)
from nbkit.base.batches import count_rows, split_rows
from nbkit.base.equivalence import (
    EquivalenceCause,
    EquivalenceReport,
    compare_gradients,
    find_largest_entry,
)
from nbkit.base.equivalence_causes import (
    Advised,
    Kinds,
    are_ones,
    explain_difference,
    find_remaining_cause,
)
from nbkit.base.model_call import copy_batch
from nbkit.base.numbers import read_integer
from nbkit.base.state import preserve_state
from nbkit.base.suspect_layers import find_starved_layers, list_suspects, switch_off_layers


@dataclass(slots=True)
class MicroBatch:
    """One forward and backward of a window.

    Attributes:
        batch: what the loader gave.
        weight: its share of the window's loss terms; multiply its mean loss by it.
        is_last: whether the optimizer steps after it.
    """

    batch: Any
    weight: float
    is_last: bool
    _context: Callable[[], AbstractContextManager] = field(repr=False)

    def sync(self) -> AbstractContextManager:
        """Put this around forward and backward: DDP averages over the ranks in the last one only.

        Around the backward alone it would do nothing: DDP decides in the forward.
        """
        return self._context()


class Window:
    """The micro-batches of one optimizer step, to be gone through once."""

    def __init__(self, micros: list[MicroBatch], loop: _Loop):
        self._micros, self._loop = micros, loop
        micros[-1]._context = partial(loop.last, is_empty=not micros[-1].weight)

    def __len__(self) -> int:
        return len(self._micros)

    def __iter__(self) -> Iterator[MicroBatch]:
        self._loop.check()  # not before: the body may begin with optimizer.zero_grad()
        for micro in self._micros:
            self._loop.complete = micro.is_last  # now: the body may end with a break
            with self._loop.without_gradient(not micro.weight):
                yield micro


class _Loop:
    """Whether the window that is at work, or was the last to be, has had its last micro-batch."""

    def __init__(self, model: nn.Module | None):
        self.model, self.complete = model, True

    @contextmanager
    def last(self, is_empty: bool) -> Iterator[None]:
        """Around the last micro-batch, which nothing keeps from synchronising."""
        try:
            with self.without_gradient(is_empty):
                yield
        except BaseException:
            self.complete = False
            raise

    @contextmanager
    def without_gradient(self, is_empty: bool) -> Iterator[None]:
        """Around a micro-batch without terms, whose mean is 0 / 0: NaN, also times a weight of 0.

        The zeros reach DDP, which averages what the hooks return.
        """
        parameters = self.model.parameters() if is_empty and self.model is not None else ()
        hooks = [p.register_hook(torch.zeros_like) for p in parameters if p.requires_grad]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def check(self) -> None:
        """A window left early and not cleared would leak into the next one's gradient."""
        if self.model is None or self.complete:
            return
        if any(p.grad is not None and p.grad.any() for p in self.model.parameters()):
            raise RuntimeError(
                "the window before this one was left early and its gradients are still in the "
                "model: call optimizer.zero_grad() before going on, or finish the window."
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
        batches: any iterable, its length need not be known. It is read a window at a time, since
            a weight needs the window's total before the first backward; no further.
        steps: micro-batches in a window.
        weight: how many terms the loss of a batch averages over, for example the labels that are
            not ignored: `lambda batch: (batch[1] != -100).sum()`. None counts rows.
        model: the DDP model, for `sync()`; a plain module does no harm.
        last: what to do with fewer than `steps` batches at the end: a smaller window, or nothing.
    Returns:
        An iterator of windows, each an iterable of `MicroBatch`.
    Raises:
        ValueError, TypeError: at once, for wrong arguments.
        ValueError: on the way, if a weight is negative or not finite.
        RuntimeError: on the way, on every rank, if some ranks have a window where others have
            none; or, given the model, if a window was left early, the next one begins, and the
            gradients are still there.

    A micro-batch of weight zero has no loss (the mean of nothing is NaN): it is passed over, and a
    window of nothing else is no window. Only where other ranks have terms does such a rank get one
    micro-batch, of weight 0.0, since DDP needs its backward.
    """
    count = read_integer(steps)
    if count is None or count < 1:
        raise ValueError(f"steps must be a whole number of micro-batches, at least 1, got {steps}.")
    if last not in ("flush", "drop"):
        raise ValueError(
            f'last must be "flush" (a smaller window at the end) or "drop", got {last!r}.'
        )
    _check_options(weight, model)

    return _windows(iter(batches), steps, weight or count_rows, model, last)


def _check_options(weight: object, model: object) -> None:
    """Refuse a weight that is no function, and a model that is no module."""
    if weight is not None and not callable(weight):
        raise TypeError(
            f"weight must be a function that counts the loss terms of a batch, such as "
            f"lambda batch: (batch[1] != -100).sum(), got {weight!r}."
        )
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got a {type(model).__name__}.")


def _windows(
    source: Iterator[Any],
    steps: int,
    weight: Callable[[Any], Any],
    model: nn.Module | None,
    last: str,
) -> Iterator[Window]:
    no_sync = getattr(model, "no_sync", nullcontext)
    unready = getattr(model, "static_graph", False)  # its first backward has to synchronise
    loop, spare = _Loop(model), None
    while True:
        group = list(islice(source, steps))
        if last == "drop" and len(group) < steps:
            group = []
        terms = _terms(weight, group)
        scale = _scale(sum(terms), bool(group), model)
        if not group:
            return
        counted = [(b, n * scale) for b, n in zip(group, terms, strict=True) if n]
        spare = counted[-1][0] if counted else spare
        if not scale:  # not one loss term on any rank
            continue
        if not counted:
            counted = [(group[-1] if spare is None else spare, 0.0)]
        yield Window(_micros(counted, no_sync, unready), loop)
        unready = False


def _micros(
    counted: list[tuple[Any, float]], no_sync: Callable[[], AbstractContextManager], unready: bool
) -> list[MicroBatch]:
    """`sync()` is DDP's `no_sync`, but not for the first where that has to synchronise.

    `Window` sees to the last.
    """
    micros = [MicroBatch(batch, share, False, no_sync) for batch, share in counted]
    if unready:
        micros[0]._context = nullcontext
    micros[-1].is_last = True
    return micros


def _terms(weight: Callable[[Any], Any], group: list[Any]) -> list[float]:
    try:
        terms = [float(weight(batch)) for batch in group]
    except ValueError as error:
        if weight is not count_rows:
            raise
        raise ValueError(
            f"cannot count the loss terms of a batch: {error} Say how many there are with weight=, "
            f"for example weight=lambda batch: len(batch[0])."
        ) from None
    if terms and not (min(terms) >= 0 and sum(terms) < math.inf):
        raise ValueError(
            f"weight(batch) must be the number of its loss terms, finite and at least 0, "
            f"got {', '.join(map(str, terms))}."
        )
    return terms


def _scale(terms: float, has_window: bool, model: nn.Module | None) -> float:
    """Weight of one loss term: ranks / terms of the window on all ranks; 0 if it has none."""
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        group = getattr(model, "process_group", None)
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        sums = torch.tensor([terms, has_window], dtype=torch.float64, device=device)
        dist.all_reduce(sums, group=group)
        ranks = dist.get_world_size(group)
        terms, windows = sums.tolist()
        if 0 < windows < ranks:
            raise RuntimeError(
                f"{windows:.0f} of {ranks} ranks have another window, the others have no batch "
                f"left. Give each rank the same number of batches: nbkit.shard does."
            )
    return ranks / terms if terms else 0.0


def check_accumulation(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], torch.Tensor],
    batch: Any,
    steps: int,
    *,
    weight: Callable[[Any], Any] | None = None,
) -> EquivalenceReport:
    """Compare the gradient accumulated over `steps` parts of a batch with that of the whole batch.

    Args:
        model: in the mode you train it in; it is left as it was, with the random state.
        loss_fn: called as `loss_fn(model(x), y)`; a mean over the batch's loss terms.
        batch: a pair (x, y), of at least `steps` rows; or a dict, which the model takes as keywords
            and `loss_fn` as its second argument. A dict x is passed as keywords if they fit.
        steps: micro-batches to divide it into.
        weight: as for `accumulate`.
    Returns:
        EquivalenceReport: the error and, if it is more than rounding, the causes with advice, such
        as batchnorm, dropout, a mean of means (the loss averages over something other than `weight`
        counts) or a sum.
    Raises:
        ValueError: if the batch has fewer rows than `steps`.
        TypeError: if the batch is no pair and no dict, or its keys do not fit the model.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> batch = (torch.randn(8, 3), torch.randn(8, 4))
    >>> report = check_accumulation(model, nn.MSELoss(), batch, 4)
    >>> report.equivalent, report.cause
    (False, 'batchnorm')
    """
    check_batch(model, batch)
    count = read_integer(steps)
    if count is None or not 1 <= count <= count_rows(batch):
        raise ValueError(
            f"steps must be from 1 to the batch's number of rows, {count_rows(batch)}, got {steps}."
        )

    parts = split_rows(batch, count)
    kept = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
    with preserve_state(*kept):
        return explain_difference(
            list_suspects(model),
            partial(_compare_parts, model, loss_fn, batch, parts, weight),
            partial(find_remaining_cause, model, loss_fn, batch, parts, _wrong_weights),
            find_starved_layers(model, min(parts, key=count_rows)),
        )


def _compare_parts(model, loss_fn, batch, parts, weight, off: Kinds) -> EquivalenceReport:
    with switch_off_layers(model, off):
        reference = compute_gradients(model, loss_fn, batch)
        torch.manual_seed(1)  # one stream of masks, cut into parts, would hide the dropout
        model.zero_grad(set_to_none=True)
        term = 0.0
        for window in accumulate(copy_batch(parts), len(parts), weight=weight, model=model):
            for micro in window:
                x, y = read_pair(micro.batch)
                with micro.sync():
                    (loss_fn(apply_model(model, x), y) * micro.weight).backward()
                term = max(term, find_largest_entry([copy_gradients(model)]))
        return compare_gradients(reference, copy_gradients(model), term)


def _wrong_weights(fitted: list[float]) -> Advised:
    if are_ones(fitted):
        return (
            EquivalenceCause.SUM_REDUCTION,
            "The loss is a sum, so each part counts in full. Leave out the weight.",
        )
    shown = ", ".join(f"{w:.3g}" for w in fitted[:4]) + (", ..." if len(fitted) > 4 else "")
    return (
        EquivalenceCause.MEAN_OF_MEANS,
        f"The loss averages over something other than what weight counts; the weights {shown} "
        f"would fit. Pass weight=, for example lambda batch: (batch[1] != -100).sum().",
    )
