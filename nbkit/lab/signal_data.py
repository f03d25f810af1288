"""Generate signals in one dimension: a second task that is as quick as the digits, and harder."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from nbkit.lab.data import Data

TRAIN, TEST, POINTS, SEED = 4000, 1000, 40, 0
# How much a signal is distorted, as the paper's default does it.
PADDING = (36, 60)  # the fewest and the most zeros around a template
SCALE = 0.2  # the template is multiplied by 1 - SCALE to 1 + SCALE
SHEAR = 0.1875  # the slope lifts one end of the signal by up to that much and lowers the other
SMOOTH_NOISE, WHITE_NOISE = 0.25, 0.02
BLUR = 2.0  # standard deviation of the Gaussian window that makes noise smooth, in points

# One template of 12 points for each class, in tenths. Half of them have sums near 60, the others
# near 0, so that the mean of a signal does not give its class away.
TEMPLATES = (
    (1, 3, 5, 7, 9, 10, 10, 9, 7, 5, 3, 1),  # a hill
    (0, 2, 5, 10, 5, 1, 1, 5, 10, 5, 2, 0),  # two peaks
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 5, 0),  # up slowly, down fast
    (0, 5, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1),  # up fast, down slowly
    (8, 8, 8, 2, 2, 8, 8, 2, 2, 8, 8, 8),  # a comb
    (3, 6, 9, 10, 8, 3, -3, -8, -10, -9, -6, -3),  # a wave, first up
    (-3, -6, -9, -10, -8, -3, 3, 8, 10, 9, 6, 3),  # a wave, first down
    (4, 9, 4, -4, -9, -4, 4, 9, 4, -4, -9, -4),  # two waves, first up
    (-4, -9, -4, 4, 9, 4, -4, -9, -4, 4, 9, 4),  # two waves, first down
    (-2, -5, -8, -4, 4, 10, 10, 4, -4, -8, -5, -2),  # a hill between two valleys
)


def signals(device: str | torch.device = "cpu") -> Data:
    """Generate 5,000 noisy signals of 40 points, each a distorted copy of one of ten templates.

    A template has 12 points. For each signal it is scaled, set at a random place in a stretch of
    36 to 60 zeros, tilted by a slope, disturbed by smooth and by white noise, and resampled to 40
    points. The label is an int64 from 0 to 9. There are 4,000 signals to train and 1,000 to test,
    with equally many of each class in both. Each call gives the same numbers.

    A template may stand anywhere, so no single point tells the class: a linear model learns little,
    an MLP more, and a network that is equivariant to shifts most.

    Source: Greydanus & Kobak 2020, "Scaling down deep learning": MNIST-1D, with its distortions and
    their default sizes. The templates are other ones and always whole, so its accuracies do not
    carry over.

    >>> signals()
    Data(4000 train and 1000 test samples, 40 torch.float32, on cpu)
    """
    kept = _generate_signals()
    # Copies, so that nobody changes the numbers of the next call.
    return Data(
        kept.x_train.clone().to(device),
        kept.y_train.clone().to(device),
        kept.x_test.clone().to(device),
        kept.y_test.clone().to(device),
    )


@cache
def _generate_signals() -> Data:
    """Generate all signals once for each process, in about half a second."""
    import numpy as np

    # numpy promises that this generator gives the same numbers in every version.
    random = np.random.RandomState(SEED)
    # Equally many of each class, in random order.
    train_labels = random.permutation(TRAIN) % len(TEMPLATES)
    test_labels = random.permutation(TEST) % len(TEMPLATES)
    labels = np.concatenate([train_labels, test_labels])
    offsets = np.arange(-8, 9)
    window = np.exp(-0.5 * (offsets / BLUR) ** 2)
    window /= window.sum()
    rows = []
    for label in labels:
        template = np.array(TEMPLATES[label]) / 10
        rows.append(_draw_signal(template, window, random))
    x = torch.tensor(np.array(rows), dtype=torch.float32)
    y = torch.tensor(labels, dtype=torch.int64)
    return Data(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:])


def _draw_signal(template: Any, window: Any, random: Any) -> Any:
    """Draw one distorted copy of a template: float64 of shape (POINTS,)."""
    import numpy as np

    # Whole numbers come from `uniform`: the legacy `randint` depends on the platform.
    fewest, most = PADDING
    padding = int(random.uniform(fewest, most + 1))
    start = int(random.uniform(0, padding + 1))
    length = padding + len(template)
    signal = np.zeros(length)
    signal[start : start + len(template)] = template * random.uniform(1 - SCALE, 1 + SCALE)
    # The slope turns the signal about its middle.
    signal += random.uniform(-SHEAR, SHEAR) * np.linspace(-1, 1, length)
    # A moving Gaussian average of white noise is smooth noise.
    noise = random.standard_normal(length + len(window) - 1)
    signal += SMOOTH_NOISE * np.convolve(noise, window, "valid")
    signal += WHITE_NOISE * random.standard_normal(length)
    # Linear interpolation, from the first point to the last.
    positions = np.linspace(0, length - 1, POINTS)
    return np.interp(positions, np.arange(length), signal)
