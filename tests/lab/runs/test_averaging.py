"""Schedule-free runs equal the package's, and are evaluated at the average, then trained on."""

import math

import pytest
import schedulefree
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.lab.data import Data, digits
from nbkit.lab.runs.averaging import evaluate_averages, list_average_shares
from nbkit.lab.runs.options.schedule_free_sgd import ScheduleFreeSgd
from nbkit.lab.runs.seeds import train_runs

SEEDS, STEPS = (3, 1), 25
ADAMW, SGD = schedulefree.AdamWScheduleFree, schedulefree.SGDScheduleFree
# What an arm sets, with the package's class.
ARMS = {
    "sgd": ({"lr": 0.5}, SGD),
    "sgd, all": ({"lr": 0.2, "momentum": 0.7, "weight_decay": 0.1}, SGD),
    "adamw": ({"lr": 0.01}, ADAMW),
    "adamw, all": (
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        ADAMW,
    ),
}


def small():
    """Hidden layers of other shapes, so that a transposed weight would be noticed."""
    layers = nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 10)
    return nn.Sequential(*layers).double()


def exact():
    data = digits()
    return Data(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)


def warm_up(step):
    return min(1.0, step / 10)  # the first step has an lr of 0


def name_optimizer(name):
    return "schedule_free_" + name.split(",")[0]


def follow_package(kind, options, seed, schedule):
    """The losses of one run at y, and its test loss at x, by the package in an ordinary loop."""
    data = exact()
    torch.manual_seed(seed)
    model = small()
    optimizer = kind(model.parameters(), foreach=False, **options)
    optimizer.train()
    losses = []
    for index, (x, y) in enumerate(data.batches(32, seed=seed, steps=STEPS)):
        optimizer.param_groups[0]["lr"] = options["lr"] * schedule(index)
        loss = cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.eval()
    with torch.no_grad():
        return losses, cross_entropy(model(data.x_test), data.y_test).item()


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("schedule", [None, warm_up], ids=["constant", "warm-up"])
def test_runs_equal_the_packages_at_both_weights(vectorize, schedule):
    arms = {}
    for name, (options, _) in ARMS.items():
        arms[name] = {"optimizer": name_optimizer(name), "schedule": schedule, **options}
    data, size = exact(), {"steps": STEPS, "batch_size": 32}
    *_, runs = train_runs(small, data, arms, SEEDS, vectorize=vectorize, **size)
    tested, _ = runs.evaluate(data.x_test, data.y_test)
    for row, (options, kind) in enumerate(ARMS.values()):
        for column, seed in enumerate(SEEDS):
            losses, end = follow_package(kind, options, seed, schedule or (lambda step: 1.0))
            expected = torch.tensor(losses, dtype=torch.float64)
            torch.testing.assert_close(runs.losses[row, column], expected, rtol=1e-8, atol=0)
            assert tested[row, column].item() == pytest.approx(end, rel=1e-8)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("optimizer", ["schedule_free_sgd", "schedule_free_adamw"])
def test_looking_does_not_change_the_training(vectorize, optimizer):
    """To the last bit: the weights come back as they were, not computed back."""
    data, found = digits(), []
    make = lambda: small().float()  # noqa: E731
    for looks in (False, True):
        arms = {"a": {"lr": 0.01, "optimizer": optimizer}}
        options = {"steps": 12, "batch_size": 32, "vectorize": vectorize}
        for runs in train_runs(make, data, arms, SEEDS, **options):
            if looks:
                runs.evaluate(data.x_test, data.y_test)
        found.append(runs.losses.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("vectorize", [True, False])
def test_each_layer_averages_with_its_own_lr(vectorize):
    """A factor scales all lrs of a layer alike, so that its shares stay; 0 keeps it as it was."""

    def make_frozen():
        model = small()
        model[0].requires_grad_(False)
        return model

    arm = {"lr": 0.2, "optimizer": "schedule_free_sgd"}
    factors = {**arm, "lr_factors": lambda name, above: 0.0 if above == 2 else 1.0}
    data, ends = exact(), []
    for make, each in ((small, factors), (make_frozen, arm)):
        options = {"steps": STEPS, "batch_size": 32, "vectorize": vectorize}
        *_, runs = train_runs(make, data, {"a": each}, SEEDS, **options)
        ends.append(runs.evaluate(data.x_test, data.y_test)[0])
    torch.testing.assert_close(*ends, rtol=1e-8, atol=0)


def test_the_weights_come_back_when_the_evaluation_fails():
    model = nn.Linear(2, 1)
    optimizer = ScheduleFreeSgd(model.parameters(), lr=0.5)
    for _ in range(3):
        model.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    before = model.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), evaluate_averages(optimizer):
        # Three steps of -lr * 1 leave z at 1.5 below the start, and x at the mean, 1 below it.
        assert model.weight.sub(before).abs().min() > 0.01
        raise KeyboardInterrupt
    assert torch.equal(model.weight, before)


def test_an_optimizer_without_averages_is_evaluated_as_it_is():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    with evaluate_averages(torch.optim.SGD(model.parameters(), lr=0.1)):
        assert torch.equal(model.weight, before)


def test_the_shares_follow_the_highest_lr():
    # Squares 0, 1, 4, and 4 again, as lr_max stays: 0, 1/1, 4/5, 4/9.
    assert list_average_shares([0.0, 1.0, 2.0, 1.0]) == pytest.approx([0, 1, 4 / 5, 4 / 9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "schedule_free_sgd", "momentum": 1.5}, "momentum must be from 0 to 1"),
        ({"optimizer": "schedule_free_sgd", "betas": (0.9, 0.9)}, "betas is for"),
        ({"optimizer": "schedule_free_adamw", "momentum": 0.9}, "momentum is for"),
        ({"optimizer": "schedule_free_adamw", "eps": math.nan}, "eps must be finite"),
    ],
)
def test_what_the_optimizer_cannot_use_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train_runs(small, exact(), {"a": {"lr": 0.1, **options}}, SEEDS, steps=2, batch_size=8)
