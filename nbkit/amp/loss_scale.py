"""torch's GradScaler, used once and in order: what it leaves to its caller, or to an assertion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer


def begin(scaler: GradScaler, by_id: Callable[[int], Optimizer | None]) -> None:
    """Before a backward pass: the scale follows from what the steps since the last one found.

    Not right after a step, since another optimizer may have gradients at the same scale.
    """
    for key, state in scaler._per_optimizer_states.items():
        if state["stage"] is not OptState.UNSCALED:
            continue
        optimizer = by_id(key)
        if optimizer is None or has_gradients(optimizer):
            raise RuntimeError(
                "an optimizer's gradients are unscaled, but it has not stepped: backward would add "
                "scaled gradients to them. Call amp.step(optimizer) first, or "
                "optimizer.zero_grad() to drop them."
            )
    if _found(scaler):
        scaler.update()


def unscale_(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Unscale the optimizer's gradients, unless somebody has."""
    if _stage(scaler, optimizer) is OptState.UNSCALED:
        return
    try:
        scaler.unscale_(optimizer)
    except ValueError as error:  # parameters in float16
        hint = "Keep the parameters in float32: autocast casts where it should."
        raise ValueError(f"{error} {hint}") from error


def step(scaler: GradScaler, optimizer: Optimizer) -> Tensor:
    """Step if every gradient is finite.

    Returns:
        Tensor: not 0 if one was not, and the loss scale, on the device.
    """
    _stage(scaler, optimizer)
    scaler.step(optimizer)
    # What was found for this optimizer. Not: whether the scale falls. With several optimizers, or a
    # scale that is set by hand, these differ.
    found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
    return torch.stack([_sum(list(found), scaler), _scale(scaler)])


def state_of(scaler: GradScaler) -> dict[str, Any]:
    """The scaler's state as it will be once the next backward has begun."""
    stages = [each["stage"] for each in scaler._per_optimizer_states.values()]
    if OptState.UNSCALED in stages:
        raise RuntimeError(
            "between amp.unscale_ and amp.step there is no state to save: that the gradients are "
            "unscaled would be lost. Save it after the step."
        )
    state = scaler.state_dict()
    found = _found(scaler)
    if found:
        scale, tracker = _scale(scaler).clone(), scaler._growth_tracker.clone()  # type: ignore[union-attr]
        torch._amp_update_scale_(
            scale,
            tracker,
            _sum(found, scaler),
            scaler.get_growth_factor(),
            scaler.get_backoff_factor(),
            scaler.get_growth_interval(),
        )
        state |= {"scale": scale.item(), "_growth_tracker": tracker.item()}
    return state


def load(scaler: GradScaler, state: dict[str, Any]) -> None:
    """Continue from `state_of`, at the start of an iteration."""
    scaler.load_state_dict(state)
    scaler._per_optimizer_states.clear()


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether there is anything to step with."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _stage(scaler: GradScaler, optimizer: Optimizer) -> OptState:
    """How far the optimizer is; refuses what the scaler would fail at with an assertion."""
    name = type(optimizer).__name__
    if scaler._scale is None or not has_gradients(optimizer):
        raise RuntimeError(
            f"{name} has no gradients to step with: amp.backward(loss) comes first, and the loss "
            f"must depend on its parameters."
        )
    stage = scaler._per_optimizer_states[id(optimizer)]["stage"]
    if stage is OptState.STEPPED:
        raise RuntimeError(f"{name} has already stepped since the last amp.backward(loss).")
    return stage


def _found(scaler: GradScaler) -> list[Tensor]:
    """What the unscaling since the last update found: not 0 where a gradient was not finite."""
    states = scaler._per_optimizer_states.values()
    return [found for state in states for found in state["found_inf_per_device"].values()]


def _scale(scaler: GradScaler) -> Tensor:
    assert scaler._scale is not None
    return scaler._scale


def _sum(found: list[Tensor], scaler: GradScaler) -> Tensor:
    return torch.stack([each.to(_scale(scaler).device) for each in found]).sum()
