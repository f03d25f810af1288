"""What the lesson batchnorm trains: a network with BatchNorm on changed digits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.base.state import preserve_state
from nbkit.batchnorm import freeze_bn_
from nbkit.lab.data import Data
from nbkit.lab.runs.training import train


def build_bn_net(
    depth: int = 5,
    width: int = 64,
    *,
    momentum: float | None = 0.1,
    track: bool = True,
    classes: int = 10,
    inputs: int = 64,
) -> nn.Sequential:
    """Build `depth` hidden layers of Linear, BatchNorm and ReLU, then a Linear.

    Args:
        depth: number of hidden layers.
        width: units in each of them.
        momentum: of BatchNorm, in torch's convention: the weight of the new batch.
        track: whether BatchNorm keeps running statistics.
        classes: outputs of the last layer.
        inputs: numbers in each sample; a digit has 8 x 8 pixels.

    >>> [type(layer).__name__ for layer in build_bn_net(depth=1)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs] + [width] * depth):
        norm = nn.BatchNorm1d(fan_out, momentum=momentum, track_running_stats=track)
        layers += [nn.Linear(fan_in, fan_out), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def brighten_images(data: Data, shift: float) -> Data:
    """Add `shift` to each grey level of the training and the test images."""
    return Data(data.x_train + shift, data.y_train, data.x_test + shift, data.y_test)


def take_classes(data: Data, *, first: bool) -> Data:
    """Take the classes 0 to 4, or 5 to 9 with the labels 0 to 4: two tasks of the same kind."""
    start = 0 if first else 5
    parts = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        ours = (y >= start) & (y < start + 5)
        # Both tasks have the labels 0 to 4, and so the same last layer.
        parts += [x[ours], y[ours] - start]
    return Data(*parts)


def train_bn_net(
    seed: int, data: Data, *, lr: float, steps: int, batch_size: int, **options: Any
) -> nn.Sequential:
    """Train one network in an ordinary loop and return it in train mode.

    Args:
        seed: decides the initial weights and the order of the batches; it seeds torch.
        data: its training set is used.
        lr: of SGD with momentum 0.9.
        steps: optimizer steps.
        batch_size: samples in each step.
        options: arguments of `build_bn_net`.
    """
    torch.manual_seed(seed)
    model = build_bn_net(**options)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batches = data.batches(batch_size, seed=seed, steps=steps)
    # `train` yields after each step; nothing is measured in between here.
    for _ in train(model, batches, optimizer, cross_entropy):
        pass
    return model


@torch.no_grad()
def measure_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None
) -> float:
    """Measure the share of right answers in the mode that the model is in.

    The running statistics are restored: a forward pass in train mode moves them.

    Args:
        x: samples (samples, ...).
        y: their labels (samples,).
        batch_size: about how many samples to evaluate together; None takes all.
    """
    right = 0
    with preserve_state(model):
        for samples, labels in split_evenly(x, y, batch_size):
            right += int((model(samples).argmax(-1) == labels).sum())
    return right / len(x)


def measure_modes(
    model: nn.Sequential, data: Data
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Measure the share of right answers, and the spread of each layer's output, in both modes."""
    shares: dict[str, float] = {}
    spreads: dict[str, list[float]] = {}
    for mode in ("train", "eval"):
        model.train(mode == "train")
        shares[mode] = measure_accuracy(model, data.x_test, data.y_test)
        spreads[mode] = measure_spreads(model, data.x_test)
    return shares, spreads


def split_evenly(x: Tensor, y: Tensor, batch_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Split samples into parts whose sizes differ by at most one, none above `batch_size`.

    So no single sample is left over; BatchNorm cannot compute batch statistics of one.
    """
    count = math.ceil(len(x) / (batch_size or len(x)))
    return zip(x.tensor_split(count), y.tensor_split(count), strict=True)


@torch.no_grad()
def measure_input_mean(model: nn.Sequential, layer: int, x: Tensor, *, channel: int) -> float:
    """Measure the mean over all samples of one channel of the input of `model[layer]`.

    Mode and running statistics are restored.
    """
    with preserve_state(model):
        # In train mode the layers before this one normalise by these samples, as in training.
        return float(model.train()[:layer](x)[:, channel].mean())


@torch.no_grad()
def measure_spreads(model: nn.Sequential, x: Tensor) -> list[float]:
    """Measure the standard deviation of what each BatchNorm layer puts out, in the present mode.

    The root of the variance over samples, averaged over channels. 1 is a signal of full size; the
    running statistics are restored.
    """
    spreads = []
    with preserve_state(model):
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm1d):
                spreads.append(float(x.var(0).mean().sqrt()))
    return spreads


def follow_channel(
    data: Data, momenta: Sequence[float], *, lr: float
) -> tuple[list[float], list[float], dict[float, list[float]]]:
    """Follow the mean of one channel of the second BatchNorm layer over 80 steps of batches of 8.

    Returns:
        the mean of each batch; the mean over all training samples with the weights of each step;
        and for each momentum the moving average before the first step and after each step.
    """
    torch.manual_seed(0)
    # Momentum 1: the running statistics are those of the last batch alone.
    model = build_bn_net(depth=5, momentum=1.0)
    layer = model[4]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batch_means: list[float] = []
    truth: list[float] = []
    running = {momentum: [0.0] for momentum in momenta}
    for _ in train(model, data.batches(8, seed=0, steps=80), optimizer, cross_entropy):
        assert isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None
        batch_means.append(float(layer.running_mean[0]))
        truth.append(measure_input_mean(model, 4, data.x_train, channel=0))
        for momentum, values in running.items():
            values.append((1 - momentum) * values[-1] + momentum * batch_means[-1])
    return batch_means, truth, running


# ---- the bug hunt ----


def freeze_by_gradient(model: nn.Module) -> None:
    """Switch off the training of BatchNorm's weight and bias: snippet a."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.requires_grad_(False)


def freeze_by_mode(model: nn.Module) -> None:
    """Put BatchNorm into eval mode: snippet b."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()


def freeze_by_library(model: nn.Module) -> None:
    """Freeze BatchNorm as the library does: snippet c."""
    freeze_bn_(model)


FREEZES = {"a": freeze_by_gradient, "b": freeze_by_mode, "c": freeze_by_library}
