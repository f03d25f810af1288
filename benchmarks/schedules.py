"""What a schedule costs: training steps with `Scheduled`, beside the same steps without it.

Run: python benchmarks/schedules.py
"""

import time

import torch
from timing import interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import Plateau, Scheduled, lr_schedule
from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread

BOUND = 1.02
STEPS, ROUNDS = 100, 41
DATA = digits()


def make_training(make_model, optimizer_class, options, scheduled):
    """A function that trains a few steps; with a schedule, under a warm-up and a cosine."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = optimizer_class(model.parameters(), lr=1e-6, **options)
    if scheduled:
        # It holds its end, so that all rounds can go on with it.
        schedule = lr_schedule("cosine", 5000, warmup=500, end=0.1, past_end="hold")
        Scheduled(optimizer, schedule, plateau=Plateau())
    x, y = DATA.x_train[:64], DATA.y_train[:64]

    def train_on():
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    return train_on


def wide() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


CASES = {
    "the lab's MLP, SGD": (mlp, torch.optim.SGD, {"momentum": 0.9}),
    "the lab's MLP, AdamW": (mlp, torch.optim.AdamW, {}),
    "three layers of 512, SGD": (wide, torch.optim.SGD, {"momentum": 0.9}),
}


def main() -> bool:
    kept = []
    with one_thread():
        for name, case in CASES.items():
            arms = {
                "bare": make_training(*case, scheduled=False),
                "Scheduled": make_training(*case, scheduled=True),
            }
            timing = interleaved(arms, ROUNDS, clock=time.process_time)
            ratio = timing.ratio("Scheduled", "bare")
            kept.append(report(f"a step with Scheduled / without, {name}", ratio, BOUND))
    return all(kept)


if __name__ == "__main__":
    raise SystemExit(not main())
