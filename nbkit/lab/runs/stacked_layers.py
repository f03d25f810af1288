"""Layers with a leading run dimension: R of one make as one module, (R, batch, ...) -> the same.

Three ways, the fastest first: a batched matrix product for Linear; torch's own layer, R times as
wide, where a layer works channel by channel or in groups; torch.func.vmap for everything else.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nbkit.lab.runs.plain_layers import PLAIN

# The sizes of a layer that grow with the runs; its tensors grow along dimension 0.
WIDE: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), ("in_channels", "out_channels", "groups")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), ("num_features",)),
    nn.GroupNorm: ("num_groups", "num_channels"),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d), ()),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), ()),
}


class StackedLinear(nn.Module):
    """R linear layers as one: (R, batch, ..., inputs) -> (R, batch, ..., outputs)."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.weight = _parameter(torch.stack, [layer.weight.mT for layer in layers])
        has_bias = layers[0].bias is not None
        biases = [layer.bias[None] for layer in layers] if has_bias else []
        self.bias = _parameter(torch.stack, biases) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Each run's samples through its own weights."""
        samples = x if x.ndim == 3 else x.flatten(1, -2)
        if self.bias is None:
            y = torch.bmm(samples, self.weight)
        else:
            y = torch.baddbmm(self.bias, samples, self.weight)
        return y if x.ndim == 3 else y.unflatten(1, x.shape[1:-1])


class Wide(nn.Module):
    """R layers that keep channels or groups apart, as one layer over R times as many of them.

        (R, batch, channels, ...) -> (batch, R * channels, ...), through the layer, and back

    Between two of these nothing is copied: the one's view undoes the other's.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.runs = len(layers)
        self.layer = copy.deepcopy(layers[0])
        for size in WIDE[type(layers[0])]:
            setattr(self.layer, size, getattr(self.layer, size) * self.runs)
        _join_tensors(self.layer, layers, torch.cat)

    def forward(self, x: Tensor) -> Tensor:
        """Each run's channels through its own part of the layer."""
        y = self.layer(x.transpose(0, 1).flatten(1, 2))
        return y.unflatten(1, (self.runs, -1)).transpose(0, 1)


class Vmapped(nn.Module):
    """R modules of any forward, as torch.func.vmap of one of them over the tensors of all."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        plain = [_without_kernels(copy.deepcopy(module)) for module in modules]
        self.layer = plain[0]  # its tensors get the run dimension; nothing else calls it
        _join_tensors(self.layer, plain, torch.stack)

    def forward(self, x: Tensor) -> Tensor:
        """Each run's samples through its own module."""
        tensors = {**dict(self.layer.named_parameters()), **dict(self.layer.named_buffers())}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return vmap(self._one)(tensors, x)

    def _one(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.layer, tensors, (x,))


def _without_kernels(module: nn.Module) -> nn.Module:
    """The same module, with layers in plain steps where vmap does not get torch's own right."""
    if type(module) in PLAIN:
        return PLAIN[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _without_kernels(child))
    return module


def _join_tensors(target: nn.Module, modules: Sequence[nn.Module], join: Any) -> None:
    """Give the target, which is like the modules, the tensors of all of them, joined."""
    for path, owner in target.named_modules():
        owners: list[Any] = [module.get_submodule(path) for module in modules]
        for name, tensor in owner._parameters.items():
            if tensor is not None:
                alike = [other._parameters[name] for other in owners]
                owner._parameters[name] = _parameter(join, alike)
        for name, tensor in owner._buffers.items():
            if tensor is not None:
                alike = [other._buffers[name] for other in owners]
                counts = join is torch.cat and not tensor.ndim  # of batches: the same in all runs
                owner._buffers[name] = tensor if counts else join(alike)


def _parameter(join: Any, tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(join([tensor.detach() for tensor in tensors]), tensors[0].requires_grad)
