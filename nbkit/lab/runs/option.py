"""Define what an option of an arm declares: its names, its check, and its part in the training.

Each file in `nbkit.lab.runs.options` holds one option. Its base class says where it acts: on the
start of a run, on the forward pass, on the loss, on the gradients or on the update. An option acts
twice, once in a separate run and once in stacked runs, and both must give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nbkit.lab.runs.layouts import Layout, Role

REQUIRED = object()  # the default of a name that every arm must set

# The types of what options give and take.
MakeModel = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits, labels -> one number
StackedLoss = Callable[[Tensor, Tensor], Tensor]  # (runs, batch, classes), (runs, batch) -> (runs)
# By the index of their parameter, the gradients of all runs: (runs, numbers of one run) each.
Gradients = Mapping[int, Tensor]


@dataclass(frozen=True)
class Rule:
    """Hold how one run is trained: a value for every name of every option.

    The values mean what `train_runs` documents. Read one with `rule["lr"]`.
    """

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def list_lrs(self, steps: int) -> list[float]:
        """List the lr of each step: `lr * schedule(step)`."""
        schedule = self["schedule"] or (lambda step: 1.0)
        return [self["lr"] * schedule(step) for step in range(steps)]

    def replace_values(self, **values: Any) -> Rule:
        """Return the rule with other values for these names."""
        return Rule({**self.values, **values})


@dataclass(frozen=True)
class Trained:
    """Name a parameter of a separate run, how it looks, and its lr before the schedule."""

    parameter: nn.Parameter
    layout: Layout
    lr: float


class Option:
    """Declare something that an arm may set.

    Attributes:
        defaults: each name that an arm may set, with its value in arms that leave it out.
        numbers: the names that hold a number; an arm may give a list, with one for each seed.
            None is accepted only where it is the default.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    numbers: ClassVar[Sequence[str]] = ()

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Say what is wrong with a rule, as in "momentum must be at least 0, got -1", or None."""
        return None

    def group_runs(self, rule: Rule) -> Hashable:
        """Return a key; runs with different keys are not stacked into the same program."""
        return None


class StartOption(Option):
    """Change where a run starts: its model or its initial weights.

    Runs with the same seed and the same values of all these options share one built model.
    """

    def choose_builder(self, rule: Rule) -> MakeModel | None:
        """Return a function that builds the model in place of `make_model`, or None."""
        return None

    def set_weights(self, rule: Rule, model: nn.Module) -> None:
        """Change the built model in place; torch's random state is the run's."""


class ForwardOption(Option):
    """Change how a model computes its output; its weights stay as they are."""

    def wrap_model(self, rule: Rule, model: nn.Module) -> nn.Module:
        """Return a module that calls the model, or the model itself.

        The model may be a stack: all runs of a program have the same key of `group_runs`.
        """
        raise NotImplementedError


class LossOption(Option):
    """Replace the cross-entropy; an arm may use only one option of this kind."""

    def make_loss(self, rule: Rule) -> Loss | None:
        """Return the loss of a separate run, or None for the plain cross-entropy."""
        raise NotImplementedError

    def stack_loss(self, rules: Sequence[Rule], like: Tensor) -> StackedLoss | None:
        """Return the losses of stacked runs, or None if all use the plain cross-entropy.

        Tensors that the loss needs get the dtype and the device of `like`.
        """
        raise NotImplementedError


class GradientOption(Option):
    """Change the gradients before the optimizer uses them."""

    def change_gradients(self, rule: Rule, model: nn.Module) -> Callable[[], None] | None:
        """Return a function that changes each `p.grad` of a separate run, or None for no change."""
        raise NotImplementedError

    def stack_change(
        self, rules: Sequence[Rule], weights: Sequence[Tensor], layouts: Sequence[Layout]
    ) -> Callable[[Gradients], Gradients] | None:
        """Return a function from the gradients of stacked runs to the changed ones, or None.

        Args:
            rules: one for each run.
            weights: the trained parameters, (runs, numbers of one run) each.
            layouts: how one run's part of each parameter looks in the run's own model.
        """
        raise NotImplementedError


class ParameterOption(Option):
    """Train some parameters with another lr than others."""

    def find_factor(self, rule: Rule, role: Role) -> float:
        """Return the factor on the lr of a parameter with this role."""
        raise NotImplementedError


class StackedUpdate(Protocol):
    """Update the weights of stacked runs as an optimizer does."""

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update the parameter with this index in place; step counts from 0."""


class OptimizerOption(Option):
    """Add an optimizer; its names are for arms that train with it, and torch's class takes them.

    Attributes:
        optimizers: what an arm may write as `optimizer`, with the class of torch.optim.
        shared: names of other optimizers' options that this one takes as well, such as "eps".
    """

    optimizers: ClassVar[Mapping[str, type[torch.optim.Optimizer]]] = {}
    shared: ClassVar[Sequence[str]] = ()

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return this optimizer's defaults for names of other options, such as weight_decay."""
        return {}

    def list_names(self) -> list[str]:
        """List the names that arms with this optimizer may set, besides those for every arm."""
        return [*self.defaults, *self.shared]

    def check_layouts(self, layouts: Sequence[Layout]) -> None:
        """Raise a ValueError if a model with these parameters cannot be trained."""

    def build_optimizer(self, rule: Rule, trained: Sequence[Trained]) -> torch.optim.Optimizer:
        """Build the optimizer of a separate run."""
        # Any: torch's classes take different arguments.
        make: Any = self.optimizers[rule["optimizer"]]
        names = ("weight_decay", *self.list_names())
        optimizer: torch.optim.Optimizer = make(
            make_groups(trained), lr=rule["lr"], **{name: rule[name] for name in names}
        )
        return optimizer

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of stacked runs.

        Args:
            rules: one for each run.
            weights: the trained parameters, (runs, numbers of one run) each.
            steps: how many updates there will be.
            layouts: how one run's part of each parameter looks in the run's own model.
        """
        raise NotImplementedError


def make_groups(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """Make torch's parameter groups: one for each lr, in the order of the parameters."""
    groups: dict[float, dict[str, Any]] = {}
    for each in trained:
        group = groups.setdefault(each.lr, {"params": [], "lr": each.lr})
        group["params"].append(each.parameter)
    return list(groups.values())
