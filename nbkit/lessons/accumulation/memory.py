"""What a training step of the lesson `accumulation` holds in memory, and when."""

from __future__ import annotations

import random
import weakref
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.lab.cost.memory import MemoryReport, memory_report


def build_conv_net(width: int, depth: int) -> nn.Module:
    """Build a convolutional network for the digits: `depth` layers of `width` channels on 8 x 8."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10))


def draw_conv_net(seed: int) -> nn.Module:
    """Build a convolutional network; the seed draws its width and depth: 8 to 64, and 2 to 6."""
    draw = random.Random(seed)
    return build_conv_net(width=draw.choice([8, 16, 24, 32, 48, 64]), depth=draw.randint(2, 6))


def measure_step_memory(model: nn.Module, x: Tensor, y: Tensor, size: int) -> MemoryReport:
    """Measure what one step on these samples holds in memory, in micro-batches of `size`.

    With SGD and momentum. All samples of the step count as held: `accumulate` reads them together.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    micro = x[:size].clone(), y[:size].clone()  # a slice would count with all that it is cut from
    report = memory_report(model, micro, cross_entropy, optimizer)
    # The waiting samples of the whole step, not only the micro-batch.
    report.batch = x.clone().untyped_storage().nbytes() + y.clone().untyped_storage().nbytes()
    return report


class _Timeline:
    """Note the bytes that autograd holds, after each tensor that it saves or lets go.

    Tensors that share a storage count once; `ignored` storages, such as weights, do not count.
    """

    def __init__(self, ignored: set[int]) -> None:
        self.levels = [0]
        self._ignored = ignored
        self._users: Counter[int] = Counter()

    def save(self, tensor: Tensor) -> _Saved:
        """Hold a tensor for the backward pass, as a hook of saved tensors does."""
        saved = _Saved(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self._ignored:
            self._users[key] += 1
            if self._users[key] == 1:
                self.levels.append(self.levels[-1] + size)
            # Called when the graph lets go of it.
            weakref.finalize(saved, self._release, key, size)
        return saved

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            self.levels.append(self.levels[-1] - size)


class _Saved:
    """A tensor that the graph holds: it lives as long as its place there."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def trace_activations(model: nn.Module, x: Tensor, y: Tensor, size: int) -> list[int]:
    """Trace the bytes of activations over one step on these samples, in micro-batches of `size`.

    Returns:
        the bytes held, from 0 to 0: a level after each tensor that autograd saves or lets go. The
        gradients of the model are those of the step; its weights are not changed.
    """
    model.zero_grad()
    ignored = {p.untyped_storage().data_ptr() for p in model.parameters()}
    ignored |= {tensor.untyped_storage().data_ptr() for tensor in (x, y)}
    timeline = _Timeline(ignored)
    with torch.autograd.graph.saved_tensors_hooks(timeline.save, lambda saved: saved.tensor):
        for start in range(0, len(x), size):
            part, labels = x[start : start + size], y[start : start + size]
            loss = cross_entropy(model(part), labels) * len(part) / len(x)
            torch.autograd.backward(loss)
            # The graph goes with its loss, before the next micro-batch comes.
            del loss
    return timeline.levels
