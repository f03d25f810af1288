"""The two tasks of lesson `clipping`: a recurrent network, and a small transformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nbkit.lab.data import Data, digits

SAMPLES, TEST_SAMPLES, SEED = 2000, 500, 7
UNITS = 16  # of the recurrent network


# ---- a recurrent network on the adding problem ----


def make_adding_problem(length: int) -> Data:
    """Make the adding problem: is the sum of the two marked numbers above zero?

    A sample is (length, 3): at each time a number from -1 to 1, a marker, and a 1 that stands for
    the bias. The marker is 1 twice, once in each half, and 0 elsewhere.

    Raises:
        ValueError: if length is less than 2.

    Source: Hochreiter & Schmidhuber 1997, Long Short-Term Memory, where the answer is the sum.

    >>> make_adding_problem(5)
    Data(2000 train and 500 test samples, 5x3 torch.float32, on cpu)
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, one number in each half, got {length}.")
    generator = torch.Generator().manual_seed(SEED)
    count, half = SAMPLES + TEST_SAMPLES, length // 2
    # Uniform between -1 and 1; the sum of two of them is as often above zero as below.
    numbers = 2 * torch.rand(count, length, generator=generator) - 1
    # One marker in each half, so that the first one has to be remembered for long.
    early = torch.randint(half, (count,), generator=generator)
    late = half + torch.randint(length - half, (count,), generator=generator)
    markers = torch.zeros(count, length)
    markers[torch.arange(count), early] = 1
    markers[torch.arange(count), late] = 1
    # (samples, length, 3): number, marker, and the constant input of the bias.
    x = torch.stack([numbers, markers, torch.ones_like(numbers)], dim=-1)
    y = ((numbers * markers).sum(1) > 0).long()
    return Data(x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:])


class ReLUMemory(nn.Module):
    """A recurrent layer of ReLU units that starts by remembering: h_t = relu(W h_{t-1} + U x_t).

    W starts as the identity, so that what is in h stays in h; the bias (the last column of U)
    starts at zero. It is a loop of plain products, which trains faster in a stack of many networks
    than nn.RNN does there.

    Source: Le, Jaitly & Hinton 2015, A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        # U as torch.nn.RNN draws it: uniform within 1 / sqrt(units).
        bound = 1 / math.sqrt(units)
        self.inputs = nn.Parameter(torch.empty(units, 3).uniform_(-bound, bound))
        self.memory = nn.Parameter(torch.eye(units))
        with torch.no_grad():
            self.inputs[:, -1] = 0

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, 3) -> the last state, (batch, units)."""
        # U x_t of all times in one product; only W h_{t-1} needs the loop.
        first, *others = (x @ self.inputs.mT).unbind(1)
        state = torch.relu(first)
        for now in others:
            state = torch.relu(now + state @ self.memory.mT)
        return state


def build_adder(units: int = UNITS) -> nn.Sequential:
    """Build the network for the adding problem: a memory, then a Linear with two answers."""
    return nn.Sequential(ReLUMemory(units), nn.Linear(units, 2))


def count_firing_units(model: nn.Sequential, x: Tensor) -> int:
    """Count the units of the memory that are above zero after at least one of these sequences.

    A unit that is zero after every sequence passes no gradient on, so that it cannot come back.
    """
    with torch.no_grad():
        state = model[0](x)
    return int((state > 0).any(0).sum())


# ---- a small transformer on the digits ----


def load_rows() -> Data:
    """Load the digits as sequences: 8 rows of 8 pixels."""
    whole = digits()
    # (images, 64) -> (images, 8 rows, 8 pixels).
    x_train, x_test = (x.unflatten(1, (8, 8)) for x in (whole.x_train, whole.x_test))
    return Data(x_train, whole.y_train, x_test, whole.y_test)


class Transformer(nn.Module):
    """A transformer of one block, 16 wide, that reads a digit row by row: ten answers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        # Attention knows no order: a learned vector says which row it is.
        self.place = nn.Parameter(0.5 * torch.randn(8, 16))
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8, 8) -> logits (batch, 10)."""
        # Attention as plain products: in a stack, torch's fused kernel would loop over the runs.
        with sdpa_kernel(SDPBackend.MATH):
            states = self.block(self.embed(x) + self.place)
        # The mean over the rows is the summary that the head reads.
        logits: Tensor = self.head(self.norm(states).mean(1))
        return logits
