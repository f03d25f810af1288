"""Train the same network by hand, under DDP and alone; check what breaks the equality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from nbkit.accumulation import accumulate
from nbkit.base.batch_gradients import compute_gradients, copy_gradients
from nbkit.base.equivalence import EquivalenceReport, compare_gradients
from nbkit.ddp import all_mean, check_ddp_equivalence, shard
from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lessons.ddp.lab import SpeedLab
from nbkit.lessons.ddp.timeline import record_update
from nbkit.lessons.ddp.timings import Case, compare_fastest, speed_arms, time_pairs
from nbkit.lessons.ddp.waiting_ranks import Ranks, start_ranks

__all__ = [
    "NETWORKS",
    "SPLITS",
    "Case",
    "Ranks",
    "SpeedLab",
    "agree",
    "check_networks",
    "compare_fastest",
    "make_network",
    "record_update",
    "speed_arms",
    "start_ranks",
    "time_pairs",
    "train_apart",
    "train_weights",
    "weighted_report",
]

Average = Callable[[nn.Module, float, Callable[[Tensor], Tensor]], None]
# For each name: what builds the network, its loss, and the rows of the batch.
Networks = Mapping[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], int]]


def train_weights(
    seed: int, data: Data, average: Average | str = "nothing", steps: int = 20
) -> Tensor:
    """Train on this rank's part of each batch; return all weights, as one tensor.

    Args:
        seed: of the initial weights and of the batches' order.
        data: what to train on.
        average: "DDP", "nothing", or a function that averages the gradients after each backward.
        steps: number of updates.

    In the notebook itself there is one rank only: there `shard` hands out whole batches.
    """
    torch.manual_seed(seed)
    # float64, so that rounding is far below everything else.
    model = mlp(depth=2, inputs=data.x_train.shape[1]).double()
    net = DistributedDataParallel(model) if average == "DDP" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in shard(data.batches(64, seed=seed, steps=steps)):
        optimizer.zero_grad()
        cross_entropy(net(x.double()), y).backward()
        if callable(average):
            average(model, 1.0, all_mean)
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def train_apart(steps: int) -> Tensor:
    """Train on this rank's half of each batch; nobody tells the other rank anything."""
    torch.manual_seed(0)
    model = mlp(depth=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in shard(digits().batches(64, seed=0, steps=steps)):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def agree(one: Tensor, other: Tensor) -> bool:
    """Return whether two trainings in float64 gave the same weights, to rounding."""
    return torch.allclose(one, other, rtol=0, atol=1e-12)


def make_network(*layers: Callable[[], nn.Module]) -> nn.Module:
    """Build a small float64 network with these layers in the middle."""
    torch.manual_seed(0)
    middle = [layer() for layer in layers]
    net = nn.Sequential(nn.Linear(64, 64), *middle, nn.Tanh(), nn.Linear(64, 10))
    return net.double()


def check_networks(networks: Networks) -> dict[str, EquivalenceReport]:
    """Compare the gradient of two ranks with that of one process; every rank has to call it.

    One more report is on ragged parts with the weights that make them right.
    """
    data = digits()
    x, y = data.x_train.double(), data.y_train
    reports = {}
    for name, (make, loss_fn, rows) in networks.items():
        reports[name] = check_ddp_equivalence(make, loss_fn, (x[:rows], y[:rows]))
    reports["21 and 22 rows, weighted"] = weighted_report(make_network, (x[:43], y[:43]))
    return reports


def weighted_report(
    make: Callable[[], nn.Module], batch: tuple[Tensor, Tensor]
) -> EquivalenceReport:
    """Compare the gradient of weighted parts with that of the batch; every rank has to call it."""
    model = DistributedDataParallel(make())
    for window in accumulate(shard([batch]), 1, model=model):
        for micro in window:
            x, y = micro.batch
            # The weight makes up for shares of different sizes.
            (cross_entropy(model(x), y) * micro.weight).backward()
    reference = compute_gradients(make(), cross_entropy, batch)
    return compare_gradients(reference, copy_gradients(model.module))


def split_by_turns(rank: int, epoch: int, n: int) -> Tensor:
    """Bug hunt, a: one order for all, each rank takes every second row."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
    return order[rank::2]


def split_by_halves(rank: int, epoch: int, n: int) -> Tensor:
    """Bug hunt, b: each rank shuffles the same half in every epoch."""
    own = torch.arange(n)[rank * n // 2 : (rank + 1) * n // 2]
    return own[torch.randperm(len(own), generator=torch.Generator().manual_seed(2 * epoch + rank))]


def split_by_seed(rank: int, epoch: int, n: int) -> Tensor:
    """Bug hunt, c: each rank shuffles all rows by a seed of its own, and takes half."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2 * epoch + rank))
    return order[: n // 2]


SPLITS = {"a": split_by_turns, "b": split_by_halves, "c": split_by_seed}
# Which of them keep the equality? For each: the network, its loss, and the rows of the batch.
NETWORKS: dict[str, Any] = {
    "nothing special": (make_network, cross_entropy, 64),
    "BatchNorm": (partial(make_network, partial(nn.BatchNorm1d, 64)), cross_entropy, 64),
    "LayerNorm in its place": (partial(make_network, partial(nn.LayerNorm, 64)), cross_entropy, 64),
    "43 rows: 21 and 22": (make_network, cross_entropy, 43),
    "a sum for the mean": (make_network, partial(cross_entropy, reduction="sum"), 64),
    "dropout": (partial(make_network, partial(nn.Dropout, 0.5)), cross_entropy, 64),
}
