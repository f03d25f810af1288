"""Stacked and separate runs take the steps of torch's optimizers, or of the papers' formulas."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.options.muon import orthogonalize
from nbkit.lab.runs.seeds import train_runs

SEEDS = (3, 1)
STEPS = 25


def small():
    """A wide matrix (12 x 64), a tall one (20 x 12), and the last one."""
    layers = nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 10)
    return nn.Sequential(*layers).double()


def exact():
    data = digits()
    return Data(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)


def train_arms(arms, make=small, data=None, **options):
    options = {"steps": STEPS, "batch_size": 32, **options}
    *_, runs = train_runs(make, data or exact(), arms, SEEDS, **options)
    return runs.losses


def follow_loop(make_step, seed, make=small, steps=STEPS):
    """The losses of one run, by an ordinary loop around `step = make_step(model)`."""
    torch.manual_seed(seed)
    model = make()
    step = make_step(model)
    losses = []
    for index, (x, y) in enumerate(exact().batches(32, seed=seed, steps=steps)):
        loss = cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        step(index)
        losses.append(loss.item())
    return losses


def step_torch(optimizers, schedule=lambda step: 1.0):
    """The step of optimizers of torch, whose groups follow a schedule."""
    if not isinstance(optimizers, list):
        optimizers = [optimizers]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(each, schedule) for each in optimizers]

    def step(index):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()

    return step


def halve(step):
    return 1 / (step + 1)


# The options of each arm, and torch's optimizer for the same.
TORCH = {
    "adagrad": ({"lr": 0.05}, torch.optim.Adagrad),
    "adagrad, all": ({"lr": 0.1, "eps": 1e-3, "weight_decay": 0.1}, torch.optim.Adagrad),
    "rmsprop": ({"lr": 0.005}, torch.optim.RMSprop),
    "rmsprop, momentum": ({"lr": 0.002, "momentum": 0.9, "alpha": 0.9}, torch.optim.RMSprop),
    "rmsprop, all": (
        {"lr": 0.002, "momentum": 0.5, "centered": True, "eps": 1e-3, "weight_decay": 0.1},
        torch.optim.RMSprop,
    ),
    "nadam": ({"lr": 0.005}, torch.optim.NAdam),
    "nadam, joined": ({"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1}, torch.optim.NAdam),
    "nadam, all": (
        {"lr": 0.01, "weight_decay": 0.5, "decoupled_weight_decay": True, "betas": (0.8, 0.9)},
        torch.optim.NAdam,
    ),
}


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("schedule", [None, halve], ids=["constant", "scheduled"])
def test_the_steps_are_torchs_own(vectorize, schedule):
    """All arms in one call: arms of one optimizer share a program, and keep their own options."""
    arms = {}
    for name, (options, _) in TORCH.items():
        arms[name] = {"optimizer": name.split(",")[0], "schedule": schedule, **options}
    losses = train_arms(arms, vectorize=vectorize)
    for row, (name, (options, kind)) in enumerate(TORCH.items()):
        for column, seed in enumerate(SEEDS):

            def make_step(model, kind=kind, options=options):
                return step_torch(kind(model.parameters(), **options), schedule or (lambda step: 1))

            expected = torch.tensor(follow_loop(make_step, seed), dtype=torch.float64)
            # torch keeps a product of NAdam's in float32, whatever the weights are.
            tolerance = 1e-5 if name.startswith("nadam") else 1e-10
            torch.testing.assert_close(losses[row, column], expected, rtol=tolerance, atol=0)


def step_lion(model, *, lr, betas, decay):
    means = [torch.zeros_like(parameter) for parameter in model.parameters()]

    @torch.no_grad()
    def step(index):
        for parameter, mean in zip(model.parameters(), means, strict=True):
            gradient, old = parameter.grad, parameter.clone()
            direction = (betas[0] * mean + (1 - betas[0]) * gradient).sign()
            parameter.copy_(old - lr * (direction + decay * old))
            mean.copy_(betas[1] * mean + (1 - betas[1]) * gradient)

    return step


def step_lamb(model, *, lr, betas, eps, decay):
    means = [torch.zeros_like(parameter) for parameter in model.parameters()]
    squares = [torch.zeros_like(parameter) for parameter in model.parameters()]

    @torch.no_grad()
    def step(index):
        for parameter, mean, square in zip(model.parameters(), means, squares, strict=True):
            mean.copy_(betas[0] * mean + (1 - betas[0]) * parameter.grad)
            square.copy_(betas[1] * square + (1 - betas[1]) * parameter.grad**2)
            fair_mean = mean / (1 - betas[0] ** (index + 1))
            fair_square = square / (1 - betas[1] ** (index + 1))
            direction = fair_mean / (fair_square.sqrt() + eps) + decay * parameter
            ratio = parameter.norm() / direction.norm()
            parameter.sub_(lr * ratio * direction)

    return step


FORMULAS = {
    "lion": ({"lr": 0.001}, partial(step_lion, lr=0.001, betas=(0.9, 0.99), decay=0)),
    "lion, all": (
        {"lr": 0.002, "betas": (0.5, 0.9), "weight_decay": 1.0},
        partial(step_lion, lr=0.002, betas=(0.5, 0.9), decay=1.0),
    ),
    "lamb": ({"lr": 0.01}, partial(step_lamb, lr=0.01, betas=(0.9, 0.999), eps=1e-6, decay=0.01)),
    "lamb, all": (
        {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.5},
        partial(step_lamb, lr=0.02, betas=(0.5, 0.9), eps=1e-3, decay=0.5),
    ),
}


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_steps_are_those_of_the_formulas(vectorize):
    arms = {name: {"optimizer": name.split(",")[0], **arm} for name, (arm, _) in FORMULAS.items()}
    losses = train_arms(arms, vectorize=vectorize)
    for row, (_, make_step) in enumerate(FORMULAS.values()):
        for column, seed in enumerate(SEEDS):
            expected = torch.tensor(follow_loop(make_step, seed), dtype=torch.float64)
            torch.testing.assert_close(losses[row, column], expected, rtol=1e-9, atol=0)


class Scaled(nn.Module):
    """One weight matrix whose first value is given; its bias may have no gradient."""

    def __init__(self, value, bias=1e-4, seen=True):
        super().__init__()
        self.weight = nn.Parameter(torch.full((64, 10), value, dtype=torch.float64))
        self.bias = nn.Parameter(torch.full((10,), bias, dtype=torch.float64))
        self.seen = seen

    def forward(self, x):
        # 0 * bias keeps the bias in the graph, with a gradient of exactly 0.
        return x @ self.weight + (self.bias if self.seen else 0 * self.bias)


def first_change(make, vectorize):
    """How far each parameter of the one run moves in LAMB's first step at lr 0.1."""
    kept = []

    def make_kept():
        kept.append(make())
        return kept[-1]

    arms = {"one": {"lr": 0.1, "optimizer": "lamb", "weight_decay": 0.0}}
    data = exact()
    x, y = data.x_test, data.y_test
    options = {"steps": 1, "batch_size": 32, "vectorize": vectorize}
    *_, runs = train_runs(make_kept, data, arms, [0], **options)
    # The weights are read off the predictions: x = 0 gives the bias, unit vectors the weights.
    points = torch.cat([torch.zeros(1, 64), torch.eye(64)]).double()
    logits = runs._predict(points)[0]
    before = kept[0](points).detach()
    assert x.shape[0] == len(y)
    weights = (logits[1:] - logits[0]) - (before[1:] - before[0])
    return weights.norm(), (logits[0] - before[0]).norm()


@pytest.mark.parametrize("vectorize", [True, False])
def test_lambs_first_step_is_lr_times_the_norm_of_each_parameter(vectorize):
    weight, bias = first_change(lambda: Scaled(0.5), vectorize)
    assert weight.item() == pytest.approx(0.1 * 0.5 * math.sqrt(640), rel=1e-6)
    assert bias.item() == pytest.approx(0.1 * 1e-4 * math.sqrt(10), rel=1e-4)


@pytest.mark.parametrize("vectorize", [True, False])
def test_lamb_moves_a_zero_weight_by_adams_step_and_leaves_one_without_a_gradient(vectorize):
    weight, bias = first_change(lambda: Scaled(0.0, seen=False), vectorize)
    # Adam's first step moves each number whose gradient is not 0 by lr; some pixels are always 0.
    assert 0.1 * math.sqrt(300) < weight.item() <= 0.1 * math.sqrt(640) * (1 + 1e-6)
    assert bias.item() == 0


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.01},
        {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.5, "momentum": 0.8},
        {"lr": 0.01, "nesterov": False},
    ],
    ids=["default", "matched", "plain"],
)
def test_muon_trains_hidden_matrices_and_adamw_everything_else(vectorize, options):
    def make_step(model):
        decay = {"weight_decay": options.get("weight_decay", 0.1)}
        hidden = [model[0].weight, model[2].weight]
        others = [model[0].bias, model[2].bias, model[4].weight, model[4].bias]
        parts = [torch.optim.Muon(hidden, **options), torch.optim.AdamW(others, lr=0.01, **decay)]
        return step_torch(parts, halve)

    arm = {"optimizer": "muon", "schedule": halve, **options}
    losses = train_arms({"muon": arm}, vectorize=vectorize)
    # Both compute directions in bfloat16, of three digits; a batched product rounds otherwise.
    tolerance = 2e-3 if vectorize else 1e-10
    for column, seed in enumerate(SEEDS):
        expected = torch.tensor(follow_loop(make_step, seed), dtype=torch.float64)
        torch.testing.assert_close(losses[0, column], expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("shape", [(12, 64), (20, 12), (16, 16)])
def test_matrices_are_orthogonalized_as_in_torch_each_by_itself(shape):
    matrices = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.tensor([1e-6, 1e-2, 1.0, 1e3, 0.0])[:, None, None]
    found = orthogonalize(matrices).float()
    for matrix, ours in zip(matrices, found, strict=True):
        theirs = torch.optim._muon._zeropower_via_newtonschulz(
            matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7
        )
        torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=0.02)
    values = torch.linalg.svdvals(found[1:4])
    assert values.max() < 1.3 and values.median() > 0.6
    assert torch.equal(found[4], torch.zeros(shape))


@pytest.mark.parametrize("vectorize", [True, False])
def test_muon_leaves_embeddings_and_convolutions_to_adamw(vectorize):
    def make():
        layers = nn.Embedding(17, 3), nn.Flatten(1), nn.Linear(48, 12), nn.Tanh()
        return nn.Sequential(*layers, nn.Linear(12, 10)).double()

    data = digits()
    x_train, x_test = ((16 * x[:, 24:40]).long() for x in (data.x_train, data.x_test))
    tokens = Data(x_train, data.y_train, x_test, data.y_test)
    losses = train_arms({"a": {"optimizer": "muon", "lr": 0.01}}, make, tokens, vectorize=vectorize)

    torch.manual_seed(SEEDS[0])
    model = make()
    others = [parameter for parameter in model.parameters() if parameter is not model[2].weight]
    muon = torch.optim.Muon([model[2].weight], lr=0.01)
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1)
    for index, (x, y) in enumerate(tokens.batches(32, seed=SEEDS[0], steps=STEPS)):
        loss = cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        muon.step()
        adamw.step()
        assert losses[0, 0, index].item() == pytest.approx(loss.item(), rel=2e-3)


@pytest.mark.parametrize("vectorize", [True, False])
def test_muon_without_a_hidden_matrix_is_refused_before_the_first_step(vectorize):
    make = lambda: mlp(depth=0).double()  # noqa: E731
    arms = {"a": {"optimizer": "muon", "lr": 0.1}}
    with pytest.raises(ValueError, match=r"muon needs a model with a hidden matrix.*adamw"):
        train_runs(make, exact(), arms, SEEDS, steps=2, batch_size=8, vectorize=vectorize)


# An lr for each parameter


def decay_layers(name, above):
    return 0.5**above


def only_weights(name, above):
    return 1.0 if name.endswith("weight") else 0.1


FACTORS = {
    "layers": {"lr": 0.1, "momentum": 0.9, "lr_factors": decay_layers},
    "names": {"lr": 0.1, "lr_factors": only_weights, "weight_decay": 0.1, "schedule": halve},
    "plain": {"lr": 0.1},
    "adamw": {"lr": 0.01, "optimizer": "adamw", "weight_decay": 1.0, "lr_factors": decay_layers},
}


@pytest.mark.parametrize("vectorize", [True, False])
def test_each_parameter_trains_with_its_factor_as_in_torchs_groups(vectorize):
    losses = train_arms(FACTORS, vectorize=vectorize)
    above = {"0": 2, "2": 1, "4": 0}
    for row, arm in enumerate(FACTORS.values()):
        arm = dict(arm)
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[arm.pop("optimizer", "sgd")]
        factors = arm.pop("lr_factors", lambda name, above: 1.0)
        schedule = arm.pop("schedule", lambda step: 1.0)

        def make_step(model, arm=arm, kind=kind, factors=factors, schedule=schedule):
            groups = []
            for name, parameter in model.named_parameters():
                lr = arm["lr"] * factors(name, above[name[0]])
                groups.append({"params": [parameter], "lr": lr})
            return step_torch(kind(groups, **arm), schedule)

        for column, seed in enumerate(SEEDS):
            expected = torch.tensor(follow_loop(make_step, seed), dtype=torch.float64)
            torch.testing.assert_close(losses[row, column], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb", "lion", "muon"])
def test_a_factor_of_zero_keeps_a_layer_as_it_was(optimizer):
    """As if it were frozen, which is another way to say the same."""

    def make_frozen():
        model = small()
        model[0].requires_grad_(False)
        return model

    factors = lambda name, above: 0.0 if above == 2 else 1.0  # noqa: E731
    arm = {"lr": 0.01, "optimizer": optimizer}
    found = train_arms({"zero": {**arm, "lr_factors": factors}})
    expected = train_arms({"frozen": arm}, make_frozen)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("vectorize", [True, False])
def test_muon_takes_factors_as_well(vectorize):
    arm = {"lr": 0.01, "optimizer": "muon"}
    double = {**arm, "lr": 0.005, "lr_factors": lambda name, above: 2.0}
    losses = train_arms({"plain": arm, "double": double}, vectorize=vectorize)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-8, atol=0)


def test_lambda_sees_the_names_and_the_layers_of_a_nested_model():
    seen = {}

    def note(name, above):
        seen[name] = above
        return 1.0

    def make():
        body = nn.Sequential(nn.Linear(64, 8, bias=False), nn.LayerNorm(8))
        return nn.ModuleDict({"body": body, "head": nn.Linear(8, 10)})

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = make().double()

        def forward(self, x):
            return self.parts["head"](self.parts["body"](x))

    train_arms({"a": {"lr": 0.1, "lr_factors": note}}, Model, steps=1)
    assert seen == {
        "parts.body.0.weight": 2,
        "parts.body.1.weight": 1,
        "parts.body.1.bias": 1,
        "parts.head.weight": 0,
        "parts.head.bias": 0,
    }


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf, None, "0.1"])
def test_what_is_no_factor_is_refused_before_the_first_step(factor, vectorize):
    arms = {"a": {"lr": 0.1, "lr_factors": lambda name, above: factor}}
    message = r"lr_factors must return a finite number of at least 0, got .* for '0.weight' with 2"
    with pytest.raises(ValueError, match=message):
        train_runs(small, exact(), arms, SEEDS, steps=2, batch_size=8, vectorize=vectorize)
