"""What many runs cost as one program, and one after another.

Run: python benchmarks/seeds.py
"""

import time
from collections.abc import Callable

import torch
from timing import Timing, interleaved, report
from torch import nn

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import one_thread

DATA = digits()
SGD = {"small": {"lr": 0.01, "momentum": 0.9}, "large": {"lr": 0.1, "momentum": 0.9}}
ADAMW = {
    "gentle": {"lr": 0.001, "optimizer": "adamw", "max_norm": 1.0},
    "smooth": {"lr": 0.003, "optimizer": "adamw", "label_smoothing": 0.1},
}


class Last(nn.Module):
    """The last output of an LSTM: a forward of its own, so it goes through vmap."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


def convnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def recurrent() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (8, 8)), Last(), nn.Linear(32, 10))


def train_all(make: Callable[[], nn.Module], arms: dict, steps: int, vectorize: bool) -> float:
    options = {"steps": steps, "batch_size": 64, "vectorize": vectorize}
    *_, runs = train_runs(make, DATA, arms, range(8), **options)
    return runs.final().mean().item()


def both(make: Callable[[], nn.Module], arms: dict, steps: int, repeats: int) -> Timing:
    """The 16 runs together and one after another, in CPU seconds."""
    ways = {
        "together": lambda: train_all(make, arms, steps, True),
        "apart": lambda: train_all(make, arms, steps, False),
    }
    return interleaved(ways, repeats, clock=time.process_time)


def on_a_gpu() -> bool:
    """64 runs of the MLP, in seconds of the wall: on a GPU it is the launches that take time."""
    if not torch.cuda.is_available():
        print("skipped: 64 runs on a GPU, together / one after another (needs CUDA)")
        return True
    data = digits("cuda")

    def train_64(vectorize: bool) -> float:
        options = {"steps": 50, "batch_size": 64, "vectorize": vectorize}
        *_, runs = train_runs(mlp, data, SGD, range(32), **options)
        return runs.final().mean().item()  # waits for the GPU

    ways = {"together": lambda: train_64(True), "apart": lambda: train_64(False)}
    ratio = interleaved(ways, 5).ratio("together", "apart")
    return report("64 runs on a GPU, together / one after another", ratio, 1 / 30)


def main() -> bool:
    with one_thread():
        plain = both(mlp, SGD, steps=200, repeats=7)
        adamw = both(mlp, ADAMW, steps=100, repeats=3)
        images = both(convnet, SGD, steps=40, repeats=3)
        series = both(recurrent, SGD, steps=40, repeats=3)
    ratio = ("together", "apart")
    return all(
        [
            report("8 seeds x 2 arms x 200 steps, CPU seconds", plain.of("together"), 0.5),
            report("16 runs together / one after another", plain.ratio(*ratio), 0.4),
            report("the same by AdamW, clipped, smoothed", adamw.ratio(*ratio), 0.4),
            report("a small ConvNet with BatchNorm", images.ratio(*ratio), 1.0),
            report("an LSTM over 8 steps", series.ratio(*ratio), 1.0),
            on_a_gpu(),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(not main())
