"""Networks of several seeds, trained side by side as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nbkit.base.state import preserve_state
from nbkit.batchnorm import BNReport, reestimate_bn_
from nbkit.lab.data import Data
from nbkit.lab.runs.stacking import stack
from nbkit.lessons.batchnorm.task import build_bn_net, split_evenly


class SideBySide:
    """Train networks of several seeds as one, fast enough to retrain at each move of a slider.

    `model` takes (runs, samples, inputs); its BatchNorm layers hold the channels of all runs, so
    `bn_gap` and `reestimate_bn_` see them as one wide network.

    Args:
        seeds: one network each; the same seed twice gives two networks with the same start.
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

    def sum_losses(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Sum the networks' cross-entropies, so that each gets the gradient of its own loss.

        Args:
            weights: (runs,), the factor of each network's loss.
        """
        # .mT puts the classes where cross_entropy wants them: (runs, classes, samples).
        losses = cross_entropy(self.model(x).mT, y, reduction="none").mean(1)
        return (weights * losses).sum()

    def train_networks(
        self, data: Data, *, lr: float | Sequence[float], steps: int, batch_size: int
    ) -> Iterator[int]:
        """Train all networks by SGD with momentum 0.9; yield the number of steps so far.

        Args:
            lr: one learning rate for all networks, or one for each.
        """
        lrs = torch.tensor([lr] * len(self.seeds) if isinstance(lr, float) else lr)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9)
        batches = self.stack_batches(data, steps=steps, batch_size=batch_size)
        for count, (x, y) in enumerate(batches, start=1):
            # A loss times its lr has a gradient times its lr: a step of lr 1 is the one wanted.
            loss = self.sum_losses(x, y, lrs)
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


def train_networks(
    data: Data, seeds: Sequence[int], *, momentum: float, depth: int, **training: Any
) -> SideBySide:
    """Train a network with BatchNorm of this momentum for each seed; return them in train mode.

    Args:
        training: lr, steps and batch_size.
    """
    nets = SideBySide(seeds, depth=depth, momentum=momentum, inputs=data.x_train.shape[1])
    for _ in nets.train_networks(data, **training):
        pass
    return nets
