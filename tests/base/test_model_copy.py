"""Copies of models that keep results of their forward pass."""

import copy
import threading

import pytest
import torch
from torch import nn

from nbkit.base.model_copy import copy_model


class Keeps(nn.Linear):
    def forward(self, x):
        self.kept = {"out": [super().forward(x)]}
        self.again = self.kept["out"][0]
        return self.again


def used():
    model = Keeps(2, 2)
    model(torch.ones(1, 2))
    return model


def test_a_kept_result_is_copied_as_a_value():
    model = used()
    other = copy_model(model)
    assert torch.equal(other.again, model.again) and other.again is not model.again
    assert other.kept["out"][0] is other.again  # one tensor stays one
    assert not other.again.requires_grad
    other(torch.ones(1, 2)).sum().backward()
    assert other.weight.grad is not None and model.weight.grad is None


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_weight_that_is_computed_is_copied():
    model = torch.nn.utils.weight_norm(nn.Linear(2, 2))
    other = copy_model(model)
    x = torch.ones(1, 2)
    assert torch.equal(other(x), model(x))


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    other = copy_model(model)
    assert other[1].weight is other[0].weight is not model[0].weight


def test_elsewhere_torch_still_refuses():
    copy_model(used())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(used())


def test_what_cannot_be_copied_is_named():
    model = nn.Linear(1, 1)
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match="but Linear holds something .* lock"):
        copy_model(model)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(used())
