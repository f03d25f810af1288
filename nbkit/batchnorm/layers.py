"""The BatchNorm layers of a model, and their running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def find_batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers by name; a layer that is used in several places counts once."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            layers[name] = module
    return layers


def require_shapes(layers: Mapping[str, _BatchNorm]) -> None:
    """Raise if a layer is lazy and has seen no data: it has no statistics to freeze or to keep."""
    for name, layer in layers.items():
        for tensor in chain(layer.parameters(recurse=False), layer.buffers(recurse=False)):
            if nn.parameter.is_lazy(tensor):
                raise ValueError(
                    f"layer {name!r} has no shape yet: run one batch through the model first. "
                    f"Nothing has been changed."
                )


def stay_in_eval(layer: nn.Module, mode: bool = True) -> nn.Module:
    """Replace `train` in a frozen layer: its submodules follow, the layer stays in eval mode."""
    # Call the method of the class, because `layer.train` is this function.
    type(layer).train(layer, mode)
    layer.training = False
    return layer


def is_frozen(layer: nn.Module, model: nn.Module) -> bool:
    """Return whether `freeze_bn_` froze a layer, or it is in eval mode in a model that trains."""
    # `freeze_bn_` replaces `train` by a partial of `stay_in_eval`.
    is_fixed = getattr(vars(layer).get("train"), "func", None) is stay_in_eval
    return is_fixed or (model.training and not layer.training)


def read_statistics(layer: _BatchNorm) -> Tensor:
    """Return running mean and running variance, shape (2, channels), in float64 on the CPU."""
    # The callers leave out layers with track_running_stats=False.
    assert layer.running_mean is not None and layer.running_var is not None
    return torch.stack([layer.running_mean, layer.running_var]).cpu().double()


def count_values(x: Tensor) -> int:
    """Return how many values of each channel an input holds; 0 if it has no channels."""
    return x.numel() // x.shape[1] if x.ndim > 1 and x.shape[1] else 0
