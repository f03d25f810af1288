"""What `train()` costs over the same loop written by hand. Run: python benchmarks/training.py"""

import torch
from timing import interleaved, report
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread, train

STEPS = 300
DATA = digits()


def fresh():
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, DATA.batches(64, seed=0, steps=STEPS), optimizer


def by_hand() -> float:
    model, batches, optimizer = fresh()
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def by_train() -> float:
    model, batches, optimizer = fresh()
    for step in train(model, batches, optimizer, cross_entropy):
        loss = step.loss
    return loss.item()


def main() -> bool:
    if by_train() != by_hand():
        raise RuntimeError("train() and the loop by hand no longer do the same; fix that first.")
    with one_thread():
        timing = interleaved({"train": by_train, "by hand": by_hand}, repeats=21)
    return report("train() / loop by hand", timing.ratio("train", "by hand"), 1.03)


if __name__ == "__main__":
    raise SystemExit(not main())
