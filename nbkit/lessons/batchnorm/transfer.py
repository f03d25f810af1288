"""Fine-tune networks with BatchNorm on another task, in tiny batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nbkit.base.state import preserve_state
from nbkit.batchnorm import freeze_bn_
from nbkit.lab.data import Data
from nbkit.lab.runs.stacking import stack
from nbkit.lessons.batchnorm.side_by_side import SideBySide
from nbkit.lessons.batchnorm.task import take_classes

LRS = [10 ** (k / 3) for k in range(-11, -4)]  # 0.0002 to 0.02, three lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
SAMPLES = 100  # of the second task, to fine-tune on
HELD_OUT = 300  # further samples of its training set, to choose an lr by


def pretrain(data: Data, seeds: Sequence[int], training: Mapping[str, Any]) -> SideBySide:
    """Train a network for each seed on the classes 0 to 4.

    Args:
        training: depth, lr, steps and batch_size.
    """
    inputs = data.x_train.shape[1]
    nets = SideBySide(seeds, depth=training["depth"], classes=5, inputs=inputs)
    how = {name: value for name, value in training.items() if name != "depth"}
    for _ in nets.train_networks(take_classes(data, first=True), **how):
        pass
    return nets


def take_target(data: Data, *, held_out: bool) -> Data:
    """Take 100 training samples of the classes 5 to 9, and their test set.

    Args:
        held_out: put 300 other training samples in place of the test set, to choose an lr by.
    """
    ours = take_classes(data, first=False)
    x, y = ours.x_test, ours.y_test
    if held_out:
        rows = slice(SAMPLES, SAMPLES + HELD_OUT)
        x, y = ours.x_train[rows], ours.y_train[rows]
    return Data(ours.x_train[:SAMPLES], ours.y_train[:SAMPLES], x, y)


def fine_tune(
    pretrained: SideBySide,
    target: Data,
    *,
    lr: float | Sequence[float],
    frozen: bool,
    size: int = 2,
    steps: int = 80,
) -> Tensor:
    """Fine-tune a copy of each network, and measure its test accuracy (runs,) in eval mode.

    Args:
        pretrained: networks with BatchNorm; they are not changed.
        target: the new task; its labels are 0 to 4.
        lr: of SGD with momentum 0.9; one for all networks, or one for each.
        frozen: whether BatchNorm keeps the statistics of the pre-training. If not, it normalises by
            the batch, and its statistics are re-estimated on the target's samples at the end.
        size: samples in a batch.
        steps: optimizer steps.
    """
    nets = copy.deepcopy(pretrained)
    layers = cast(nn.Sequential, nets.model)
    layers[-1] = _make_heads(layers[-1], nets.seeds)
    if frozen:
        freeze_bn_(nets.model)
    for _ in nets.train_networks(target, lr=lr, steps=steps, batch_size=size):
        pass
    if not frozen:
        nets.reestimate_statistics(target.x_train)
    return nets.measure_accuracies(target.x_test, target.y_test)


def _make_heads(old: nn.Module, seeds: Sequence[int]) -> nn.Module:
    """Make a new last layer for each network: the new task has other classes."""
    weight = old.weight
    assert isinstance(weight, Tensor)
    heads = []
    with preserve_state():
        for seed in seeds:
            torch.manual_seed(seed)
            heads.append(nn.Linear(weight.shape[1], 5))  # (runs, inputs, outputs)
    return stack(heads)


def tune_transfer(data: Data, training: Mapping[str, Any], size: int = 2) -> dict[bool, float]:
    """Find the best lr of LRS for frozen and for free BatchNorm, by accuracy on held-out samples.

    Both get the same budget: as many lrs, seeds and steps. The lab's `tuned()` does the same for
    trainings that start from nothing.

    Returns:
        the best lr by whether BatchNorm is frozen; of two equal ones the lower.
    """
    # Each lr with each seed, all side by side.
    lrs, seeds = [], []
    for lr in LRS:
        lrs += [lr] * len(TUNING)
        seeds += list(TUNING)
    nets, target = pretrain(data, seeds, training), take_target(data, held_out=True)
    best = {}
    for frozen in (True, False):
        accuracies = fine_tune(nets, target, lr=lrs, frozen=frozen, size=size)
        scores = accuracies.view(len(LRS), -1).mean(1)
        best[frozen] = LRS[int(scores.argmax())]
    return best


def measure_transfer(
    data: Data, seeds: Sequence[int], training: Mapping[str, Any], size: int = 2
) -> tuple[list[float], list[float]]:
    """Measure each seed's test accuracy after fine-tuning, frozen and free, each at its best lr."""
    lrs = tune_transfer(data, training, size)
    nets, target = pretrain(data, seeds, training), take_target(data, held_out=False)
    frozen = fine_tune(nets, target, lr=lrs[True], frozen=True, size=size)
    free = fine_tune(nets, target, lr=lrs[False], frozen=False, size=size)
    return frozen.tolist(), free.tolist()
