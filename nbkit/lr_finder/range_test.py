"""The learning-rate range test: one short run whose lr climbs a ladder until the loss breaks.

curve = lr_range_test(model, optimizer, batches, loss_fn)
lr = curve.suggest()  # None where the curve carries no suggestion; curve.explain() says why
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nbkit.base.batches import count_rows
from nbkit.base.nested import move_tensors, open_container
from nbkit.base.optimizers import check_plain_step
from nbkit.base.state import preserve_state
from nbkit.lr_finder.curve import LRCurve, StopReason
from nbkit.lr_finder.loaders import again, fresh_workers, generators

# A skipped fp16 step halves the scale. From 2**16, where a GradScaler begins, so many in a row lead
# far below 1: then the gradients themselves are not finite, and no scale would help.
MOST_SKIPS = 32


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 100,
    step: Callable[[Any], Tensor] | None = None,
    accumulation_steps: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    smoothing: float = 0.9,
    stop_factor: float = 2.0,
    restore: Iterable[object] = (),
) -> LRCurve:
    """Train while the lr climbs from `min_lr` to `max_lr`, then put everything back.

        lr_i = min_lr * (max_lr / min_lr) ** (i / (num_steps - 1))

    Args:
        model: trains in the mode that it is in, so a frozen BatchNorm stays frozen.
        optimizer: its groups keep the ratios of their lrs. A scheduler that it has is not stepped.
            None whose `step` needs a closure (L-BFGS, SAM).
            If your training clips, do it in `optimizer.register_step_pre_hook`.
        batches: pairs (x, y), or what `step` takes; begun again when they end, if they can be.
            If that raises, the run is "exhausted", and a warning says why.
        loss_fn: called as `loss_fn(model(x), y)`, with x and y on the model's device.
        min_lr: the first rung, for the first parameter group.
        max_lr: the last rung.
        num_steps: how many rungs, both ends included: one optimizer step each.
        step: in place of `loss_fn`: takes a batch as it comes, runs the forward pass (under
            autocast, if your training does) and returns the mean loss. The rest is done here.
        accumulation_steps: batches per rung; their mean, weighted by their lengths, is its loss.
            The last batches of an iterator may make a shorter rung.
        scaler: for fp16. A step that it skips takes no rung and leaves no point.
        smoothing: weight of the past in the moving average of the losses, 0 to below 1.
        stop_factor: the run has diverged when the smoothed loss is above its lowest by more than
            this many times the range of the losses on the way there; `inf` climbs to the end.
        restore: what else the run changes: an EMA copy, a generator that your batches draw from.
    Returns:
        LRCurve: the lrs that the updates used, their losses, why the run ended, a suggestion. A
            loss that is not finite ends the run and leaves no point.
    Raises:
        TypeError: unless one of `loss_fn` and `step` is given, and returns a loss; or for a batch
            whose number of samples is needed and unknown. For an optimizer that needs a closure.
        ValueError: if a number is out of its range; nothing has been touched.

    `preserve_state` puts back, on every way out: model, optimizer, scaler, a `loss_fn` or `step`
    that is a module, the generators of a DataLoader and of its samplers, and the random state. A
    DataLoader with persistent workers has workers of the run's own meanwhile. An iterator's batches
    are gone. Under DistributedDataParallel a loss is the mean over the ranks, and all ranks stop
    together, also when one has no batch left; an error on one rank does not reach the others. A
    rung waits for the device once, to read its loss, and once more with a scaler.

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3, where
    the lr climbs linearly; the exponential ladder is fastai's.

    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> curve = lr_range_test(
    ...     model, optimizer, batches, nn.MSELoss(), min_lr=0.01, max_lr=1.0, num_steps=3)
    >>> [round(lr, 9) for lr in curve.lrs], curve.stop_reason
    ([0.01, 0.1, 1.0], 'finished')
    """
    ladder = _ladder(min_lr, max_lr, num_steps)
    _check(accumulation_steps, smoothing, stop_factor, loss_fn, step)
    check_plain_step(optimizer, "lr_range_test")
    ratios = _ratios(optimizer)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    group = _process_group(model)
    scaler = scaler if scaler is not None and scaler.is_enabled() else None
    forward = step or partial(_pair_loss, model, loss_fn, device)
    train = partial(_train, forward, optimizer, scaler, group)
    curve = LRCurve(smoothing=smoothing)

    modules = [thing for thing in (loss_fn, step) if isinstance(thing, nn.Module)]
    scalers = [] if scaler is None else [scaler]
    own = (*scalers, *modules, *generators(batches))
    with preserve_state(model, optimizer, *own, *restore), fresh_workers(batches):
        windows = _windows(batches, accumulation_steps, group, device)
        curve.stop_reason = _climb(curve, ladder, ratios, windows, optimizer, train, stop_factor)
    return curve


def _climb(
    curve: LRCurve,
    ladder: list[float],
    ratios: list[float],
    windows: Iterable[list[Any]],
    optimizer: torch.optim.Optimizer,
    train: Callable[[list[Any]], tuple[float, bool]],
    stop_factor: float,
) -> StopReason:
    """Take one optimizer step a rung, recorded in the curve; return why it ended."""
    skips = 0  # in a row
    for window in windows:
        lrs = [ladder[len(curve.lrs)] * ratio for ratio in ratios]
        _set_lrs(optimizer, lrs)
        loss, updated = train(window)
        skips = 0 if updated else skips + 1
        curve.skipped += not updated
        if not math.isfinite(loss) or skips == MOST_SKIPS:
            return StopReason.NONFINITE
        if not updated:
            continue
        curve.record(lrs, loss)
        if curve.has_diverged(stop_factor):
            return StopReason.DIVERGED
        if len(curve.lrs) == len(ladder):
            return StopReason.FINISHED
    return StopReason.EXHAUSTED


def _train(
    forward: Callable[[Any], Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    group: Any,
    window: list[Any],
) -> tuple[float, bool]:
    """One optimizer step: the window's mean loss, and whether the parameters were updated."""
    optimizer.zero_grad()
    losses = []
    for batch, weight in zip(window, _weights(window), strict=True):
        loss = forward(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise TypeError(
                f"expected loss_fn or step to return the mean loss, a tensor of one number with a "
                f"gradient, got {_described(loss)}."
            )
        loss = loss if weight == 1.0 else loss * weight
        (loss if scaler is None else scaler.scale(loss)).backward()
        losses.append(loss.detach())
    mean = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    if group is not None:
        dist.all_reduce(mean, group=group)
        mean = mean / dist.get_world_size(group)
    updated = _update(optimizer, scaler)
    return float(mean), updated


def _update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Step, and say whether the parameters were updated.

    With a scaler that is what it found in the gradients. Its scale would not tell: it may stand at
    a fixed value, or have dropped for another optimizer.
    """
    if scaler is None:
        optimizer.step()
        return True
    scaler.step(optimizer)
    found = [float(flag) for flag in scaler._found_inf_per_device(optimizer).values()]
    scaler.update()
    return not any(found)


def _windows(
    batches: Iterable[Any], size: int, group: Any, device: torch.device
) -> Iterator[list[Any]]:
    """The batches of each rung, as many as every rank has, until there are none."""
    stream = again(batches)
    while True:
        window = list(islice(stream, size))
        count = len(window) if group is None else _fewest(len(window), group, device)
        if not count:
            return
        yield window[:count]


def _fewest(count: int, group: Any, device: torch.device) -> int:
    """The lowest count of all ranks."""
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, op=dist.ReduceOp.MIN, group=group)
    return int(counts)


def _weights(window: list[Any]) -> list[float]:
    """Each batch's share of the window's samples."""
    if len(window) == 1:
        return [1.0]
    lengths = [_samples(batch) for batch in window]
    return [length / sum(lengths) for length in lengths]


def _samples(batch: Any) -> int:
    known = isinstance(batch, Tensor) or open_container(batch) is not None
    try:
        return count_rows(batch) if known else len(batch)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"with accumulation_steps above 1 a batch counts by its number of samples, which "
            f"{_described(batch)} does not tell. Wrap it in a type of your own whose len() is "
            f"that number, and give step. Cause: {error}"
        ) from error


def _pair_loss(model: nn.Module, loss_fn: Any, device: torch.device, batch: Any) -> Tensor:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(
            f"loss_fn needs batches that are pairs (x, y), got {_described(batch)}. "
            f"Give step, a function batch -> loss, in its place."
        )
    x, y = batch
    x, y = move_tensors(x, device), move_tensors(y, device)
    return loss_fn(model(x), y)


def _ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's lr over the first group's."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    if all(lr == lrs[0] for lr in lrs):
        return [1.0] * len(lrs)
    if lrs[0] == 0:
        raise ValueError(
            f"the ratios between the groups' lrs are kept, and the first lr must not be 0 for "
            f"that; got {lrs}. Set them first; a scheduler's warm-up may have set them to 0."
        )
    return [lr / lrs[0] for lr in lrs]


def _set_lrs(optimizer: torch.optim.Optimizer, lrs: list[float]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # a captured or compiled step reads this very tensor
        else:
            group["lr"] = lr


def _process_group(model: nn.Module) -> Any:
    """The ranks that DistributedDataParallel averages over; None where there is no such module."""
    kind = nn.parallel.DistributedDataParallel
    return next((m.process_group for m in model.modules() if isinstance(m, kind)), None)


def _ladder(min_lr: float, max_lr: float, num_steps: int) -> list[float]:
    min_lr, max_lr = float(min_lr), float(max_lr)
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(
            f"expected 0 < min_lr < max_lr, both finite, got min_lr={min_lr}, max_lr={max_lr}."
        )
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, the two ends, got {num_steps}.")
    return [min_lr * (max_lr / min_lr) ** (i / (num_steps - 1)) for i in range(num_steps)]


def _check(
    accumulation_steps: int, smoothing: float, stop_factor: float, loss_fn: object, step: object
) -> None:
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}.")
    if not stop_factor > 0:
        raise ValueError(f"stop_factor must be above 0 (inf never stops), got {stop_factor}.")
    if (loss_fn is None) == (step is None):
        given = "neither" if step is None else "both"
        raise TypeError(
            f"give loss_fn, for batches that are pairs (x, y), or step, a function batch -> loss, "
            f"for any other; got {given}."
        )


def _described(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"a tensor of shape {tuple(thing.shape)}, requires_grad={thing.requires_grad}"
    size = f" of {len(thing)}" if isinstance(thing, (tuple, list, dict)) else ""
    return f"a {type(thing).__name__}{size}"
