"""Stacked models do what each model does to its own run, or are refused by name."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbkit.lab.stacking import ELEMENTWISE, stack


def test_each_run_goes_through_its_own_weights():
    models = [
        nn.Sequential(
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
            nn.Linear(5, 3, bias=False),
        )
        for _ in range(4)
    ]
    x = torch.randn(4, 7, 2, 3)
    expected = torch.stack([model(some) for model, some in zip(models, x, strict=True)])
    torch.testing.assert_close(stack(models)(x), expected)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    runs=st.integers(1, 4),
    batch=st.integers(1, 5),
    kind=st.sampled_from(ELEMENTWISE),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_random_models_and_their_gradients_agree(sizes, runs, batch, kind, bias):
    def make():
        layers = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=bias), kind()]
        return nn.Sequential(*layers).double()

    models = [make() for _ in range(runs)]
    stacked = stack(models)
    x = torch.randn(runs, batch, sizes[0], dtype=torch.float64)
    together = stacked(x)
    apart = torch.stack([model(some) for model, some in zip(models, x, strict=True)])
    torch.testing.assert_close(together, apart)
    together.square().sum().backward()
    apart.square().sum().backward()
    for number, weight in enumerate(stacked.parameters()):
        theirs = [list(model.parameters())[number].grad for model in models]
        theirs = [grad.mT if grad.ndim == 2 else grad[None] for grad in theirs]
        torch.testing.assert_close(weight.grad, torch.stack(theirs))


@pytest.mark.parametrize("dims", [(1, -1), (2, 3), (-2, -1)])
def test_flatten_keeps_its_dimensions(dims):
    x = torch.randn(3, 2, 4, 5, 6)
    expected = torch.stack([nn.Flatten(*dims)(some) for some in x])
    assert torch.equal(stack([nn.Flatten(*dims)] * 3)(x), expected)


@pytest.mark.parametrize("kind", [nn.LeakyReLU(0.5), nn.ELU(2.0), nn.GELU("tanh")], ids=str)
def test_an_activation_keeps_its_options(kind):
    x = torch.randn(3, 4, 5)
    assert torch.equal(stack([kind] * 3)(x), kind(x))


def test_weights_are_copied_and_frozen_ones_stay_frozen():
    models = [nn.Linear(2, 2) for _ in range(3)]
    for model in models:
        model.bias.requires_grad_(False)
    stacked = stack(models)
    assert [p.requires_grad for p in stacked.parameters()] == [True, False]
    with torch.no_grad():
        stacked.weight.zero_()
    assert all(model.weight.abs().sum() > 0 for model in models)


class Special(nn.Linear):
    pass


class Net(nn.Module):
    pass


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 1), nn.Dropout(), Special(1, 1), Net()])
def test_another_layer_is_refused_by_name_with_the_way_out(layer):
    with pytest.raises(ValueError) as error:
        stack([nn.Sequential(nn.Linear(1, 1), layer)] * 2)
    message = str(error.value)
    assert f"cannot batch a layer of type {type(layer).__name__};" in message
    assert "it batches Sequential, Linear, Flatten, ReLU" in message
    assert "Pass vectorize=False" in message


def test_hooks_and_shared_weights_are_refused():
    hooked = nn.Linear(1, 1)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="cannot batch a Linear with hooks"):
        stack([hooked])
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="cannot batch parameters that two layers share"):
        stack([tied])
    twice = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="cannot batch parameters that two layers share"):
        stack([nn.Sequential(twice, twice)])
