"""What re-estimating BatchNorm costs, beside a plain forward pass over the same data."""

import sys

import torch
from timing import interleaved, report
from torch import nn

from nbkit.batchnorm import reestimate_bn_

BOUND = 1.3
ROUNDS = 15


def convnet(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (3, width, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mlp(width: int = 512) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def plain(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """A forward pass over the data, in the mode that BatchNorm trains in."""
    with torch.no_grad():
        for batch in batches:
            model(batch)


def compare(name: str, model: nn.Module, data: torch.Tensor) -> bool:
    batches = list(data.split(64))
    timing = interleaved(
        {
            "plain": lambda: plain(model.train(), batches),
            "reestimate_bn_": lambda: reestimate_bn_(model, batches),
        },
        ROUNDS,
    )
    return report(
        f"reestimate_bn_ / forward pass, {name}", timing.ratio("reestimate_bn_", "plain"), BOUND
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    within = [
        compare("4 convolutions of width 32 on 3x32x32", convnet(), torch.randn(320, 3, 32, 32)),
        compare("MLP of width 512", mlp(), torch.randn(4096, 512)),
    ]
    sys.exit(not all(within))
