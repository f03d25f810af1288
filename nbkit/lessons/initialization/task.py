"""What the lesson initialization trains: centred digits, word sequences, two networks, inits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.initialization import InitReport, init_report, initialize_
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.comparisons import first_step
from nbkit.lab.models import mlp

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def load_centred_digits() -> Data:
    """Load the digits, subtract the mean of each pixel and scale all pixels to a spread of one.

    The formulas of the lesson assume an input of that size. Mean and spread come from the training
    set alone; the test set is changed by the same numbers.

    >>> data = load_centred_digits()
    >>> round(float(data.x_train.std()), 2), abs(float(data.x_train.mean())) < 1e-5
    (1.0, True)
    """
    raw = digits()
    mean = raw.x_train.mean(0)  # (pixels,)
    # One spread for all pixels: a pixel that is always black has none to divide by.
    spread = (raw.x_train - mean).std()
    x_train, x_test = ((x - mean) / spread for x in (raw.x_train, raw.x_test))
    return Data(x_train, raw.y_train, x_test, raw.y_test)


def make_author_data(words: int = 200, length: int = 8, count: int = 2000) -> Data:
    """Make samples of ten authors, each with favourite words: who wrote these eight?

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


def build_deep_net(depth: int, activation: str = "relu", width: int = 64) -> nn.Sequential:
    """Build the lesson's network: `depth` hidden layers; its Linear layers are `model[::2]`.

    Raises:
        KeyError: if the activation is not one of ACTIVATIONS.

    >>> build_deep_net(1, "tanh")[1]
    Tanh()
    """
    make_activation = ACTIVATIONS[activation]
    # `mlp` alternates Linear and ReLU; only the activations are exchanged.
    layers = [
        make_activation() if isinstance(layer, nn.ReLU) else layer for layer in mlp(depth, width)
    ]
    return nn.Sequential(*layers)


def build_author_net(words: int = 200, length: int = 8) -> nn.Sequential:
    """Build an embedding of 16 numbers a word and, on top, a small network that names the author.

    Args:
        words: size of the vocabulary.
        length: words in one sample.
    """
    return nn.Sequential(
        nn.Embedding(words, 16),
        nn.Flatten(),  # (samples, length, 16) -> (samples, length * 16)
        nn.Linear(16 * length, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


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


def count_steps_below(losses: Tensor, target: float, *, window: int) -> list[list[float]]:
    """Count the steps until the mean loss of the last `window` steps is below the target.

    Args:
        losses: (arms, seeds, steps).
        target: loss to get below.
        window: steps in a mean.
    Returns:
        for each arm one number of steps for each seed; a run that never arrives counts as all of
        its steps.

    >>> count_steps_below(torch.tensor([[[3.0, 2.0, 1.0, 1.0]]]), 1.2, window=2)
    [[4.0]]
    """
    total = losses.shape[-1]
    steps = range(window, total + 1)  # the step at which each mean is complete
    below = losses.unfold(-1, window, 1).mean(-1) < target
    counts = []
    for arm in below.tolist():
        # False and True count as 0 and 1, so `first_step` finds the first True.
        counts.append([min(first_step(seed, steps, at_least=1), float(total)) for seed in arm])
    return counts
