"""What the lesson batchnorm trains: a network with BatchNorm on changed digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.base.state import preserve_state
from nbkit.batchnorm import BNReport, reestimate_bn_
from nbkit.lab.data import Data
from nbkit.lab.runs.stacking import stack
from nbkit.lab.runs.training import train


def build_bn_net(
    depth: int = 5,
    width: int = 64,
    *,
    momentum: float | None = 0.1,
    track: bool = True,
    classes: int = 10,
) -> nn.Sequential:
    """Build `depth` hidden layers of Linear, BatchNorm and ReLU, then a Linear.

    Args:
        depth: number of hidden layers.
        width: units in each of them.
        momentum: of BatchNorm, in torch's convention: the weight of the new batch.
        track: whether BatchNorm keeps running statistics.
        classes: outputs of the last layer.

    >>> [type(layer).__name__ for layer in build_bn_net(depth=1)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    # 64 inputs: a digit has 8 x 8 pixels.
    for fan_in, fan_out in pairwise([64] + [width] * depth):
        norm = nn.BatchNorm1d(fan_out, momentum=momentum, track_running_stats=track)
        layers += [nn.Linear(fan_in, fan_out), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def brighten_images(data: Data, shift: float) -> Data:
    """Add `shift` to each grey level of the training and the test images."""
    return Data(data.x_train + shift, data.y_train, data.x_test + shift, data.y_test)


def take_half(data: Data, *, first: bool, train: int | None = None) -> Data:
    """Take the digits 0 to 4, or 5 to 9 with the labels 0 to 4: two tasks that share their strokes.

    Args:
        first: True takes the digits 0 to 4.
        train: number of training samples to keep; None keeps all.
    """
    start = 0 if first else 5
    parts = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        ours = (y >= start) & (y < start + 5)
        # Both tasks have the labels 0 to 4, and so the same last layer.
        parts += [x[ours], y[ours] - start]
    x, y, x_test, y_test = parts
    return Data(x[:train], y[:train], x_test, y_test)


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


def measure_both_ways(
    measure: Callable[..., float], seeds: Iterable[int], **changed: Any
) -> tuple[list[float], list[float]]:
    """Call `measure(seed, True)` and `measure(seed, False)` for each seed.

    Args:
        measure: its second argument says whether to use the technique.
        changed: further arguments of `measure`.
    Returns:
        the values with the technique and those without, in the order of the seeds.
    """
    with_technique, without = [], []
    for seed in seeds:
        with_technique.append(measure(seed, True, **changed))
        without.append(measure(seed, False, **changed))
    return with_technique, without


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


class SideBySide:
    """Train networks of several seeds as one, fast enough to retrain at each move of a slider.

    `model` takes (runs, samples, inputs); its BatchNorm layers hold the channels of all runs, so
    `bn_gap` and `reestimate_bn_` see them as one wide network.

    Args:
        seeds: one network each.
        options: arguments of `build_bn_net`.
    """

    def __init__(self, seeds: Sequence[int], **options: Any) -> None:
        self.seeds = tuple(seeds)
        models = []
        with preserve_state():
            for seed in self.seeds:
                # The same initial weights as in `train_bn_net`.
                torch.manual_seed(seed)
                models.append(build_bn_net(**options))
        self.model = stack(models)

    def repeat_samples(self, x: Tensor) -> Tensor:
        """Give each network the same samples: (samples, ...) -> (runs, samples, ...)."""
        return x.expand(len(self.seeds), *x.shape)

    def stack_batches(
        self, data: Data, *, steps: int, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches (runs, samples, ...), each network's in the order of its seed."""
        orders = [data.batches(batch_size, seed=seed, steps=steps) for seed in self.seeds]
        for batches in zip(*orders, strict=True):
            # One (samples, inputs) and one (samples,) from each network's order.
            xs, ys = zip(*batches, strict=True)
            yield torch.stack(xs), torch.stack(ys)

    def sum_losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum the networks' cross-entropies, so that each gets the gradient of its own loss."""
        # .mT puts the classes where cross_entropy wants them: (runs, classes, samples).
        return cross_entropy(self.model(x).mT, y, reduction="none").mean(1).sum()

    def train_networks(
        self, data: Data, *, lr: float, steps: int, batch_size: int
    ) -> Iterator[int]:
        """Train all networks by SGD with momentum 0.9; yield the number of steps so far."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        batches = self.stack_batches(data, steps=steps, batch_size=batch_size)
        for count, (x, y) in enumerate(batches, start=1):
            loss = self.sum_losses(x, y)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            yield count

    @torch.no_grad()
    def measure_accuracies(
        self, x: Tensor, y: Tensor, *, train: bool = False, batch_size: int | None = None
    ) -> Tensor:
        """Measure each network's share of right answers (runs,); mode and statistics are restored.

        Args:
            x: samples (samples, ...), the same for each network.
            y: their labels (samples,).
            train: evaluate in train mode, by the batch's statistics; False takes the running ones.
            batch_size: about how many samples to evaluate together; None takes all.
        """
        right = []
        with preserve_state(self.model):
            self.model.train(train)
            for samples, labels in split_evenly(x, y, batch_size):
                answers = self.model(self.repeat_samples(samples)).argmax(-1)  # (runs, samples)
                right.append((answers == labels).sum(1))
        return torch.stack(right).sum(0) / len(x)

    def reestimate_statistics(self, x: Tensor) -> BNReport:
        """Run `reestimate_bn_` on all networks with these samples, a hundred at a time."""
        # The last part may be smaller; `reestimate_bn_` weighs each part by its samples.
        parts = [self.repeat_samples(part) for part in torch.split(x, 100)]
        return reestimate_bn_(self.model, parts)

    @torch.no_grad()
    def measure_gaps(self, x: Tensor) -> Tensor:
        """Measure how far each network's running statistics are from those of these samples.

            mean over layers of  sqrt(mean_gap^2 + var_gap^2)

        with the two gaps of `bn_gap`, root mean squares over the network's own channels.

        Returns:
            one gap for each network (runs,). The running statistics are restored.
        Raises:
            ValueError: if the networks were built with track=False.
        """
        with preserve_state(self.model):
            before = _copy_statistics(self.model)
            self.reestimate_statistics(x)
            after = _copy_statistics(self.model)
        gaps = []
        for (mean, var), (true_mean, true_var) in zip(before, after, strict=True):
            # Both gaps are in units of the true standard deviation: (runs * channels,).
            squares = (mean - true_mean).square() / true_var + (var / true_var).log().square()
            gaps.append(squares.view(len(self.seeds), -1).mean(1).sqrt())
        return torch.stack(gaps).mean(0)

    def compare_statistics(self, data: Data, test_batch: int) -> tuple[list[Tensor], BNReport]:
        """Measure test accuracy with running, with re-estimated and with the batch's statistics.

        Args:
            data: 500 of its training samples serve the re-estimation.
            test_batch: samples that share the batch's statistics.
        Returns:
            the accuracies (runs,) in that order, and the report of the re-estimation. The networks
            are restored.
        """
        x, y = data.x_test, data.y_test
        running = self.measure_accuracies(x, y)
        of_batch = self.measure_accuracies(x, y, train=True, batch_size=test_batch)
        # Last, since it changes the running statistics.
        with preserve_state(self.model):
            report = self.reestimate_statistics(data.x_train[:500])
            reestimated = self.measure_accuracies(x, y)
        return [running, reestimated, of_batch], report


def _copy_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copy running mean and variance of each BatchNorm layer, (channels of all runs,) each."""
    copies = []
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            if layer.running_mean is None or layer.running_var is None:
                raise ValueError(
                    "a gap needs running statistics, got a BatchNorm layer without. "
                    "Build the networks with track=True."
                )
            # eps is added because the layer adds it before it divides.
            copies.append((layer.running_mean.clone(), layer.running_var + layer.eps))
    return copies
