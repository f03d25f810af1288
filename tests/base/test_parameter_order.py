"""Layers in the order in which they run, and the head among them."""

import pytest
import torch
from torch import nn

from nbkit import digest
from nbkit.base.parameter_kinds import list_roles
from nbkit.base.parameter_order import find_head, find_places_of_use, order_depths
from tests.support.small_models import CASES, make_case


def depths(model, batch=None):
    """The layers of each depth, as sets of the names' first parts."""
    roles = list_roles(model)
    ordered = order_depths(model, roles, find_places_of_use(model, roles, batch))
    return [{".".join(role.name.split(".")[:-1][:2]) for role in unit} for unit in ordered]


def head(model, batch=None, given=None):
    roles = list_roles(model)
    return find_head(model, roles, find_places_of_use(model, roles, batch), given)


def test_execution_and_registration_differ():
    model, images = make_case("resnet")
    blocks = [{"layer1.0"}, {"layer1.1"}, {"layer2.0"}]
    assert depths(model, images) == [{"stem", "norm"}, *blocks, {"fc"}]
    # `fc` is registered first, and `stem` last.
    assert depths(model) == [{"fc"}, *blocks, {"stem", "norm"}]


def test_blocks_are_one_depth_and_norms_join_what_runs_before():
    model, images = make_case("vit")
    found = depths(model, images)
    blocks = [set(), set(), set()]
    for index in range(3):
        blocks[index] = {f"blocks.{index}"}
    assert found[0] == {"", "patch"} and found[1:3] == blocks[:2]
    assert found[3] == {"blocks.2", "norm"} and found[4] == {"head"}


@pytest.mark.parametrize("name", ["gpt", "gpt by product"])
def test_what_is_used_twice_counts_where_it_is_used_last(name):
    model, tokens = make_case(name)
    assert depths(model, tokens)[-1] == {"tokens"}
    assert depths(model, tokens)[0] == {"places"}
    assert head(model, tokens) == {"tokens.weight"}


def test_the_table_behind_a_product_is_found_by_running_only():
    model, _ = make_case("gpt by product")
    assert head(model) == {"blocks.1.mlp.2.weight", "blocks.1.mlp.2.bias"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_the_probe_leaves_no_trace(name, training):
    model, batch = make_case(name)
    model.train(training)
    before = digest(model)
    find_places_of_use(model, list_roles(model), (batch, torch.zeros(4)))
    assert digest(model) == before


def test_reading_a_dtype_or_a_shape_is_no_use():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            y = self.last(self.first(x))
            assert self.first.weight.dtype == y.dtype and self.first.weight.shape[0] == 2
            return y

    assert head(Asks(), torch.zeros(1, 2)) == {"last.weight", "last.bias"}


def test_an_unused_layer_stands_by_the_one_registered_before_it():
    model = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    model.forward = lambda x: model[0](model[2](x))
    roles = list_roles(model)
    places = find_places_of_use(model, roles, torch.zeros(1, 2))
    assert places["2.weight"] < places["0.weight"] < places["1.weight"]


def test_the_head_may_be_given():
    model, images = make_case("vit")
    expected = {"head.weight", "head.bias"}
    for given in ("head", model.head, ["head"], ["head.weight", "head.bias"]):
        assert head(model, given=given) == expected
    assert head(model, images) == expected
    assert head(model, given=["head", "norm"]) == expected | {"norm.weight", "norm.bias"}


def test_an_unknown_head_is_named_with_its_neighbour():
    model, _ = make_case("vit")
    with pytest.raises(ValueError, match="no module or parameter 'heads'; the nearest name is 'he"):
        head(model, given="heads")
    with pytest.raises(ValueError, match="no module or parameter Linear"):
        head(model, given=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no module or parameter ''"):
        head(model, given="")


def test_a_frozen_head_is_refused():
    model, _ = make_case("vit")
    model.head.requires_grad_(False)
    with pytest.raises(ValueError, match="head: expected a part .* to train, but 'head' has none"):
        head(model, given="head")


def test_a_backbone_inside_of_a_sequential_is_taken_apart():
    model, images = make_case("resnet")
    model.fc = nn.Identity()
    whole = nn.Sequential(model, nn.Linear(8, 2))
    roles = list_roles(whole)
    ordered = order_depths(whole, roles, find_places_of_use(whole, roles, images))
    assert len(ordered) == 5 and {role.name for role in ordered[-1]} == {"1.weight", "1.bias"}
