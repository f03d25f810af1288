"""Stack R layers of the same make into one module: (R, batch, ...) -> (R, batch, ...).

There are three ways, the fastest first: a batched matrix product for Linear; torch's own layer,
R times as wide, if the layer works channel by channel or in groups; torch.func.vmap for the rest.
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
CONV_SIZES = ("in_channels", "out_channels", "groups")
WIDE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: CONV_SIZES,
    nn.Conv2d: CONV_SIZES,
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.MaxPool1d: (),
    nn.MaxPool2d: (),
    nn.AvgPool1d: (),
    nn.AvgPool2d: (),
    nn.AdaptiveAvgPool1d: (),
    nn.AdaptiveAvgPool2d: (),
}


class StackedLinear(nn.Module):
    """Compute R linear layers as one: (R, batch, ..., inputs) -> (R, batch, ..., outputs)."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        # (R, inputs, outputs): the layout in which the batched product needs no transpose.
        self.weight = _join_parameters(torch.stack, [layer.weight.mT for layer in layers])
        self.bias = None
        if layers[0].bias is not None:
            # (R, 1, outputs), to broadcast over the samples of a run.
            self.bias = _join_parameters(torch.stack, [layer.bias[None] for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each run's samples with its own weights."""
        samples = x if x.ndim == 3 else x.flatten(1, -2)  # (R, all samples, inputs)
        if self.bias is None:
            y = torch.bmm(samples, self.weight)
        else:
            y = torch.baddbmm(self.bias, samples, self.weight)
        return y if x.ndim == 3 else torch.unflatten(y, 1, x.shape[1:-1])


class Wide(nn.Module):
    """Compute R layers that keep channels or groups apart as one layer with R times as many.

        (R, batch, channels, ...) -> (batch, R * channels, ...), through the layer, and back

    Two of these in sequence copy nothing in between: the views cancel.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.runs = len(layers)
        self.layer = copy.deepcopy(layers[0])
        # A grouped convolution over R times the channels keeps the runs apart, as groups do.
        for size in WIDE[type(layers[0])]:
            setattr(self.layer, size, getattr(self.layer, size) * self.runs)
        _join_tensors(self.layer, layers, torch.cat)

    def forward(self, x: Tensor) -> Tensor:
        """Send each run's channels through its own part of the layer."""
        y: Tensor = self.layer(x.transpose(0, 1).flatten(1, 2))
        return torch.unflatten(y, 1, (self.runs, -1)).transpose(0, 1)


class Vmapped(nn.Module):
    """Compute R modules with any forward: torch.func.vmap of one over the tensors of all."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        plain = [_replace_kernels(copy.deepcopy(module)) for module in modules]
        self.layer = plain[0]  # its tensors get the run dimension; nothing else calls it
        _join_tensors(self.layer, plain, torch.stack)

    def forward(self, x: Tensor) -> Tensor:
        """Send each run's samples through its own module."""
        # vmap maps over the first dimension of every tensor: the run.
        tensors = {**dict(self.layer.named_parameters()), **dict(self.layer.named_buffers())}
        # torch warns of operators that it loops over; slow is expected here.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            y: Tensor = vmap(self._call_run)(tensors, x)
        return y

    def _call_run(self, tensors: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(self.layer, tensors, (x,))


def _replace_kernels(module: nn.Module) -> nn.Module:
    """Replace layers by plain ones where vmap cannot use torch's kernel; changes the module."""
    if type(module) in PLAIN:
        return PLAIN[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _replace_kernels(child))
    return module


def _join_tensors(target: nn.Module, modules: Sequence[nn.Module], join: Any) -> None:
    """Give the target, a copy of one of the modules, the joined tensors of all of them.

    `join` is torch.stack for a new run dimension, or torch.cat to widen dimension 0.
    """
    for path, owner in target.named_modules():
        owners: list[Any] = [module.get_submodule(path) for module in modules]
        for name, tensor in owner._parameters.items():
            if tensor is not None:
                owner._parameters[name] = _join_parameters(join, _read_tensors(owners, name))
        for name, tensor in owner._buffers.items():
            if tensor is not None:
                # BatchNorm's count of batches has no dimension, and is the same in all runs.
                is_count = join is torch.cat and not tensor.ndim
                owner._buffers[name] = tensor if is_count else join(_read_tensors(owners, name))


def _read_tensors(owners: Sequence[nn.Module], name: str) -> list[Tensor]:
    """Read the parameter or the buffer with this name from each of the modules."""
    return [getattr(owner, name) for owner in owners]


def _join_parameters(join: Any, tensors: Sequence[Tensor]) -> nn.Parameter:
    """Join parameters into one that is trained or frozen like the first."""
    with torch.no_grad():  # a new parameter, without a path back to the old ones
        joined = join(tensors)
    return nn.Parameter(joined, tensors[0].requires_grad)
