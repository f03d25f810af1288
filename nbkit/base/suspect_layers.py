"""Find and switch off the layers that let a gradient depend on how its batch is divided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nbkit.base.batch_gradients import apply_model, read_pair
from nbkit.base.equivalence import EquivalenceCause
from nbkit.base.model_call import copy_batch, run_eagerly, unwrap_model
from nbkit.base.state import preserve_state

Suspects = dict[EquivalenceCause, list[str]]  # the names of the layers of each kind

LAYER_TYPES: dict[EquivalenceCause, tuple[type[nn.Module], ...]] = {
    EquivalenceCause.BATCHNORM: (_BatchNorm,),
    EquivalenceCause.DROPOUT: (_DropoutNd, nn.RReLU, nn.MultiheadAttention),
}


def list_suspects(model: nn.Module) -> Suspects:
    """List the layers in train mode that let a gradient depend on how the batch is divided."""
    suspects: Suspects = {}
    for cause, types in LAYER_TYPES.items():
        for name, module in model.named_modules():
            if _is_active(module, types):
                suspects.setdefault(cause, []).append(name or "the model")
    return suspects


@contextmanager
def switch_off_layers(model: nn.Module, kinds: Iterable[EquivalenceCause]) -> Iterator[None]:
    """Put the layers of these kinds into eval mode, and back when the block ends."""
    types: tuple[type[nn.Module], ...] = ()
    for kind in kinds:
        types += LAYER_TYPES[kind]
    changed = [module for module in model.modules() if _is_active(module, types)]
    lent: list[_BatchNorm] = []
    try:
        for module in changed:
            module.training = False
            # track_running_stats=False: without statistics of its own the layer would use the
            # batch's in eval mode too, so it is lent a mean of 0 and a variance of 1.
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                lent.append(module)
                zeros = next(model.parameters()).new_zeros(module.num_features)
                module.running_mean, module.running_var = zeros, zeros + 1
        yield
    finally:
        for module in changed:
            module.training = True
        for layer in lent:
            layer.running_mean = layer.running_var = None


def find_starved_layers(model: nn.Module, part: Any) -> list[str]:
    """Name the BatchNorm layers in train mode that a part of a batch gives one value a channel.

    One value has no variance, so torch refuses to train on it.
    """
    starved: list[str] = []
    model = unwrap_model(model)

    def note_layer(
        name: str, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        x = args[0] if args else keywords["input"]
        # x: (rows, channels, ...). As many numbers as channels are one each.
        if x.dim() > 1 and x.numel() == x.shape[1]:
            starved.append(name or "the model")

    with ExitStack() as undo:
        hooks = 0
        for name, layer in model.named_modules():
            if _is_active(layer, (_BatchNorm,)):
                hook = layer.register_forward_pre_hook(partial(note_layer, name), with_kwargs=True)
                undo.callback(hook.remove)
                hooks += 1
        if not hooks:
            return []
        # The pass moves BatchNorm's running statistics, and draws dropout masks.
        undo.enter_context(preserve_state(model))
        undo.enter_context(torch.no_grad())
        undo.enter_context(run_eagerly())
        try:
            apply_model(model, read_pair(copy_batch(part))[0])
        except ValueError:
            # torch's refusal is expected of a starved layer, and of nothing else.
            if not starved:
                raise
    return starved


def _is_active(module: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Say whether the layer is of these types, in train mode, and has an effect there."""
    # Dropout and RReLU keep their rate in `p`, attention in `dropout`; BatchNorm has no rate.
    rate = getattr(module, "p", getattr(module, "dropout", 1.0))
    return isinstance(module, types) and module.training and rate != 0
