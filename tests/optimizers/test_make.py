"""`make_optimizer`: each parameter once, by the rule that is made for it; and the report of it."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nbkit import Lamb, describe_optimizer, digest, make_optimizer
from nbkit.optimizers.make import OPTIMIZERS
from tests.support.small_models import CASES, make_case


def rows(optimizer):
    return {row.name: row for row in describe_optimizer(optimizer).parameters}


@pytest.mark.parametrize("model_name", CASES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_trainable_parameter_is_trained_once(model_name, name):
    model, batch = make_case(model_name)
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    before = digest(model)
    optimizer = make_optimizer(model, name, 0.01, weight_decay=0.1, batch=batch)
    assert digest(model) == before
    found = sorted(id(p) for group in optimizer.param_groups for p in group["params"])
    assert found == sorted(id(p) for p in model.parameters() if p is not frozen)
    assert {row.lr for row in rows(optimizer).values()} == {0.01}
    names = {name for name, p in model.named_parameters() if p is not frozen}
    assert set(rows(optimizer)) == names


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        ("nesterov", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=0.01)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0)),
        ("nadam", lambda p: torch.optim.NAdam(p, lr=0.01)),
        ("lamb", lambda p: Lamb(p, lr=0.01, weight_decay=0)),
    ],
)
def test_it_is_torchs_own(name, reference):
    model, batch = make_case("vit")
    other = copy.deepcopy(model)
    for each, optimizer in (
        (model, make_optimizer(model, name, 0.01)),
        (other, reference(other.parameters())),
    ):
        for target in range(3):
            optimizer.zero_grad()
            (each(batch) - target).square().mean().backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_adamw_does_not_decay_biases_and_norms():
    # torch's AdamW decays everything, by 0.01 where nothing is said.
    model, _ = make_case("vit")
    decays = {
        name: row.weight_decay for name, row in rows(make_optimizer(model, "adamw", 0.01)).items()
    }
    assert set(decays.values()) == {0}
    optimizer = make_optimizer(model, "adamw", 0.01, weight_decay=0.3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_weight = any(part in name for part in ("patch", "proj", "mlp", "head"))
        factor = 1 - 0.01 * 0.3 if is_weight and not name.endswith("bias") else 1
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


def test_muon_gets_hidden_matrices_and_adamw_the_rest():
    # torch.optim.Muon takes an embedding without a word, and refuses biases and convolutions.
    model, images = make_case("resnet")
    found = rows(make_optimizer(model, "muon", 0.01, batch=images))
    muon = {name for name, row in found.items() if row.rule == "muon"}
    convs = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert muon == {f"{name}.weight" for name in convs}
    assert found["fc.weight"].why == "output head" and found["norm.weight"].why == "norm"
    assert found["stem.weight"].why == "convolution as a matrix"

    model, tokens = make_case("gpt")
    found = rows(make_optimizer(model, "muon", 0.01, batch=tokens))
    assert found["tokens.weight"].why == found["places.weight"].why == "embedding"
    assert found["blocks.0.attn.in_proj_weight"].rule == "muon"
    assert found["blocks.1.mlp.2.weight"].why == "hidden matrix"


def test_without_a_batch_the_last_registered_is_the_head():
    model, _ = make_case("resnet")
    blind = rows(make_optimizer(model, "muon", 0.01))
    assert blind["stem.weight"].why == "output head" and blind["fc.weight"].rule == "muon"
    told = rows(make_optimizer(model, "muon", 0.01, head="fc"))
    assert told["stem.weight"].rule == "muon" and told["fc.weight"].why == "output head"


def test_what_is_no_single_matrix_is_left_to_adamw():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        weight_norm(nn.Conv2d(8, 8, 1)),
        nn.Conv2d(8, 4, 1),
        nn.Conv2d(4, 2, 1),
    )
    model.table = nn.Parameter(torch.zeros(5, 3))
    found = {
        name: (row.rule, row.why) for name, row in rows(make_optimizer(model, "muon", 0.1)).items()
    }
    assert found["0.weight"] == ("adamw", "grouped convolution")
    assert found["1.parametrizations.weight.original1"] == ("adamw", "computed weight")
    assert found["table"] == ("adamw", "of no layer of torch")
    assert found["2.weight"] == ("muon", "convolution as a matrix")


def test_the_report_follows_the_schedule():
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, "nesterov", 0.5, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.25
    report = describe_optimizer(optimizer)
    assert str(report).splitlines() == [
        "SGD: 2 parameters",
        "parameter  shape  rule  lr    weight decay  why",
        "weight     2 x 3  sgd   0.25  0.1           weight",
        "bias       2      sgd   0.5   0             bias or other vector",
    ]
    assert report.to_dict()["parameters"][0]["name"] == "weight"
    plain = describe_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    assert [(row.name, row.why) for row in plain.parameters] == [("group0.0", ""), ("group0.1", "")]
    with pytest.raises(TypeError, match="expected an optimizer of torch, got Linear"):
        describe_optimizer(model)


def test_options_reach_the_class():
    optimizer = make_optimizer(nn.Linear(2, 2), "adam", 0.1, betas=(0.5, 0.6))
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert make_optimizer(nn.Linear(2, 2), "sgd", 0.1, momentum=0.7).defaults["momentum"] == 0.7
    with pytest.raises(TypeError, match="adam has no option 'beta'; the nearest is 'betas'"):
        make_optimizer(nn.Linear(2, 2), "adam", 0.1, beta=0.9)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="got 'adamW'; the nearest is 'adamw'"):
        make_optimizer(nn.Linear(2, 2), "adamW", 0.1)


@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, "0.1", True])
def test_the_lr_is_positive(value):
    with pytest.raises(ValueError, match="lr must be a number > 0, got"):
        make_optimizer(nn.Linear(2, 2), "sgd", value)


@pytest.mark.parametrize("value", [-0.1, math.nan, "0.1"])
def test_the_weight_decay_is_a_number(value):
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0"):
        make_optimizer(nn.Linear(2, 2), "sgd", 0.1, weight_decay=value)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="a model with a parameter to train"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), "sgd", 0.1)


def test_muon_needs_a_hidden_matrix():
    with pytest.raises(ValueError, match='muon needs a hidden matrix to train.*use "adamw"'):
        make_optimizer(nn.Linear(2, 2), "muon", 0.1)
