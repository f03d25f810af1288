"""What accumulate costs beside the loop that divides by K, on a network of the lessons' size."""

import time
from collections.abc import Callable

import torch
from timing import interleaved, report
from torch import nn

from nbkit.accumulation import accumulate

WINDOWS, K = 50, 4


def training(accumulating: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = [(torch.randn(64, 64), torch.randint(10, (64,)))] * (WINDOWS * K)

    def bare():
        for i, (x, y) in enumerate(batches, start=1):
            loss = nn.functional.cross_entropy(model(x), y) / K
            loss.backward()
            if i % K == 0:
                optimizer.step()
                optimizer.zero_grad()

    def with_windows():
        for window in accumulate(batches, K, model=model):
            for micro in window:
                with micro.sync():
                    x, y = micro.batch
                    loss = nn.functional.cross_entropy(model(x), y) * micro.weight
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return with_windows if accumulating else bare


def main() -> bool:
    torch.set_num_threads(1)
    arms = {"bare": training(False), "accumulate": training(True)}
    timing = interleaved(arms, 61, warmup=2, clock=time.process_time)
    return report("accumulate / bare loop", timing.ratio("accumulate", to="bare"), 1.03)


if __name__ == "__main__":
    raise SystemExit(not main())
