"""What the lesson initialization trains and measures: deep networks from different starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.initialization import InitReport, init_report, initialize_
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.proportions import proportion_difference
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import train
from nbkit.lab.runs.tuned import tuned

WIDTH, BATCH, STEPS = 32, 32, 100
LRS = [10 ** (-k / 3) for k in range(12, 5, -1)]  # of Adam, 1e-4 to 0.01, three to the decade
SGD_LRS = [10 ** (-k / 2) for k in range(8, 1, -1)]  # 1e-4 to 0.1, two to the decade
TUNING = range(100, 103)  # seeds that choose an lr; no claim is decided on them

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def load_centred_digits() -> Data:
    """Load the digits, subtract the mean of each pixel and scale all pixels to a spread of one.

    >>> data = load_centred_digits()
    >>> round(float(data.x_train.std()), 2), abs(float(data.x_train.mean())) < 1e-5
    (1.0, True)
    """
    return centre_inputs(digits())


def centre_inputs(raw: Data) -> Data:
    """Subtract the mean of each input and scale all of them to a spread of one.

    The formulas of the lesson assume an input of that size. Mean and spread come from the training
    set alone; the test set is changed by the same numbers.
    """
    mean = raw.x_train.mean(0)  # (inputs,)
    # One spread for all inputs: a pixel that is always black has none to divide by.
    spread = (raw.x_train - mean).std()
    x_train, x_test = (raw.x_train - mean) / spread, (raw.x_test - mean) / spread
    return Data(x_train, raw.y_train, x_test, raw.y_test)


def build_deep_net(
    depth: int, activation: str = "relu", width: int = WIDTH, inputs: int = 64
) -> nn.Sequential:
    """Build the lesson's network: `depth` hidden layers; its Linear layers are `model[::2]`.

    Raises:
        KeyError: if the activation is not one of ACTIVATIONS.

    >>> build_deep_net(1, "tanh")[1]
    Tanh()
    """
    make_activation = ACTIVATIONS[activation]
    # `mlp` alternates Linear and ReLU; only the activations are exchanged.
    layers = []
    for layer in mlp(depth, width, inputs):
        layers.append(make_activation() if isinstance(layer, nn.ReLU) else layer)
    return nn.Sequential(*layers)


def make_scaled_init(scheme: str, gain: float, activation: str) -> Callable[[nn.Module], None]:
    """Make an init for `train_runs`: the scheme for this activation, all weights times `gain`."""

    def init_scaled(model: nn.Module) -> None:
        initialize_(model, scheme, nonlinearity=activation)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                # Weights only: the scheme has set the biases to zero.
                layer.weight.detach().mul_(gain)

    return init_scaled


def report_init(
    make: Callable[[], nn.Module],
    init: Callable[[nn.Module], object],
    look: tuple[Tensor, Tensor],
) -> InitReport:
    """Build a network with torch's seed 0, initialise it, and report on it with one batch.

    Args:
        make: builds the network; equal networks get equal weights from PyTorch.
        init: changes the weights in place.
        look: the batch, inputs and labels.
    """
    # Before both: the init draws from the same generator as the network.
    torch.manual_seed(0)
    model = make()
    init(model)
    return init_report(model, look, cross_entropy)


# ---- the three claims ----


def compare_starts(
    data: Data,
    seeds: Sequence[int],
    *,
    depth: int,
    width: int = WIDTH,
    lrs: Sequence[float] = LRS,
) -> Interval:
    """Measure Kaiming's loss / Xavier's on the training set, each at its best lr of the grid."""
    make = partial(build_deep_net, depth, width=width, inputs=data.x_train.shape[1])
    arms = {
        "Kaiming": {"optimizer": "adam", "init": "kaiming_normal"},
        "Xavier": {"optimizer": "adam", "init": "xavier_normal"},
    }
    chosen = tuned(make, data, arms, lrs, TUNING, steps=STEPS, batch_size=BATCH)
    *_, runs = train_runs(make, data, chosen.arms, seeds, steps=STEPS, batch_size=BATCH)
    return paired_ratio(*runs.evaluate(data.x_train, data.y_train)[0].tolist())


def compare_first_gradients(
    data: Data, seeds: Sequence[int], *, depth: int, factor: float
) -> Interval:
    """Measure the first gradient's norm, with weights `factor` times Kaiming's / Kaiming's."""
    look = data.x_train[:256], data.y_train[:256]
    norms: dict[float, list[float]] = {factor: [], 1.0: []}
    for seed in seeds:
        for scale, found in norms.items():
            torch.manual_seed(seed)
            model = build_deep_net(depth, inputs=data.x_train.shape[1])
            initialize_(model, "kaiming_normal", gain=scale * math.sqrt(2))
            loss = cross_entropy(model(look[0]), look[1])
            found.append(torch.autograd.grad(loss, list(model[0].parameters()))[0].norm().item())
    return paired_ratio(norms[factor], norms[1.0])


def compare_explosions(data: Data, seeds: Sequence[int], *, depth: int, factor: float) -> Interval:
    """Measure the share of seeds lost at every lr, `factor` times Kaiming's gain - Kaiming's."""
    make = partial(build_deep_net, depth, inputs=data.x_train.shape[1])
    arms: dict[str, dict[str, Any]] = {}
    for scale in (factor, 1.0):
        for lr in SGD_LRS:
            start = {"init": "kaiming_normal", "gain": scale * math.sqrt(2)}
            arms[f"{scale} {lr:.2g}"] = {"lr": lr, "momentum": 0.9, **start}
    *_, runs = train_runs(make, data, arms, seeds, steps=40, batch_size=BATCH)
    # (scales, lrs, seeds): a seed is lost only if it is lost at all lrs.
    lost = runs.diverged.view(2, len(SGD_LRS), len(seeds)).all(1).sum(1).tolist()
    return proportion_difference(lost[0], len(seeds), lost[1], len(seeds))


# ---- what a start does to one network ----


def train_default(depth: int, data: Data, *, width: int = WIDTH) -> list[float]:
    """Train a network with PyTorch's own start for 100 steps of Adam; return each step's loss."""
    torch.manual_seed(0)
    model = build_deep_net(depth, width=width)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    losses = []
    for step in train(model, data.batches(BATCH, seed=0, steps=100), optimizer, cross_entropy):
        losses.append(step.loss.item())
    return losses


def measure_factor(gain: float, activation: str, look: tuple[Tensor, Tensor]) -> float:
    """Measure the factor by which a layer of a wide network of 20 layers multiplies the signal."""
    make = partial(build_deep_net, 20, activation, width=128)
    init = partial(initialize_, scheme="kaiming_normal", gain=gain)
    layers = report_init(make, init, look).layers[:-1]
    return float((layers[-1].forward_rms / layers[0].forward_rms) ** (1 / (len(layers) - 1)))


def compare_spreads(mine: nn.Sequential, theirs: nn.Sequential) -> float:
    """Find the largest factor between the weights' standard deviations, over the Linear layers."""
    largest = 1.0
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(a, nn.Linear) and isinstance(b, nn.Linear):
            ratio = float(a.weight.detach().std() / b.weight.detach().std())
            largest = max(largest, ratio, 1 / ratio)
    return largest


# ---- the bug hunt: three ways to fill a Linear layer ----


def fill_kaiming(weight: Tensor) -> None:
    """Call torch's kaiming_normal_ with its default, leaky_relu of slope 0."""
    nn.init.kaiming_normal_(weight)


def fill_default(weight: Tensor) -> None:
    """Fill a weight as nn.Linear does: the mistake of the bug hunt."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def fill_xavier(weight: Tensor) -> None:
    """Call torch's xavier_uniform_ with Kaiming's gain."""
    nn.init.xavier_uniform_(weight, gain=1.41)


FILLERS = {"a": fill_kaiming, "b": fill_default, "c": fill_xavier}


def send_through(fill: Callable[[Tensor], None], signal: Tensor, *, depth: int = 20) -> float:
    """Send a signal through `depth` ReLU layers of 64 units; return its root mean square."""
    torch.manual_seed(0)
    for _ in range(depth):
        weight = torch.empty(64, 64)
        fill(weight)
        signal = torch.relu(signal @ weight.T)
    return float(signal.square().mean().sqrt())
