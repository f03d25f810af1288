"""What 16 runs cost as one program, over one after another, for each optimizer of the lab.

Run: python benchmarks/optimizers.py
"""

import time

from timing import Spread, report

from nbkit.lab.cost.timing import time_it
from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.options import find_optimizers
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import one_thread

DATA = digits()
STEPS, ROUNDS = 10, 6
LR = 0.001  # small enough for each of them: what is timed does not depend on it


def train_16(arm: dict, vectorize: bool) -> float:
    options = {"steps": STEPS, "batch_size": 64, "vectorize": vectorize}
    *_, runs = train_runs(mlp, DATA, {"arm": arm}, range(16), **options)
    return runs.final().mean().item()


def compare_ways(arm: dict) -> Spread:
    """CPU seconds of the runs together over those one after another, paired by round."""
    ways = {
        "apart": lambda: train_16(arm, False),
        "together": lambda: train_16(arm, True),
    }
    timing = time_it(ways, ROUNDS, max_warmup=1, clock=time.process_time)
    pairs = zip(timing.seconds["together"], timing.seconds["apart"], strict=True)
    return Spread.of([together / apart for together, apart in pairs])


def main() -> bool:
    arms = {name: {"lr": LR, "optimizer": name} for name in find_optimizers()}
    arms["sgd by layers"] = {"lr": LR, "lr_factors": lambda name, above: 0.5**above}
    kept = []
    with one_thread():
        for name, arm in arms.items():
            # A ratio of a half is twice as fast.
            kept.append(report(f"{name}: 16 runs together / apart", compare_ways(arm), 0.5))
    return all(kept)


if __name__ == "__main__":
    raise SystemExit(not main())
