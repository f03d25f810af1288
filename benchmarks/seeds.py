"""What 8 seeds x 2 arms cost as one program, and one after another.

Run: python benchmarks/seeds.py
"""

import time

from timing import interleaved, report

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.seeds import train_runs
from nbkit.lab.training import one_thread

DATA = digits()
ARMS = {"small": {"lr": 0.01, "momentum": 0.9}, "large": {"lr": 0.1, "momentum": 0.9}}


def train_all(vectorize: bool) -> float:
    *_, runs = train_runs(mlp, DATA, ARMS, range(8), steps=200, batch_size=64, vectorize=vectorize)
    return runs.final().mean().item()


def main() -> bool:
    arms = {"together": lambda: train_all(True), "apart": lambda: train_all(False)}
    with one_thread():
        timing = interleaved(arms, repeats=7, clock=time.process_time)
    return all(
        [
            report("8 seeds x 2 arms x 200 steps, CPU seconds", timing.of("together"), 0.6),
            report("16 runs together / one after another", timing.ratio("together", "apart"), 0.4),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(not main())
