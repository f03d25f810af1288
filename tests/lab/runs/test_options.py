"""An arm's option is one file: whatever declares one works in separate and in stacked runs."""

import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs import options
from nbkit.lab.runs.arms import list_defaults
from nbkit.lab.runs.option import LossOption, OptimizerOption, Option, StartOption
from nbkit.lab.runs.run_values import stack_steps, stack_values
from nbkit.lab.runs.seeds import train_runs

SEEDS = (3, 1)

# What somebody would write to add an option: one file in nbkit/lab/runs/options.
SCALE_FILE = '''
"""gradient_scale: multiply the gradients by a number."""

from nbkit.lab.runs.option import GradientOption
from nbkit.lab.runs.run_values import stack_values


class GradientScale(GradientOption):
    defaults = {"gradient_scale": 1.0}
    numbers = ("gradient_scale",)

    def find_problem(self, rule, steps):
        if not rule["gradient_scale"] > 0:
            return f"gradient_scale must be above 0, got {rule['gradient_scale']}"

    def change_gradients(self, rule, model):
        def scale_run():
            for parameter in model.parameters():
                parameter.grad.mul_(rule["gradient_scale"])

        return scale_run

    def stack_change(self, rules, weights, layouts):
        scale = stack_values([rule["gradient_scale"] for rule in rules], weights[0])
        return lambda gradients: {i: g * scale for i, g in gradients.items()}


OPTION = GradientScale()
'''


class Temperature(LossOption):
    """Divide the logits by a number."""

    defaults = {"temperature": 1.0}  # noqa: RUF012
    numbers = ("temperature",)

    def make_loss(self, rule):
        if rule["temperature"] == 1:
            return None
        return lambda logits, y: F.cross_entropy(logits / rule["temperature"], y)

    def stack_loss(self, rules, like):
        temperatures = [rule["temperature"] for rule in rules]
        if set(temperatures) == {1}:
            return None
        divisor = stack_values(temperatures, like)[..., None]
        return lambda x, y: F.cross_entropy((x / divisor).mT, y, reduction="none").mean(1)

    def group_runs(self, rule):
        return rule["temperature"] == 1  # the plain runs keep their own program


class Shrunk(StartOption):
    """Multiply the initial weights by a number."""

    defaults = {"shrink": 1.0}  # noqa: RUF012
    numbers = ("shrink",)

    def set_weights(self, rule, model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(rule["shrink"])


class SignUpdate:
    def __init__(self, rules, weights, steps):
        self.weights = weights
        self.lrs = stack_steps([rule.list_lrs(steps) for rule in rules], weights[0])

    def take_step(self, step, index, gradient):
        self.weights[index].sub_(self.lrs[step] * gradient.sign())


class SignSgd(torch.optim.Optimizer):
    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())


class Signs(OptimizerOption):
    """Train by the signs of the gradients."""

    optimizers = {"signs": SignSgd}  # noqa: RUF012

    def stack_update(self, rules, weights, steps, layouts):
        return SignUpdate(rules, weights, steps)


@pytest.fixture
def register():
    """Register an object, as a file of the package would be."""
    before = list(options.OPTIONS)
    yield options.OPTIONS.append
    options.OPTIONS[:] = before


@pytest.fixture
def added_file(tmp_path, monkeypatch):
    """The package with one more file in it."""
    (tmp_path / "gradient_scale.py").write_text(SCALE_FILE)
    monkeypatch.setattr(options, "__path__", [*options.__path__, str(tmp_path)])
    before = list(options.OPTIONS)
    options.OPTIONS[:] = options.collect_options()
    yield
    options.OPTIONS[:] = before
    sys.modules.pop("nbkit.lab.runs.options.gradient_scale", None)


def losses_of(arms, vectorize):
    make = lambda: mlp(depth=2, width=16).double()  # noqa: E731
    data = digits()
    data = type(data)(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)
    trained = train_runs(make, data, arms, SEEDS, steps=10, batch_size=32, vectorize=vectorize)
    *_, runs = trained
    return runs.losses


same = partial(torch.testing.assert_close, rtol=1e-10, atol=0)


@pytest.mark.usefixtures("added_file")
@pytest.mark.parametrize("vectorize", [True, False])
def test_a_file_in_the_folder_is_an_option(vectorize):
    """Without momentum, half the gradient at twice the lr is the plain run."""
    arms = {
        "plain": {"lr": 0.1},
        "scaled": {"lr": 0.2, "gradient_scale": 0.5},
        "each": {"lr": [0.2, 0.05], "gradient_scale": [0.5, 2.0]},
        "other": {"lr": 0.1, "gradient_scale": 0.5},
    }
    losses = losses_of(arms, vectorize)
    same(losses[1], losses[0])
    same(losses[2], losses[0])
    assert not torch.isclose(losses[3], losses[0])[:, 1:].any()


@pytest.mark.usefixtures("added_file")
def test_the_arms_know_the_names_and_the_check_of_a_new_file():
    with pytest.raises(ValueError, match=r"arm 'a': gradient_scale must be above 0, got 0\."):
        losses_of({"a": {"lr": 0.1, "gradient_scale": 0}}, True)
    with pytest.raises(ValueError, match="arm 'a': gradient_scale must be a number, got 'two'"):
        losses_of({"a": {"lr": 0.1, "gradient_scale": [1.0, "two"]}}, True)
    with pytest.raises(ValueError, match=r"may have optimizer, .*gradient_scale.*, got lr, scale"):
        losses_of({"a": {"lr": 0.1, "scale": 2.0}}, True)


def test_without_the_file_its_name_is_refused():
    with pytest.raises(ValueError, match="arm 'a' must have lr and may have"):
        losses_of({"a": {"lr": 0.1, "gradient_scale": 0.5}}, True)


def test_a_new_loss_works_in_both_kinds_of_runs(register):
    register(Temperature())
    arms = {"plain": {"lr": 0.1}, "cold": {"lr": 0.1, "temperature": [0.5, 2.0]}}
    together, apart = losses_of(arms, True), losses_of(arms, False)
    same(together, apart)
    assert not torch.isclose(together[0], together[1]).any()


@pytest.mark.parametrize("vectorize", [True, False])
def test_arms_with_different_losses_train_in_different_programs(register, vectorize):
    """In one program, each of the two losses would replace the other."""
    register(Temperature())
    arms = {
        "smoothed": {"lr": 0.1, "label_smoothing": 0.1},
        "cold": {"lr": 0.1, "temperature": 0.5},
    }
    losses = losses_of(arms, vectorize)
    for row, (name, arm) in enumerate(arms.items()):
        same(losses[row], losses_of({name: arm}, vectorize)[0])


@pytest.mark.parametrize("vectorize", [True, False])
def test_two_options_that_replace_the_loss_are_refused(register, vectorize):
    register(Temperature())
    both = {"lr": 0.1, "temperature": 2.0, "label_smoothing": 0.1}
    with pytest.raises(ValueError, match="one option that replaces the loss, got two"):
        losses_of({"both": both}, vectorize)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_new_start_gives_each_value_its_own_model(register, vectorize):
    register(Shrunk())
    arms = {"plain": {"lr": 0.0}, "shrunk": {"lr": 0.0, "shrink": [1.0, 0.5]}}
    first = losses_of(arms, vectorize)[..., 0]
    same(first[0, 0], first[1, 0])
    assert not torch.isclose(first[0, 1], first[1, 1])


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_new_optimizer_trains_beside_the_others(register, vectorize):
    register(Signs())
    arms = {"sgd": {"lr": 0.1}, "signs": {"lr": 0.01, "optimizer": "signs"}}
    losses = losses_of(arms, vectorize)
    for column, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        model = mlp(depth=2, width=16).double()
        expected = []
        for x, y in digits().batches(32, seed=seed, steps=10):
            loss = F.cross_entropy(model(x.double()), y)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.01 * gradient.sign()
            expected.append(loss.item())
        same(losses[1, column], torch.tensor(expected, dtype=torch.float64))


def test_every_file_of_the_package_holds_one_option_with_names_of_its_own():
    assert all(isinstance(option, Option) for option in options.OPTIONS)
    names = [name for option in options.OPTIONS for name in option.defaults]
    assert len(names) == len(set(names)) == len(list_defaults())
    assert all(set(option.numbers) <= set(option.defaults) for option in options.OPTIONS)


def test_the_options_of_torch_mean_what_they_mean_there():
    """Each optimizer's names are arguments of torch's class, with the same defaults."""
    for name, option in options.find_optimizers().items():
        parameters = [nn.Parameter(torch.zeros(1, 1))]
        defaults = option.optimizers[name](parameters, lr=0.1).defaults
        own = {key: list_defaults()[key] for key in option.list_names()}
        expected = {**own, "weight_decay": 0.0, **option.fill_defaults(name)}
        assert {key: defaults[key] for key in expected} == expected
