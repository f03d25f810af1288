"""What the lesson embeddings trains and measures: word sequences, and tables of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.initialization import initialize_
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.evidence.verdicts import Verdict, judge
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import train
from nbkit.lab.runs.tuned import tuned

BATCH = 32
ADAM_GRID = [1e-3 * 10 ** (k / 3) for k in range(7)]  # 0.001 to 0.1
SGD_GRID = [0.1 * 10 ** (k / 3) for k in range(7)]  # 0.1 to 10
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
PIXEL_STEPS = 75  # on the second task, which is learned in half the steps


def make_author_data(words: int = 200, length: int = 8, count: int = 2000) -> Data:
    """Make samples of ten made-up authors, each with favourite words: who wrote these eight?

    Args:
        words: size of the vocabulary.
        length: words in one sample.
        count: number of samples, a quarter of them for the test set.
    Returns:
        Data: word numbers (samples, length) and author numbers, the same at each call.
    """
    generator = torch.Generator().manual_seed(0)
    # Each author's probability of each word; 1.5 makes a few words frequent and most of them rare.
    habits = (1.5 * torch.randn(10, words, generator=generator)).softmax(1)
    # All authors have the same number of samples.
    y = torch.arange(count) % 10
    x = torch.multinomial(habits[y], length, replacement=True, generator=generator)
    train = count - count // 4
    return Data(x[:train], y[:train], x[train:], y[train:])


def read_pixels_as_words() -> Data:
    """Load the digits with each of their 64 grey levels as a word number from 0 to 16.

    >>> data = read_pixels_as_words()
    >>> int(data.x_train.min()), int(data.x_train.max())
    (0, 16)
    """
    raw = digits()
    x_train, x_test = ((16 * x).round().long() for x in (raw.x_train, raw.x_test))
    return Data(x_train, raw.y_train, x_test, raw.y_test)


def build_word_net(words: int, length: int, numbers: int) -> nn.Sequential:
    """Build a table of `numbers` numbers a word and, on top, a small network that names one of ten.

    Args:
        words: size of the vocabulary.
        length: words in one sample.
        numbers: numbers that stand for one word.
    """
    return nn.Sequential(
        nn.Embedding(words, numbers),
        nn.Flatten(),  # (samples, length, numbers) -> (samples, length * numbers)
        nn.Linear(numbers * length, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def make_word_net(data: Data) -> Callable[[], nn.Module]:
    """Return a function that builds the network for this data: 8 words, or 64 pixels."""
    words = int(data.x_train.max()) + 1
    length = data.x_train.shape[1]
    # 64 pixels at 4 numbers each make a first layer of twice the size of 8 words at 16.
    return partial(build_word_net, words, length, 16 if length < 16 else 4)


def set_spread(model: nn.Module, *, spread: float) -> None:
    """Draw the table of a network anew with mean zero and this standard deviation."""
    table = next(model.parameters())  # the first layer is the table
    nn.init.normal_(table, std=spread)


def set_xavier(model: nn.Module) -> None:
    """Draw the table of a network anew by Xavier's rule, as `initialize_` does."""
    table = next(model.children())  # the first layer is the table
    initialize_(table, "xavier_uniform")


def compare_tables(
    data: Data,
    seeds: Sequence[int],
    *,
    steps: int,
    optimizer: str = "adam",
    grid: Sequence[float] = ADAM_GRID,
) -> Interval:
    """Measure the training loss with a Xavier table / with PyTorch's, each at its best lr."""
    common: dict[str, Any] = {"optimizer": optimizer}
    arms = {"xavier": {**common, "init": set_xavier}, "PyTorch": common}
    options: dict[str, Any] = {"steps": steps, "batch_size": BATCH}
    found = tuned(make_word_net(data), data, arms, grid, TUNING, **options)
    return _compare_losses(data, found.arms, seeds, **options)


def _compare_losses(data: Data, arms: Any, seeds: Sequence[int], **options: Any) -> Interval:
    """Measure the loss on the whole training set, first arm / second arm, pair by pair."""
    *_, runs = train_runs(make_word_net(data), data, arms, seeds, **options)
    return paired_ratio(*runs.evaluate(data.x_train, data.y_train)[0].tolist())


def judge_spread_cells(
    claim: Claim, data: Data, seeds: Sequence[int], lrs: Iterable[float], spreads: Sequence[float]
) -> dict[tuple[float, float], Verdict]:
    """Judge a table of each spread against PyTorch's, both at the same lr of Adam."""
    arms: dict[str, Any] = {}
    pairs = [(lr, spread) for lr in lrs for spread in spreads]
    for lr, spread in pairs:
        adam = {"lr": lr, "optimizer": "adam"}
        arms[f"PyTorch, lr {lr}"] = adam
        arms[f"{spread}, lr {lr}"] = {**adam, "init": partial(set_spread, spread=spread)}
    # One call for all cells: many runs at once cost little more than a few.
    *_, runs = train_runs(make_word_net(data), data, arms, seeds, steps=150, batch_size=BATCH)
    losses = runs.evaluate(data.x_train, data.y_train)[0].tolist()
    by_arm = dict(zip(runs.arms, losses, strict=True))
    cells = {}
    for lr, spread in pairs:
        ratio = paired_ratio(by_arm[f"{spread}, lr {lr}"], by_arm[f"PyTorch, lr {lr}"])
        cells[lr, spread] = judge(claim, ratio)
    return cells


def train_table(data: Data, *, spread: float, lr: float = 0.01, steps: int = 150) -> list[float]:
    """Train one network with a table of this spread by Adam, and return the loss of each step."""
    torch.manual_seed(0)
    model = make_word_net(data)()
    set_spread(model, spread=spread)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batches = data.batches(BATCH, seed=0, steps=steps)
    return [step.loss.item() for step in train(model, batches, optimizer, cross_entropy)]


def describe_table_end(losses: Sequence[float]) -> str:
    """Say how a training ended, by its last losses beside that of guessing."""
    last = sum(losses[-10:]) / len(losses[-10:])
    if not last < 1.1 * math.log(10):  # NaN counts as worse
        return "worse than guessing"
    return "learned" if last < 0.5 * math.log(10) else "little better than guessing"


def measure_turns(
    data: Data, spreads: Sequence[float], *, lr: float = 0.01, steps: int = 150
) -> dict[float, Tensor]:
    """Measure how far each word's row has turned in a training, by the spread of the table.

    Returns:
        for each spread (words,) the angle in degrees between a row at the start and at the end.
    """
    turns = {}
    for spread in spreads:
        torch.manual_seed(0)
        model = make_word_net(data)()
        set_spread(model, spread=spread)
        table = next(model.parameters())
        before = table.detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in train(model, data.batches(BATCH, seed=0, steps=steps), optimizer, cross_entropy):
            pass
        cosines = torch.cosine_similarity(before, table.detach(), dim=1)
        turns[spread] = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
    return turns


# ---- the bug hunt: three ways to give a new table a spread of a tenth ----


def draw_by_name(weight: Tensor) -> None:
    """Draw anew, with the standard deviation by its name."""
    nn.init.normal_(weight, std=0.1)


def shrink_default(weight: Tensor) -> None:
    """Shrink PyTorch's table, whose spread is one."""
    weight.detach().mul_(0.1)


def draw_by_place(weight: Tensor) -> None:
    """Hand 0.1 over as the second argument, which is the mean: the mistake of the bug hunt."""
    nn.init.normal_(weight, 0.1)


SHRINKERS = {"a": draw_by_name, "b": shrink_default, "c": draw_by_place}
