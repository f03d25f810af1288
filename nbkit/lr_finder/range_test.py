"""The learning-rate range test: one short run whose lr climbs a ladder until the loss breaks.

curve = lr_range_test(model, optimizer, batches, loss_fn)
lr = curve.suggest()  # None if the curve supports no suggestion; curve.explain() says why
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nbkit.base.nested import move_tensors
from nbkit.base.optimizers import check_plain_step
from nbkit.base.state import preserve_state
from nbkit.lr_finder.curve import LRCurve
from nbkit.lr_finder.ladder import make_ladder, read_lr_ratios, set_lrs
from nbkit.lr_finder.loaders import (
    describe_value,
    draw_windows,
    find_generators,
    use_fresh_workers,
    weigh_batches,
)
from nbkit.lr_finder.suggest import StopReason

# A skipped fp16 step halves the scale. A GradScaler begins at 2**16, so after this many skips in a
# row the scale is far below 1: then the gradients themselves are not finite, and no scale helps.
MAX_SKIPS = 32


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
    """Train while the lr climbs from `min_lr` to `max_lr`, then restore everything.

        lr_i = min_lr * (max_lr / min_lr) ** (i / (num_steps - 1))

    Args:
        model: trains in the mode that it is in, so a frozen BatchNorm stays frozen.
        optimizer: its groups keep the ratios of their lrs. A scheduler of it is not stepped. An
            optimizer whose `step` needs a closure (L-BFGS, SAM) is refused. If your training clips
            gradients, do it in `optimizer.register_step_pre_hook`.
        batches: pairs (x, y), or what `step` takes. They are iterated over again when they end. If
            that raises, the run is "exhausted", and a warning says why.
        loss_fn: called as `loss_fn(model(x), y)`, with x and y on the model's device.
        min_lr: lr of the first parameter group on the first rung.
        max_lr: lr of the first parameter group on the last rung.
        num_steps: number of rungs, both ends included; each rung is one optimizer step.
        step: replaces `loss_fn`. It takes a batch as the loader gives it, runs the forward pass
            (under autocast, if your training does) and returns the mean loss; backward and update
            follow here.
        accumulation_steps: batches per rung. The loss of a rung is their mean, weighted by their
            lengths. The last batches of an iterator may make a shorter rung.
        scaler: GradScaler for fp16. A step that it skips takes no rung and leaves no point.
        smoothing: weight of the past in the moving average of the losses, 0 to below 1.
        stop_factor: the run has diverged when the smoothed loss exceeds its lowest value by more
            than this many times the range of the losses up to there; `inf` climbs to the end.
        restore: further objects that the run changes and that are to be restored, such as an EMA
            copy or a generator that your batches draw from.
    Returns:
        LRCurve: the lrs that the updates used, their losses, why the run ended, and a suggestion.
            A loss that is not finite ends the run and leaves no point.
    Raises:
        TypeError: unless exactly one of `loss_fn` and `step` is given and it returns a loss; for a
            batch whose number of samples is needed and unknown; for an optimizer that needs a
            closure.
        ValueError: if a number is out of its range; nothing has been touched.

    `preserve_state` restores, however the run ends: the model, the optimizer, the scaler, a
    `loss_fn` or `step` that is a module, the generators of a DataLoader and of its samplers, and
    the random state. A DataLoader with persistent workers gets new workers for the run. Batches
    drawn from an iterator are lost. Under DistributedDataParallel, a loss is the mean over the
    ranks, and all ranks stop together, also when one has no batch left; an error on one rank does
    not reach the others. Each rung waits for the device once, to read its loss, and once more with
    a scaler.

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
    ladder = make_ladder(min_lr, max_lr, num_steps)
    _check_range_arguments(accumulation_steps, smoothing, stop_factor)
    _check_one_loss(loss_fn, step)
    check_plain_step(optimizer, "lr_range_test")
    ratios = read_lr_ratios(optimizer)

    # A model without parameters is taken to be on the CPU.
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    group = _find_process_group(model)
    # A disabled scaler changes nothing, so the run does without it.
    scaler = scaler if scaler is not None and scaler.is_enabled() else None
    forward = step or partial(_compute_pair_loss, model, loss_fn, device)
    train = partial(_train_rung, forward, optimizer, scaler, group)
    curve = LRCurve(smoothing=smoothing)

    changed = _list_changed_objects(scaler, loss_fn, step, batches)
    with preserve_state(model, optimizer, *changed, *restore), use_fresh_workers(batches):
        windows = draw_windows(batches, accumulation_steps, group, device)
        curve.stop_reason = _climb_ladder(
            curve, ladder, ratios, windows, optimizer, train, stop_factor
        )
    return curve


def _list_changed_objects(
    scaler: torch.amp.GradScaler | None, loss_fn: object, step: object, batches: Iterable[Any]
) -> list[object]:
    """List what the run changes beside the model and the optimizer."""
    changed: list[object] = []
    if scaler is not None:
        changed.append(scaler)
    for function in (loss_fn, step):
        # Such a module may have weights or buffers.
        if isinstance(function, nn.Module):
            changed.append(function)
    return changed + find_generators(batches)


def _climb_ladder(
    curve: LRCurve,
    ladder: list[float],
    ratios: list[float],
    windows: Iterable[list[Any]],
    optimizer: torch.optim.Optimizer,
    train: Callable[[list[Any]], tuple[float, bool]],
    stop_factor: float,
) -> StopReason:
    """Take one optimizer step per rung and record it in the curve; return why the run ended."""
    skips_in_a_row = 0
    for window in windows:
        # A skipped step records no rung, so the next window gets the same lr again.
        lrs = [ladder[len(curve.lrs)] * ratio for ratio in ratios]
        set_lrs(optimizer, lrs)
        loss, updated = train(window)
        skips_in_a_row = 0 if updated else skips_in_a_row + 1
        curve.skipped += not updated
        # Stop before the loss is recorded: a NaN would spoil the moving average.
        if not math.isfinite(loss) or skips_in_a_row == MAX_SKIPS:
            return StopReason.NONFINITE
        if not updated:
            continue
        curve.record(lrs, loss)
        if curve.has_diverged(stop_factor):
            return StopReason.DIVERGED
        if len(curve.lrs) == len(ladder):
            return StopReason.FINISHED
    return StopReason.EXHAUSTED


def _train_rung(
    forward: Callable[[Any], Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    group: Any,
    window: list[Any],
) -> tuple[float, bool]:
    """Take one optimizer step; return the window's mean loss and whether it updated parameters."""
    optimizer.zero_grad()
    losses = []
    for batch, weight in zip(window, weigh_batches(window), strict=True):
        loss = forward(batch)
        _check_loss(loss)
        # A single batch has the weight 1, and its loss needs no multiplication.
        weighted = loss if weight == 1.0 else loss * weight
        scaled = weighted if scaler is None else scaler.scale(weighted)
        scaled.backward()
        losses.append(weighted.detach())
    # The weights sum to 1, so the sum of the weighted losses is the mean over all samples.
    mean = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    if group is not None:
        # Every rank needs the same number, so that all of them stop at the same rung.
        dist.all_reduce(mean, group=group)
        mean = mean / dist.get_world_size(group)
    updated = _update_parameters(optimizer, scaler)
    # Reading the loss waits for the device, so it comes after the update was launched.
    return float(mean), updated


def _update_parameters(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
) -> bool:
    """Step the optimizer; return whether the parameters were updated.

    With a scaler, the answer is whether it found infinity or NaN in the gradients. A change of its
    scale is no evidence: the scale may be fixed, or have dropped because of another optimizer.
    """
    if scaler is None:
        optimizer.step()
        return True
    scaler.step(optimizer)
    # Read the flags before update(), which clears them.
    flags = scaler._found_inf_per_device(optimizer).values()
    found_inf = [float(flag) for flag in flags]
    scaler.update()
    return not any(found_inf)


def _compute_pair_loss(model: nn.Module, loss_fn: Any, device: torch.device, batch: Any) -> Tensor:
    """Return the loss of a batch that is a pair (x, y)."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(
            f"loss_fn needs batches that are pairs (x, y), got {describe_value(batch)}. "
            f"Give step, a function batch -> loss, in its place."
        )
    x, y = batch
    x, y = move_tensors(x, device), move_tensors(y, device)
    loss: Tensor = loss_fn(model(x), y)
    return loss


def _check_loss(loss: object) -> None:
    """Refuse a loss that cannot be differentiated."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise TypeError(
            f"expected loss_fn or step to return the mean loss, a tensor of one number with a "
            f"gradient, got {describe_value(loss)}. Return the loss itself, without .item() or "
            f".detach()."
        )


def _find_process_group(model: nn.Module) -> Any:
    """Return the process group that DistributedDataParallel averages over; None without DDP."""
    # DDP may be inside another module, such as a compiled one.
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return module.process_group
    return None


def _check_range_arguments(accumulation_steps: int, smoothing: float, stop_factor: float) -> None:
    """Refuse numbers out of their ranges; NaN fails each comparison."""
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}.")
    if not stop_factor > 0:
        raise ValueError(f"stop_factor must be above 0 (inf never stops), got {stop_factor}.")


def _check_one_loss(loss_fn: object, step: object) -> None:
    """Refuse both of `loss_fn` and `step` together, and neither of them."""
    if (loss_fn is None) == (step is None):
        given = "neither" if step is None else "both"
        raise TypeError(
            f"give loss_fn, for batches that are pairs (x, y), or step, a function batch -> loss, "
            f"for any other batches; got {given}."
        )
