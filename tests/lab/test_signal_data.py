"""The signals: generated as described, always the same, and worth learning."""

import math

import numpy as np
import pytest
import torch

from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.signal_data import TEMPLATES, signals


def average_smoothly(noise):
    """A moving Gaussian average (standard deviation 2 points, 17 points wide)."""
    weights = [math.exp(-(distance**2) / 8) for distance in range(-8, 9)]
    smooth = []
    for first in range(len(noise) - 16):
        products = [weight * value for weight, value in zip(weights, noise[first:], strict=False)]
        smooth.append(sum(products) / sum(weights))
    return smooth


def draw_plainly(template, random):
    """One signal in plain Python, from the same random numbers in the same order."""
    padding = 36 + math.floor(25 * random.random_sample())
    start = math.floor((padding + 1) * random.random_sample())
    scale = 0.8 + 0.4 * random.random_sample()
    slope = 0.1875 * (2 * random.random_sample() - 1)
    length = 12 + padding
    smooth = average_smoothly(random.standard_normal(length + 16).tolist())
    white = random.standard_normal(length).tolist()
    long = []
    for point in range(length):
        inside = start <= point < start + 12
        value = scale * template[point - start] / 10 if inside else 0.0
        value += slope * (2 * point / (length - 1) - 1)
        long.append(value + 0.25 * smooth[point] + 0.02 * white[point])
    short = []
    for point in range(40):
        place = point * (length - 1) / 39
        left = min(math.floor(place), length - 2)
        share = place - left
        short.append((1 - share) * long[left] + share * long[left + 1])
    return short


def test_the_signals_are_those_of_the_recipe_in_plain_python():
    random = np.random.RandomState(0)
    labels = [*(random.permutation(4000) % 10), *(random.permutation(1000) % 10)]
    data = signals()
    assert data.y_train.tolist() == labels[:4000] and data.y_test.tolist() == labels[4000:]
    for row in range(200):
        expected = draw_plainly(TEMPLATES[labels[row]], random)
        found = data.x_train[row].tolist()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_shapes_types_and_equally_many_of_each_class():
    data = signals()
    assert data.x_train.shape == (4000, 40) and data.x_test.shape == (1000, 40)
    assert data.x_train.dtype == torch.float32 and data.y_train.dtype == torch.int64
    assert data.y_train.bincount().tolist() == [400] * 10
    assert data.y_test.bincount().tolist() == [100] * 10
    assert data.x_train.isfinite().all() and data.x_test.isfinite().all()


def test_no_signal_is_in_both_sets():
    data = signals()
    assert len(torch.cat([data.x_train, data.x_test]).unique(dim=0)) == 5000


def find_matches(x, template):
    """How well a template of 12 points fits a signal, at each place and at each of some widths."""
    fits = []
    for width in range(6, 11):  # 12 of 48 to 72 points are 7 to 10 of 40
        short = np.interp(np.linspace(0, 11, width), np.arange(12), template)
        windows = x.unfold(1, width, 1)
        short = torch.tensor(short, dtype=torch.float32)
        fits.append(torch.nn.functional.pad(windows @ short / short.norm(), (0, width)))
    return torch.stack([fit[:, :30] for fit in fits])


@pytest.mark.parametrize("label", range(10))
def test_a_signal_holds_its_template_at_a_place_that_varies(label):
    data = signals()
    x = data.x_train[data.y_train == label]
    fits = find_matches(x, TEMPLATES[label]).amax(0)  # (signals, places)
    places = fits.argmax(1)
    # The template starts at any of 40 - 7 to 40 - 10 places, so each tenth of them is used.
    assert places.float().std() > 7
    assert places.min() <= 2 and places.max() >= 27
    # Elsewhere there is noise only: the fit at the best place stands far above the median one.
    assert (fits.amax(1) > 2 * fits.abs().median(1).values).float().mean() > 0.9


def test_each_call_gives_the_same_numbers_which_nobody_can_change():
    first, kept = signals(), signals().x_train.clone()
    first.x_train.zero_()
    first.y_test.zero_()
    assert torch.equal(signals().x_train, kept)
    assert signals().y_test.bincount().tolist() == [100] * 10


def test_the_global_random_states_are_neither_read_nor_moved():
    from nbkit.lab.signal_data import _generate_signals

    torch.manual_seed(5)
    np.random.seed(5)
    numbers = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    _generate_signals.cache_clear()
    assert torch.equal(signals().x_train[0], signals().x_train[0])
    assert (torch.rand(1), np.random.rand()) == numbers


def test_an_mlp_learns_them_and_a_linear_model_does_worse():
    arms = {
        "linear": {"lr": 0.1, "model": lambda: mlp(depth=0, inputs=40)},
        "mlp": {"lr": 0.1, "model": lambda: mlp(depth=2, inputs=40)},
    }
    *_, runs = train_runs(
        lambda: mlp(inputs=40),
        signals(),
        {name: {**arm, "momentum": 0.9} for name, arm in arms.items()},
        range(3),
        steps=400,
        batch_size=64,
    )
    _, accuracy = runs.evaluate(signals().x_test, signals().y_test)
    linear, deep = accuracy
    # Chance is 0.1.
    assert deep.min() > 0.4
    assert deep.min() > linear.max() + 0.1


def test_the_lab_exports_it():
    import nbkit.lab

    # The name stays that of the function after its module has been loaded.
    assert nbkit.lab.signals is signals
