"""`lr_groups`: each trainable parameter once, at its lr by depth, whatever schedules it."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from nbkit import LRGroups, digest, lr_groups
from tests.support.small_models import CASES, make_case


def lr_by_name(groups):
    return {name: group["lr"] for group in groups for name in group["param_names"]}


def count_by_id(groups):
    return sorted(id(parameter) for group in groups for parameter in group["params"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", [{"ratio": 0.1}, {"decay": 0.5}], ids=str)
@pytest.mark.parametrize("probed", [True, False], ids=["batch", "no batch"])
def test_each_trainable_parameter_is_in_exactly_one_group(name, how, probed):
    model, batch = make_case(name)
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    before = digest(model)
    groups = lr_groups(model, 0.1, **how, weight_decay=0.2, batch=batch if probed else None)
    assert digest(model) == before
    assert count_by_id(groups) == sorted(id(p) for p in model.parameters() if p is not frozen)
    named = dict(model.named_parameters())
    for group in groups:
        assert [id(named[n]) for n in group["param_names"]] == list(map(id, group["params"]))
    torch.optim.AdamW(groups)  # which refuses a parameter in two groups


def test_decay_by_the_distance_from_the_head():
    model, images = make_case("resnet")
    lrs = lr_by_name(lr_groups(model, 1.0, decay=0.5, batch=images))
    assert lrs["fc.weight"] == lrs["fc.bias"] == 1
    assert lrs["layer2.0.conv1.weight"] == lrs["layer2.0.shortcut.0.weight"] == 0.5
    assert lrs["layer1.1.bn2.bias"] == 0.25 and lrs["layer1.0.bn1.weight"] == 0.125
    assert lrs["stem.weight"] == lrs["norm.weight"] == 0.0625


def test_the_order_of_registration_is_said():
    model, images = make_case("resnet")
    blind = lr_groups(model, 1.0, decay=0.5)
    assert lr_by_name(blind)["stem.weight"] == 1  # registered last, so taken for the head
    assert "depth by order of registration (give `batch`" in str(blind)
    assert str(lr_groups(model, 1.0, decay=0.5, batch=images)).splitlines()[0].endswith("execution")


def test_ratio_has_two_lrs():
    model, images = make_case("vit")
    groups = lr_groups(model, 1e-3, ratio=0.01, batch=images)
    lrs = lr_by_name(groups)
    head = {name for name, lr in lrs.items() if lr == 1e-3}
    assert head == {"head.weight", "head.bias"} and len(groups) == 2
    assert {lr for name, lr in lrs.items() if name not in head} == {1e-3 * 0.01}
    assert groups.lrs == [1e-3 * 0.01, 1e-3]


def test_a_frozen_layer_moves_no_other():
    # timm#2691: frozen parameters shifted the scales of the others.
    model, images = make_case("vit")
    before = lr_by_name(lr_groups(model, 1.0, decay=0.5, batch=images))
    model.blocks[1].requires_grad_(False)
    after = lr_by_name(lr_groups(model, 1.0, decay=0.5, batch=images))
    assert len(after) < len(before)
    for name, lr in after.items():
        assert before[name] == lr


def test_a_new_token_does_not_fall_into_the_head():
    # timm#2712: by name patterns, a parameter that no pattern knew got the lr of the head.
    model, images = make_case("vit")
    lrs = lr_by_name(lr_groups(model, 1.0, decay=0.5, batch=images))
    assert lrs["cls"] == lrs["places"] == lrs["patch.weight"] == 0.5**4


def test_weight_decay_by_kind():
    model, images = make_case("vit")
    model.norm = nn.GroupNorm(1, 5)  # over the tokens; no name says that it is a norm
    groups = lr_groups(model, 0.1, ratio=0.1, weight_decay=0.3, batch=images)
    decays = {name: group["weight_decay"] for group in groups for name in group["param_names"]}
    for name, decay in decays.items():
        is_weight = any(part in name for part in ("patch.w", "proj", "mlp", "head.w"))
        assert decay == (0.3 if is_weight and not name.endswith("bias") else 0), name


def test_a_tied_table_is_not_decayed_and_learns_with_the_head():
    model, tokens = make_case("gpt")
    groups = lr_groups(model, 1.0, decay=0.5, weight_decay=0.3, batch=tokens)
    (group,) = [group for group in groups if "tokens.weight" in group["param_names"]]
    assert group["lr"] == 1 and group["weight_decay"] == 0
    assert group["param_names"] == ["tokens.weight"]


def test_weights_under_weight_norm_are_decayed_and_stay_in_their_layer():
    model = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    groups = lr_groups(model, 1.0, decay=0.5, weight_decay=0.3, batch=torch.zeros(2, 3))
    lrs = lr_by_name(groups)
    assert {name: lr for name, lr in lrs.items() if name.startswith("0")} == {
        "0.parametrizations.weight.original0": 0.5,
        "0.parametrizations.weight.original1": 0.5,
        "0.bias": 0.5,
    }
    decayed = [group["param_names"] for group in groups if group["weight_decay"]]
    assert [len(names) for names in decayed] == [2, 1]


@pytest.mark.parametrize("how", [{"ratio": 0.1}, {"decay": 0.5}], ids=str)
def test_any_scheduler_keeps_the_proportions(how):
    # timm PR #2532: an lr_scale in the group was ignored by every scheduler but timm's own.
    model, images = make_case("vit")
    groups = lr_groups(model, 0.1, **how, batch=images)
    start = groups.lrs
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(4):
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([lr / (1 + step) for lr in start])
        optimizer.step()
        scheduler.step()

    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=groups.lrs, total_steps=10)
    for _ in range(9):
        factors = [
            group["lr"] / lr for group, lr in zip(optimizer.param_groups, start, strict=True)
        ]
        assert factors == pytest.approx([factors[0]] * len(start))
        optimizer.step()
        scheduler.step()


def test_the_optimizer_really_uses_the_lr():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(lr_groups(model, 0.5, ratio=0.1))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    steps = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
    expected = [0.05, 0.05, 0.5, 0.5]
    for step, lr in zip(steps, expected, strict=True):
        torch.testing.assert_close(step, torch.full_like(step, lr))


def test_the_table_and_its_json():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    groups = lr_groups(model, 0.1, decay=0.5, weight_decay=0.01)
    assert isinstance(groups, LRGroups) and isinstance(groups, list)
    assert str(groups).splitlines()[1:] == [
        "distance  lr    weight decay  numbers  parameters",
        "1         0.05  0.01          6        0.weight",
        "1         0.05  0             3        0.bias",
        "0         0.1   0.01          3        1.weight",
        "0         0.1   0             1        1.bias",
    ]
    read = json.loads(json.dumps(groups.to_dict()))
    assert read["order"] == "registration"
    assert read["groups"][0]["param_names"] == ["0.weight"] and "params" not in read["groups"][0]
    assert "<td>0.weight</td>" in groups._repr_html_()


def test_one_layer_is_all_head():
    assert lr_groups(nn.Linear(2, 2), 0.1, ratio=0.1).lrs == [0.1]


@pytest.mark.parametrize("given", [{}, {"ratio": 0.1, "decay": 0.5}], ids=["none", "both"])
def test_exactly_one_of_ratio_and_decay(given):
    with pytest.raises(ValueError, match="exactly one of ratio and decay, got ratio="):
        lr_groups(nn.Linear(2, 2), 0.1, **given)


@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("name", ["lr", "ratio", "decay"])
def test_numbers_are_positive(name, value):
    given = {"lr": 0.1} | ({} if name == "decay" else {"ratio": 0.1})
    with pytest.raises(ValueError, match=f"{name} must be a number > 0, got"):
        lr_groups(nn.Linear(2, 2), **(given | {name: value}))


@pytest.mark.parametrize("value", [-0.1, math.nan, "0.1"])
def test_weight_decay_is_a_number(value):
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0"):
        lr_groups(nn.Linear(2, 2), 0.1, ratio=0.1, weight_decay=value)


def test_an_lr_that_vanishes_is_refused():
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(4)])
    with pytest.raises(ValueError, match=r"decay: 1e-200 \*\* 3 \* 0.1 is 0 in floating point"):
        lr_groups(model, 0.1, decay=1e-200)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)], ids=str)
def test_a_model_without_a_trainable_parameter_is_refused(model):
    with pytest.raises(ValueError, match="a model with a parameter to train"):
        lr_groups(model, 0.1, ratio=0.1)
