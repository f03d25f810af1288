"""Trainings to tune: their losses are known in closed form, and what happens to them is recorded.

This module is imported by name in other processes, so `train_line` is a plain function.
"""

import random

import torch


class Recorder:
    """A `train` whose losses come from a function, and which notes what was done to it.

    `loss(config, seed, update)` gives the loss of an update, counted from 1. `made` counts the
    updates of each (config, seed) over all its generators; `open` holds the generators that have
    begun and not ended.
    """

    def __init__(self, loss, length=10_000):
        self.loss, self.length = loss, length
        self.made = {}
        self.started = []
        self.open = set()

    def __call__(self, config, seed):
        key = (config["k"], seed)
        number = len(self.started)
        self.started.append(key)
        self.open.add(number)
        try:
            for update in range(1, self.length + 1):
                self.made[key] = self.made.get(key, 0) + 1
                yield self.loss(config, seed, update)
        finally:
            self.open.remove(number)


def train_line(config, seed):
    """Fit a line by SGD, with its own generator: the same losses in every thread or process."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, generator=source)
    while True:
        x = torch.randn(16, 4, generator=source)
        error = x @ weight - x.sum(1)
        weight = weight - config["lr"] * 2 * x.T @ error / 16
        yield (error**2).mean()


def train_with_global_numbers(config, seed):
    """Add up random numbers of the generators that everybody shares."""
    total = torch.rand(()).item()
    while True:
        total += torch.rand(()).item() + random.random()
        yield config["lr"] + total


def train_with_torchs_numbers(config, seed):
    """Add up random numbers of torch's global generator: a dask worker itself uses `random`."""
    total = torch.rand(()).item()
    while True:
        total += torch.rand(()).item()
        yield config["lr"] + total


def train_badly(config, seed):
    """Fail at the third update of one configuration."""
    for update in range(100):
        if config["lr"] == 0.5 and update == 2:
            raise ArithmeticError("a planted fault")
        yield config["lr"]
