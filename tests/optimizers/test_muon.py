"""MuonAdamW equals torch.optim.Muon beside torch.optim.AdamW, and is one optimizer."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from nbkit import Amp, MuonAdamW, clip_gradients_, digest, make_optimizer, preserve_state
from tests.support.small_models import CASES, make_case


def train(model, batch, step, updates=5):
    """Train on the model's own output, with other gradients at each step."""
    losses = []
    for index in range(updates):
        loss = (model(batch) - index).square().mean()
        model.zero_grad()
        loss.backward()
        step()
        losses.append(loss.item())
    return losses


def split(optimizer):
    """The parameters of an optimizer, by rule and weight decay."""
    found = {"muon": [], "adamw": []}
    for group in optimizer.param_groups:
        pair = {"params": list(group["params"]), "weight_decay": group["weight_decay"]}
        found[group["rule"]].append(pair)
    return found


def assert_equal_models(model, other, **tolerance):
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        torch.testing.assert_close(
            ours, theirs, msg=lambda m, name=name: f"{name}: {m}", **tolerance
        )


@pytest.mark.parametrize("name", ["gpt", "lstm"])
@pytest.mark.parametrize("adjustment", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_it_equals_torch_on_the_same_split(name, adjustment, nesterov):
    model, batch = make_case(name)
    other = copy.deepcopy(model)
    options = {"adjust_lr_fn": adjustment, "nesterov": nesterov}
    ours = make_optimizer(model, "muon", 0.01, weight_decay=0.1, batch=batch, **options)
    parts = split(make_optimizer(other, "muon", 0.01, weight_decay=0.1, batch=batch))
    theirs = [
        torch.optim.Muon(parts["muon"], lr=0.01, **options),
        torch.optim.AdamW(parts["adamw"], lr=0.01),
    ]
    start = copy.deepcopy(model)
    train(model, batch, ours.step)
    train(other, batch, lambda: [part.step() for part in theirs])
    assert_equal_models(model, other, rtol=1e-6, atol=1e-7)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )


def test_a_convolution_is_the_matrix_of_its_patches():
    # timm PR #2791, Muon PR #60: a ratio from the kernel's sides made steps far too long.
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, bias=False)
    matrix = nn.Linear(27, 8, bias=False)
    matrix.weight.data = conv.weight.detach().flatten(1).clone()
    ours = MuonAdamW([{"params": conv.parameters(), "rule": "muon"}], lr=0.1)
    theirs = torch.optim.Muon(
        matrix.parameters(), lr=0.1, weight_decay=0, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        conv.weight.grad = torch.randn_like(conv.weight)
        matrix.weight.grad = conv.weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(conv.weight.flatten(1), matrix.weight, rtol=1e-6, atol=1e-7)


def test_the_layout_in_memory_changes_nothing():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    last = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    for layer in (conv, last):
        optimizer = MuonAdamW([{"params": [layer.weight], "rule": "muon"}], lr=0.1)
        layer.weight.grad = torch.arange(216.0).cos().view(8, 3, 3, 3).clone()
        if layer is last:
            layer.weight.grad = layer.weight.grad.to(memory_format=torch.channels_last)
        optimizer.step()
    torch.testing.assert_close(conv.weight, last.weight)


def test_the_change_of_a_matrix_is_nearly_orthogonal():
    weight = nn.Parameter(torch.zeros(6, 4))
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    options = {"adjust_lr_fn": "original", "nesterov": False}
    MuonAdamW([{"params": [weight], "rule": "muon"}], lr=1.0, **options).step()
    values = torch.linalg.svdvals(weight.detach() / 1.5**0.5)  # sqrt(6 / 4) is the ratio
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize("name", CASES)
def test_it_is_resumed_exactly_at_every_step(name):
    model, batch = make_case(name)
    optimizer = make_optimizer(model, "muon", 0.01, weight_decay=0.1, batch=batch)
    for step in range(3):
        resumed = copy.deepcopy(model)
        again = make_optimizer(resumed, "muon", 0.5, batch=batch)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(resumed, batch, again.step, updates=2)

        straight = copy.deepcopy((model, optimizer))  # one copy: groups hold its parameters
        train(straight[0], batch, straight[1].step, updates=2)
        assert_equal_models(resumed, straight[0], rtol=0, atol=0)
        train(model, batch, optimizer.step, updates=1 + step)


def test_schedulers_reach_both_rules():
    model, batch = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01, batch=batch)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, batch, lambda: (optimizer.step(), scheduler.step()), updates=2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.0025}
    assert {group["rule"] for group in optimizer.param_groups} == {"muon", "adamw"}
    scheduler = OneCycleLR(optimizer, max_lr=0.01, total_steps=4)
    train(model, batch, lambda: (optimizer.step(), scheduler.step()), updates=3)


def test_an_lr_of_zero_moves_nothing():
    model, batch = make_case("resnet")
    optimizer = make_optimizer(model, "muon", 0.01, weight_decay=0.5, batch=batch)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, batch, optimizer.step, updates=1)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_loss_scale_skips_an_overflow_and_steps_otherwise():
    model, batch = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01, batch=batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(batch).square().mean()).backward()
    before = copy.deepcopy(list(model.parameters()))
    model.head.bias.grad[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert all(map(torch.equal, before, model.parameters())) and scaler.get_scale() == 2
    optimizer.zero_grad()
    scaler.scale(model(batch).square().mean()).backward()
    scaler.step(optimizer)
    assert not any(map(torch.equal, before, model.parameters()))


def test_the_kit_works_with_it():
    model, batch = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01, batch=batch)
    before = digest(model, optimizer)
    with preserve_state(model, optimizer):
        model(batch).square().mean().backward()
        assert clip_gradients_(optimizer, max_norm=0.01).clipped
        optimizer.step()
        assert digest(model, optimizer) != before
    assert digest(model, optimizer) == before
    amp = Amp("bf16", "cpu")
    amp.backward(model(batch).square().mean())
    assert amp.step(optimizer, clip={"max_norm": 1.0}).stepped


def test_hooks_fire_once_a_step():
    model, batch = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01, batch=batch)
    calls = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
        register_optimizer_step_post_hook(lambda *_: calls.append("any")),
    ]
    train(model, batch, optimizer.step, updates=1)
    for handle in handles:
        handle.remove()
    assert sorted(calls) == ["after", "any", "before"]


@pytest.mark.parametrize("name", ["muon", "lamb"])
def test_a_closure_is_called_once_with_gradients(name):
    model, batch = make_case("vit")
    optimizer = make_optimizer(model, name, 0.01)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        seen.append(torch.is_grad_enabled())
        return loss

    before = model.head.weight.detach().clone()
    assert optimizer.step(closure).item() > 0 and seen == [True]
    assert not torch.equal(before, model.head.weight)


def test_a_parameter_without_a_gradient_stays():
    model, _ = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01, weight_decay=0.1)
    before = digest(model, optimizer)
    optimizer.step()
    assert digest(model, optimizer) == before


def test_a_sparse_gradient_is_refused_before_anything_moves():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = make_optimizer(model, "muon", 0.1)
    model(torch.tensor([1, 2])).sum().backward()
    before = digest(model)
    with pytest.raises(RuntimeError, match=r"shape \(5, 4\) is sparse. Use nn.Embedding\(sparse=F"):
        optimizer.step()
    assert digest(model) == before


def test_a_group_added_later_is_adamw():
    model, _ = make_case("vit")
    optimizer = make_optimizer(model, "muon", 0.01)
    optimizer.add_param_group({"params": [("new", nn.Parameter(torch.zeros(3)))]})
    assert optimizer.param_groups[-1]["rule"] == "adamw"
    count = len(optimizer.param_groups)
    with pytest.raises(
        ValueError, match=r"matrices and convolutions, got a torch.float32 of shape"
    ):
        optimizer.add_param_group(
            {"params": [("new", nn.Parameter(torch.zeros(3)))], "rule": "muon"}
        )
    assert len(optimizer.param_groups) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum must be less than 1, got 1.0"),
        ({"lr": -1.0}, "lr must be a number >= 0, got -1.0"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"adjust_lr_fn": "both"}, "adjust_lr_fn must be one of 'match_rms_adamw', 'original'"),
    ],
    ids=str,
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW([nn.Parameter(torch.zeros(2, 2))], **options)


def test_a_wrong_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be one of 'muon', 'adamw', got 'Muon'"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(2, 2))], "rule": "Muon"}])
