"""A small classifier and its data, for the tests of micro-batches and their equivalence."""

import torch
from torch import nn

IGNORED = -100


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def data(n, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 5, dtype=dtype, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def by_label(batch):
    """How many terms cross-entropy averages over."""
    return (batch[1] != IGNORED).sum()
