"""What lesson `clipping` trains: the adding problem, a recurrent network, a small transformer."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbkit.clipping import clip_gradients_
from nbkit.lab.data import Data, digits

if TYPE_CHECKING:
    pass

SAMPLES, TEST_SAMPLES, SEED = 2000, 500, 7


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
    starts at zero.

    Source: Le, Jaitly & Hinton 2015, A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        # The bias is the weight of the third input, so that all weights are two matrices.
        self.rnn = rnn = nn.RNN(3, units, nonlinearity="relu", bias=False, batch_first=True)
        nn.init.eye_(cast(Tensor, rnn.weight_hh_l0))
        nn.init.zeros_(cast(Tensor, rnn.weight_ih_l0)[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, 3) -> the last state, (batch, units)."""
        states: Tensor = self.rnn(x)[0]
        return states[:, -1]


def build_adder(units: int = 16) -> nn.Sequential:
    """Build the network for the adding problem: a memory, then a Linear with two answers."""
    return nn.Sequential(ReLUMemory(units), nn.Linear(units, 2))


def load_patches() -> Data:
    """Load the digits as sequences: 16 patches of 4 pixels, row by row."""
    whole = digits()
    # (images, 64) -> (images, 16 patches, 4 pixels).
    x_train, x_test = (x.unflatten(1, (16, 4)) for x in (whole.x_train, whole.x_test))
    return Data(x_train, whole.y_train, x_test, whole.y_test)


class Transformer(nn.Module):
    """A vision transformer of one block, 16 wide: patches, places, attention, mean, ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        # Attention knows no order: a learned vector says where in the image a patch is.
        self.place = nn.Parameter(0.5 * torch.randn(16, 16))
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16, 4) -> logits (batch, 10)."""
        # The mean over the patches is the summary that the head reads.
        logits: Tensor = self.head(self.norm(self.block(self.embed(x) + self.place)).mean(1))
        return logits


def find_steepest_step(
    data: Data, *, lr: float, momentum: float, max_norm: float, batch_size: int, steps: int = 150
) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Train with clipping; return model, batch and norm at the longest gradient."""
    torch.manual_seed(0)
    model, longest = build_adder(), 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for x, y in data.batches(batch_size, seed=0, steps=steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        # The report has the norm from before the clip.
        norm = clip_gradients_(model, max_norm=max_norm).total_norm
        if norm > longest:
            # A copy: the step below changes the weights.
            longest, moment = norm, (copy.deepcopy(model), x, y)
        optimizer.step()
    return *moment, longest


def find_lost_runs(losses: Tensor, classes: int) -> Tensor:
    """Find the runs that end no better than guessing: not 5 % below log(classes), or not finite.

    >>> find_lost_runs(torch.tensor([0.4, 0.69, math.inf]), classes=2)
    tensor([False,  True,  True])
    """
    # Written with a negation, so that NaN counts as lost.
    return ~(losses < 0.95 * math.log(classes))


def trace_back_in_time(model: nn.Sequential, x: Tensor, y: Tensor) -> list[float]:
    """Compute the norm of the loss's gradient with respect to the state at each time, in order.

    dL/dh_t = dL/dh_T * product over s = t+1 ... T of diag(h_s > 0) W
    """
    memory: Any = model[0].rnn
    # U x_t for all times at once: (batch, length, units).
    inputs = x @ memory.weight_ih_l0.mT
    state = x.new_zeros(len(x), memory.hidden_size)
    states = []
    for time in range(x.shape[1]):
        # h_t = relu(U x_t + W h_{t-1}); autograd keeps each state.
        state = torch.relu(inputs[:, time] + state @ memory.weight_hh_l0.mT)
        states.append(state)
    # dL/dh_t for every t in one backward pass.
    gradients = torch.autograd.grad(cross_entropy(model[1](state), y), states)
    return [float(gradient.norm()) for gradient in gradients]


def measure_downhill(
    model: nn.Module, x: Tensor, y: Tensor, distances: Sequence[float]
) -> list[float]:
    """Measure the loss at these distances from the weights, straight down the gradient.

        loss(w - distance * g / |g|)

    The model is not changed.
    """
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(weights.values()))
    # |g| over all parameters together.
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    ways = dict(zip(weights, gradients, strict=True))
    losses = []
    with torch.no_grad():
        for distance in distances:
            # w - distance * g / |g|
            moved = {name: w - distance / norm * ways[name] for name, w in weights.items()}
            losses.append(float(cross_entropy(functional_call(model, moved, (x,)), y)))
    return losses
