"""The lessons' networks."""

import pytest
import torch
from torch import nn

from nbkit.lab.models import mlp


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_mlp_has_as_many_hidden_layers_as_asked_for(depth):
    model = mlp(depth, width=5, inputs=7, classes=3)
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    sizes = [7] + [5] * depth + [3]
    assert [layer.in_features for layer in linear] == sizes[:-1]
    assert [layer.out_features for layer in linear] == sizes[1:]
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU] * depth + [nn.Linear]
    assert model(torch.ones(2, 7)).shape == (2, 3)


def test_the_same_seed_gives_the_same_mlp():
    torch.manual_seed(3)
    one = mlp()
    torch.manual_seed(3)
    two = mlp()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"width": 0}, {"inputs": 0}, {"classes": 0}])
def test_a_size_that_no_layer_can_have_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"depth must be at least 0, .*{name}={value}"):
        mlp(**wrong)
