"""A parameter is what the type of its layer says, whatever its name is."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nbkit.base.parameter_kinds import ParameterKind, list_roles
from tests.support.small_models import CASES, make_case


def kinds(model):
    return {role.name: str(role.kind) for role in list_roles(model)}


@pytest.mark.parametrize("name", CASES)
def test_each_parameter_has_one_role(name):
    model, _ = make_case(name)
    roles = list_roles(model)
    assert sorted(id(role.parameter) for role in roles) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize(
    "norm",
    [
        *(nn.LayerNorm((3, 4)), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.BatchNorm2d(4)),
        *(nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, affine=True), nn.RMSNorm((2, 4))),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_a_norm_is_known_by_its_type_whatever_it_is_called(norm):
    # transformers#16908: a norm of another name was decayed.
    model = nn.Module()
    model.scale = norm
    assert set(kinds(model).values()) == {"norm"}
    assert not ParameterKind.NORM.is_decayed


def test_a_layer_called_norm_is_no_norm():
    model = nn.Module()
    model.norm = nn.Linear(2, 3)
    assert kinds(model) == {"norm.weight": "matrix", "norm.bias": "vector"}


def test_the_parts_of_a_transformer():
    model, _ = make_case("vit")
    found = kinds(model)
    assert found["cls"] == found["places"] == found["blocks.0.gamma"] == "vector"
    assert found["patch.weight"] == found["blocks.1.attn.in_proj_weight"] == "matrix"
    assert found["blocks.1.attn.out_proj.weight"] == "matrix"
    assert found["blocks.1.attn.in_proj_bias"] == "vector"


def test_a_tied_table_is_an_embedding_and_has_two_owners():
    model, _ = make_case("gpt")
    (tied,) = [role for role in list_roles(model) if role.name == "tokens.weight"]
    assert tied.kind == "embedding" and [owner.path for owner in tied.owners] == [
        "tokens",
        "lm_head",
    ]


def test_recurrent_weights_are_matrices():
    model, _ = make_case("lstm")
    found = kinds(model)
    assert found["lstm.weight_hh_l1"] == "matrix" and found["lstm.bias_hh_l1"] == "vector"


def test_a_weight_with_one_output_is_a_matrix_and_a_plain_row_is_a_vector():
    model = nn.Linear(4, 1)
    model.token, model.table = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(3, 4))
    assert kinds(model) == {
        "token": "vector",
        "table": "other",
        "weight": "matrix",
        "bias": "vector",
    }


@pytest.mark.parametrize("path", ["", "fc"])
def test_what_weight_norm_computes_a_weight_from_belongs_to_the_layer(path):
    layer = weight_norm(nn.Linear(3, 4))
    model = layer if path == "" else nn.ModuleDict({path: layer})
    roles = list_roles(model)
    assert sorted(str(role.kind) for role in roles) == ["parametrized", "parametrized", "vector"]
    for role in roles:
        if role.kind == "parametrized":
            assert role.owners[0].attribute == "weight" and role.owners[0].layer is layer
        assert role.layer == path


def test_a_lazy_layer_is_refused():
    with pytest.raises(ValueError, match="'weight' belongs to a lazy layer .* one batch first"):
        list_roles(nn.LazyLinear(3))
