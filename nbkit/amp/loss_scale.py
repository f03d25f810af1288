"""Call torch's GradScaler in the right order, once per step, with readable errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer


def prepare_backward(scaler: GradScaler, find_optimizer: Callable[[int], Optimizer | None]) -> None:
    """Update the loss scale before a backward pass, from what the steps since the last one found.

    The update comes this late because another optimizer may still have gradients at the old scale.

    Args:
        find_optimizer: returns the optimizer of an id, None if it no longer exists.
    Raises:
        RuntimeError: if gradients are unscaled but not used: this pass would add scaled ones.
    """
    # torch has no public way to ask the scaler for these states.
    for key, state in scaler._per_optimizer_states.items():
        if state["stage"] is not OptState.UNSCALED:
            continue
        optimizer = find_optimizer(key)
        # After zero_grad() there is nothing left that scaled gradients could be added to.
        if optimizer is None or has_gradients(optimizer):
            raise RuntimeError(
                "an optimizer's gradients are unscaled, but it has not stepped: backward would add "
                "scaled gradients to them. Call amp.step(optimizer) first, or "
                "optimizer.zero_grad() to drop them."
            )
    # torch refuses an update before anything was unscaled.
    if _list_overflow_flags(scaler):
        scaler.update()


def check_stage(scaler: GradScaler, optimizer: Optimizer) -> OptState:
    """Return the optimizer's stage in this step; refuse a second step and one without gradients.

    Raises:
        RuntimeError: with the call that is missing.
    """
    name = type(optimizer).__name__
    if scaler._scale is None or not has_gradients(optimizer):
        raise RuntimeError(
            f"{name} has no gradients to step with: call amp.backward(loss) first, with a loss "
            f"that depends on its parameters."
        )
    states = scaler._per_optimizer_states
    # A look-up of a new key would create a state: the scaler keeps a defaultdict.
    stage = states[id(optimizer)]["stage"] if id(optimizer) in states else OptState.READY
    if stage is OptState.STEPPED:
        raise RuntimeError(f"{name} has already stepped since the last amp.backward(loss).")
    return stage


def check_gradient_dtypes(optimizer: Optimizer) -> None:
    """Refuse gradients in float16, as the scaler does, but before any of them is changed."""
    for parameter in _list_optimizer_parameters(optimizer):
        if parameter.grad is not None and parameter.grad.dtype == torch.float16:
            raise ValueError(
                "expected gradients in float32, got FP16 gradients. Keep the parameters in "
                "float32: autocast casts where it should."
            )


def unscale_once_(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Divide the optimizer's gradients by the scale, unless this has been done since backward."""
    # The user may have called the scaler's own unscale_ before.
    if check_stage(scaler, optimizer) is OptState.UNSCALED:
        return
    check_gradient_dtypes(optimizer)
    scaler.unscale_(optimizer)


def step_or_skip(scaler: GradScaler, optimizer: Optimizer) -> Tensor:
    """Step if every gradient is finite.

    Returns:
        Tensor: shape (2,), on the device: 0 if all gradients were finite, and the loss scale.
    """
    check_stage(scaler, optimizer)
    scaler.step(optimizer)
    # These flags belong to this optimizer. That the scale falls later would say less: with several
    # optimizers, or with a scale set by hand, it falls for other reasons or not at all.
    flags = list(scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values())
    return torch.stack([_sum_flags(flags, scaler), _read_scale(scaler)])


def save_scaler(scaler: GradScaler) -> dict[str, Any]:
    """Return the scaler's state as it will be after the update of the next backward.

    Raises:
        RuntimeError: between unscaling and step.
    """
    for each in scaler._per_optimizer_states.values():
        if each["stage"] is OptState.UNSCALED:
            raise RuntimeError(
                "expected amp.state_dict() between two steps, but it was called between "
                "amp.unscale_ and amp.step: the state cannot hold that gradients are unscaled. "
                "Save it after the step."
            )
    state = scaler.state_dict()
    flags = _list_overflow_flags(scaler)
    if flags:
        state |= _preview_update(scaler, flags)
    return state


def _preview_update(scaler: GradScaler, flags: list[Tensor]) -> dict[str, float]:
    """Compute what `scaler.update()` would set, on copies."""
    assert scaler._growth_tracker is not None
    scale, tracker = _read_scale(scaler).clone(), scaler._growth_tracker.clone()
    torch._amp_update_scale_(
        scale,
        tracker,
        _sum_flags(flags, scaler),
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    )
    # Plain numbers, as in the state_dict of torch.
    return {"scale": scale.item(), "_growth_tracker": tracker.item()}


def load_scaler(scaler: GradScaler, state: dict[str, Any]) -> None:
    """Continue from `save_scaler`, at the start of an iteration."""
    scaler.load_state_dict(state)
    # The saved scale already includes what these steps found.
    scaler._per_optimizer_states.clear()


def has_gradients(optimizer: Optimizer) -> bool:
    """Check whether any parameter of the optimizer has a gradient."""
    return any(parameter.grad is not None for parameter in _list_optimizer_parameters(optimizer))


def _list_optimizer_parameters(optimizer: Optimizer) -> list[Tensor]:
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters


def _list_overflow_flags(scaler: GradScaler) -> list[Tensor]:
    """List what unscaling found since the last update: not 0 where a gradient was not finite."""
    flags: list[Tensor] = []
    for state in scaler._per_optimizer_states.values():
        flags += state["found_inf_per_device"].values()
    return flags


def _read_scale(scaler: GradScaler) -> Tensor:
    assert scaler._scale is not None  # torch creates it at the first scaled loss
    return scaler._scale


def _sum_flags(flags: list[Tensor], scaler: GradScaler) -> Tensor:
    # Parameters on several devices leave a flag on each of them.
    device = _read_scale(scaler).device
    return torch.stack([flag.to(device) for flag in flags]).sum()
