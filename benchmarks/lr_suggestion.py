"""What following a suggested lr costs: the regret of each way to read a range test.

Regret: the training loss (mean of the last tenth of the steps) after 100 steps at the suggested lr,
over that at the best of a grid 1, 2, 5, 10, ... of lrs; both averaged over the same seeds, with the
same initial weights and the same batches. A test is followed from the very model that was tested.

A rare run that breaks weighs much in such a mean, so it takes many seeds. The tasks of TASKS are
the ones that must stay within the bound. `python benchmarks/lr_suggestion.py --all` (a quarter of
an hour) adds other tasks, and what other libraries suggest on the same losses.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from timing import Spread, report
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lr_finder import lr_range_test
from nbkit.lr_finder.curve import LRCurve
from nbkit.lr_finder.suggest import METHODS

STEPS, SEEDS, BOUND = 100, range(40), 1.25
OURS = "floor"


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters):
    return torch.optim.AdamW(parameters)


def rmsprop(parameters):
    return torch.optim.RMSprop(parameters)


def mlp_bn():
    layers = []
    for size in (64, 64, 64):
        layers += [nn.Linear(size, 64), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def conv(bn: bool):
    def block(channels, out, stride):
        norm = nn.BatchNorm2d(out) if bn else nn.Identity()
        return nn.Conv2d(channels, out, 3, stride, 1, bias=not bn), norm, nn.ReLU()

    body = *block(1, 16, 1), *block(16, 32, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *body, nn.Linear(128, 10))


class Recurrent(nn.Module):
    """Reads the image row by row."""

    def __init__(self, kind):
        super().__init__()
        self.cells, self.head = kind(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.cells(x.view(-1, 8, 8))[0][:, -1])


@dataclass(frozen=True)
class Task:
    model: Callable[[], nn.Module]
    optimizer: Callable
    batch_size: int = 64
    autoencoder: bool = False

    def start(self, data: Data, seed: int):
        """The model, optimizer, batches and loss of one seed."""
        torch.manual_seed(seed)
        model = self.model()
        if self.autoencoder:
            data = Data(data.x_train, data.x_train, data.x_test, data.x_test)
        batches = data.batches(self.batch_size, seed=seed, steps=STEPS)
        loss_fn = mse_loss if self.autoencoder else cross_entropy
        return model, self.optimizer(model.parameters()), batches, loss_fn


TASKS = {
    "mlp, momentum": Task(mlp, momentum),
    "mlp, BN, momentum": Task(mlp_bn, momentum),
    "mlp, AdamW": Task(mlp, adamw),
    "conv, momentum": Task(lambda: conv(False), momentum),
    "conv, BN, momentum": Task(lambda: conv(True), momentum),
    "conv, BN, AdamW": Task(lambda: conv(True), adamw),
    "GRU, AdamW": Task(lambda: Recurrent(nn.GRU), adamw),
    "RNN, momentum": Task(lambda: Recurrent(nn.RNN), momentum),
}
HELD_OUT = {
    "mlp, plain SGD": Task(mlp, sgd),
    "mlp, momentum, batch 16": Task(mlp, momentum, 16),
    "mlp, momentum, batch 256": Task(mlp, momentum, 256),
    "mlp 256 wide, momentum": Task(lambda: mlp(width=256), momentum),
    "mlp 16 wide, AdamW": Task(lambda: mlp(width=16), adamw),
    "mlp, BN, AdamW, batch 16": Task(mlp_bn, adamw, 16),
    "mlp, RMSprop": Task(mlp, rmsprop),
    "conv, AdamW": Task(lambda: conv(False), adamw),
    "LSTM, momentum": Task(lambda: Recurrent(nn.LSTM), momentum),
    "LSTM, AdamW": Task(lambda: Recurrent(nn.LSTM), adamw),
    "autoencoder, AdamW": Task(lambda: mlp(classes=64), adamw, autoencoder=True),
}


def final_loss(task: Task, data: Data, seed: int, lr: float) -> float:
    """A training that ends above its first loss counts as one that did nothing."""
    model, optimizer, batches, loss_fn = task.start(data, seed)
    for group in optimizer.param_groups:
        group["lr"] = lr
    losses = []
    for x, y in batches:
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    end = fmean(losses[-STEPS // 10 :])
    return min(end, losses[0]) if math.isfinite(end) else losses[0]


def best_of_grid(task: Task, data: Data) -> tuple[float, list[float]]:
    """Up the grid until it gets clearly worse: the best lr, and its final loss for each seed."""
    grid = [digit * 10.0**power for power in range(-3, 2) for digit in (1, 2, 5)]
    found = []
    for lr in grid:
        found.append((lr, [final_loss(task, data, seed, lr) for seed in SEEDS]))
        best = min(found, key=lambda entry: fmean(entry[1]))
        if fmean(found[-1][1]) > 5 * fmean(best[1]) and found.index(best) > 0:
            break
    assert best is not found[0] and best is not found[-1], "the grid must reach past its best"
    return best


def averaged(losses: list[float], beta: float) -> list[float]:
    """fastai's and Lightning's smoothing, with its bias taken out."""
    value, smooth = 0.0, []
    for count, loss in enumerate(losses, start=1):
        value = beta * value + (1 - beta) * loss
        smooth.append(value / (1 - beta**count))
    return smooth


def until_above(losses: list[float], factor: float) -> list[float]:
    """The losses up to the first above `factor` times the lowest so far."""
    lowest = math.inf
    for i, loss in enumerate(losses):
        lowest = min(lowest, loss)
        if loss > factor * lowest:
            return losses[: i + 1]
    return losses


def slopes(losses: list[float], at: list[float]) -> list[float]:
    """Central differences, one-sided at the ends."""
    return torch.gradient(torch.tensor(losses).double(), spacing=(torch.tensor(at).double(),))[
        0
    ].tolist()


def torch_lr_finder(full: LRCurve) -> float | None:
    """Its moving average, stop, trimming and steepest point; on our losses."""
    smooth = full.losses[:1]
    for loss in full.losses[1:]:
        smooth.append(0.05 * loss + 0.95 * smooth[-1])
    smooth = until_above(smooth, 5)[10:-5]
    steepness = slopes(smooth, list(range(len(smooth))))
    return full.lrs[10 + steepness.index(min(steepness))]


def lightning(full: LRCurve) -> float | None:
    """Its suggestion (2.5.3 and later): steepest against the lr itself, not its logarithm."""
    smooth = until_above(averaged(full.losses, 0.98), 4)[10:-1]
    steepness = slopes(smooth, full.lrs[10 : 10 + len(smooth)])
    return full.lrs[10 + steepness.index(min(steepness))]


def fastai_valley(full: LRCurve) -> float | None:
    """Halfway down the longest falling subsequence, as if that had no gaps."""
    smooth = until_above(averaged(full.losses, 0.98), 4)[10:-5]
    lengths: list[int] = []
    for i, loss in enumerate(smooth):
        lengths.append(1 + max((lengths[j] for j in range(i) if smooth[j] > loss), default=0))
    end = lengths.index(max(lengths))
    third = max(lengths) / 3
    return full.lrs[10 + end - max(lengths) + int(third) + int(third / 2)]


def fastai_slide(full: LRCurve) -> float | None:
    """From the right, the first pair of slopes 15 rungs apart that are nearly equal."""
    smooth = until_above(averaged(full.losses, 0.98), 4)[10:-5]
    steepness = slopes(smooth, list(range(len(smooth))))
    left = len(smooth) - 16
    while left > 0 and abs(steepness[left + 15] - steepness[left]) > 0.005:
        left -= 1
    return full.lrs[10 + left]


PEERS = {
    "torch-lr-finder": torch_lr_finder,
    "Lightning": lightning,
    "fastai valley": fastai_valley,
    "fastai slide": fastai_slide,
}


def suggestions(task: Task, data: Data, seed: int, peers: bool) -> dict[str, float | None]:
    """What each method makes of one test; the peers see the losses to the top of the ladder."""
    model, optimizer, batches, loss_fn = task.start(data, seed)
    curve = lr_range_test(model, optimizer, batches, loss_fn)
    ours = {method: curve.suggest(method) for method in METHODS}
    if not peers:
        return ours
    full = lr_range_test(model, optimizer, batches, loss_fn, stop_factor=math.inf)
    return ours | {name: peer(full) for name, peer in PEERS.items()}


@dataclass(frozen=True)
class Outcome:
    regret: float
    none: int  # seeds without a suggestion, which are left out
    pairs: list[float]  # each seed's loss over that at the grid's best lr


def measure(task: Task, data: Data, peers: bool) -> tuple[float, float, dict[str, Outcome]]:
    """The grid's best lr and loss, and the outcome of each method."""
    best_lr, at_best = best_of_grid(task, data)
    suggested = [suggestions(task, data, seed, peers) for seed in SEEDS]
    outcomes = {}
    for method in suggested[0]:
        lrs = [row[method] for row in suggested]
        pairs = [
            (final_loss(task, data, seed, lr), best)
            for seed, lr, best in zip(SEEDS, lrs, at_best, strict=True)
            if lr is not None
        ]
        regret = sum(a for a, _ in pairs) / sum(b for _, b in pairs) if pairs else math.nan
        outcomes[method] = Outcome(regret, len(lrs) - len(pairs), [a / b for a, b in pairs])
    return best_lr, fmean(at_best), outcomes


def row(name: str, cells: list[str]) -> str:
    return f"{name:<26}" + "".join(f"{cell:>17}" for cell in cells)


def show(tasks: dict[str, Task], data: Data, peers: bool) -> dict[str, Outcome]:
    """Print a row a task; returns the outcomes of our method."""
    methods = [*METHODS, *PEERS] if peers else [*METHODS]
    print(row("regret (seeds without)", [*methods, "best lr", "its loss"]))
    measured = {}
    for name, task in tasks.items():
        best_lr, loss, measured[name] = measure(task, data, peers)
        cells = [
            f"{found.regret:.2f}" + (f" ({found.none})" if found.none else "")
            for found in (measured[name][method] for method in methods)
        ]
        print(row(name, [*cells, f"{best_lr:g}", f"{loss:.3f}"]), flush=True)
    columns = [[found[method].regret for found in measured.values()] for method in methods]
    columns = [[value for value in column if not math.isnan(value)] for column in columns]
    print(row("worst", [f"{max(column):.2f}" for column in columns]))
    means = [math.exp(fmean(map(math.log, column))) for column in columns]
    print(row("geometric mean", [f"{mean:.2f}" for mean in means]), flush=True)
    return {name: found[OURS] for name, found in measured.items()}


def main() -> bool:
    torch.set_num_threads(1)
    data = digits()
    print(f"{STEPS} steps, {len(SEEDS)} seeds, {data}")
    everything = "--all" in sys.argv[1:]
    ours = show(TASKS, data, everything)
    if everything:
        show(HELD_OUT, data, everything)
    ok = True
    for name, found in ours.items():
        spread = Spread(found.regret, min(found.pairs), max(found.pairs))
        ok &= report(f"regret of {OURS!r}, seeds' range beside it, {name}", spread, BOUND)
    return ok


if __name__ == "__main__":
    raise SystemExit(not main())
