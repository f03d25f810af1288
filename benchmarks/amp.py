"""What Amp costs beside the same loop without it, on a network of the lessons' size."""

from collections.abc import Callable

import torch
from timing import interleaved, report
from torch import nn

from nbkit.amp import Amp

STEPS = 40  # short rounds, many of them: what slows one arm down slows its neighbour


def training(amp: Amp | None) -> Callable[[], None]:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(64, 64), torch.randint(10, (64,))

    def bare():
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    def with_amp():
        for _ in range(STEPS):
            optimizer.zero_grad()
            with amp.autocast():
                loss = nn.functional.cross_entropy(model(x), y)
            amp.backward(loss)
            amp.step(optimizer)

    return with_amp if amp else bare


def main() -> bool:
    torch.set_num_threads(1)
    arms = {"bare": training(None), "amp": training(Amp("fp32", "cpu"))}
    timing = interleaved(arms, 201, warmup=2)
    return report("Amp('fp32') / bare loop", timing.ratio("amp", to="bare"), 1.03)


if __name__ == "__main__":
    raise SystemExit(not main())
