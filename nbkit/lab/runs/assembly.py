"""Put the parts of a training together from the options of its rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbkit.lab.runs.layouts import Layout, Role, find_roles
from nbkit.lab.runs.option import (
    ForwardOption,
    GradientOption,
    Gradients,
    Loss,
    LossOption,
    MakeModel,
    ParameterOption,
    Rule,
    StackedLoss,
    StackedUpdate,
    StartOption,
    Trained,
)
from nbkit.lab.runs.options import OPTIONS, find_optimizers, select_options

# The two kinds of loss differ in their shapes, and `_keep_one` chooses among either.
AnyLoss = TypeVar("AnyLoss", Loss, StackedLoss)


# ---- where a run starts ----


def build_model(rule: Rule, make_model: MakeModel, seed: int) -> nn.Module:
    """Build the model that a run starts from; seeds torch's random state and moves it on."""
    starts = select_options(StartOption)
    for option in starts:
        make_model = option.choose_builder(rule) or make_model
    # The seed comes first: the model and its new weights draw from the same random state.
    torch.manual_seed(seed)
    model = make_model()
    for option in starts:
        option.set_weights(rule, model)
    return model


def identify_start(rule: Rule) -> Hashable:
    """Return a key that is equal for rules whose runs start alike from the same seed."""
    key: list[Hashable] = []
    for option in select_options(StartOption):
        for name in option.defaults:
            value = rule[name]
            # Functions and other objects count as equal only if they are the same object.
            key.append(value if isinstance(value, int | float | str) else id(value))
    return tuple(key)


def wrap_model(rule: Rule, model: nn.Module) -> nn.Module:
    """Wrap a model, or a stack of models, in what the options change of its forward pass."""
    for option in select_options(ForwardOption):
        model = option.wrap_model(rule, model)
    return model


def group_program(rule: Rule) -> Hashable:
    """Return a key that is equal for rules which one program can train."""
    # Optimizers of one option, such as Adam and AdamW, train in one program.
    key: list[Hashable] = [id(find_optimizers()[rule["optimizer"]])]
    for option in OPTIONS:
        key.append(option.group_runs(rule))
    return tuple(key)


# ---- a separate run ----


def build_optimizer_of_run(rule: Rule, model: nn.Module) -> torch.optim.Optimizer:
    """Make torch's own optimizer for one run; it changes the gradients before each step."""
    option = find_optimizers()[rule["optimizer"]]
    roles = find_roles(model)
    trained = []
    for parameter in model.parameters():
        role = roles[id(parameter)]
        lr = rule["lr"] * find_lr_factor(rule, role)
        trained.append(Trained(parameter, Layout(parameter.shape, role=role), lr))
    option.check_layouts([each.layout for each in trained])
    optimizer = option.build_optimizer(rule, trained)
    for each in select_options(GradientOption):
        change = each.change_gradients(rule, model)
        if change is not None:
            _call_before_step(optimizer, change)
    return optimizer


def find_lr_factor(rule: Rule, role: Role) -> float:
    """Find the factor on the lr of a parameter: the product of what the options say."""
    factor = 1.0
    for option in select_options(ParameterOption):
        factor *= option.find_factor(rule, role)
    return factor


def _call_before_step(optimizer: torch.optim.Optimizer, change: Callable[[], None]) -> None:
    optimizer.register_step_pre_hook(lambda *_: change())


def choose_loss(rule: Rule) -> Loss:
    """Choose the loss of a separate run: the cross-entropy, or what an option puts in its place."""
    chosen: Loss | None = None
    for option in select_options(LossOption):
        chosen = _keep_one(chosen, option.make_loss(rule))
    return chosen or F.cross_entropy


# ---- stacked runs ----


def choose_stacked_loss(rules: Sequence[Rule], like: Tensor) -> StackedLoss:
    """Choose the loss of stacked runs: (runs, batch, classes), (runs, batch) -> (runs)."""
    chosen: StackedLoss | None = None
    for option in select_options(LossOption):
        chosen = _keep_one(chosen, option.stack_loss(rules, like))
    return chosen or average_cross_entropy


def average_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return each run's mean cross-entropy, (runs)."""
    # Classes before samples: over a last dimension torch's softmax takes nine times as long.
    return F.cross_entropy(logits.mT, y, reduction="none").mean(1)


def _keep_one(first: AnyLoss | None, second: AnyLoss | None) -> AnyLoss | None:
    """Return the one of two losses that is not None.

    Raises:
        ValueError: if both are losses; each of them would replace the other.
    """
    if first is not None and second is not None:
        raise ValueError(
            "an arm may use one option that replaces the loss, got two: leave out all but one of "
            "them."
        )
    return first if second is None else second


class RunsUpdate:
    """Update stacked runs, `update(step, gradients)`: change the gradients, then step."""

    def __init__(
        self,
        runs: int,
        updates: Mapping[int, tuple[StackedUpdate, int]],
        changes: Sequence[Callable[[Gradients], Gradients]],
    ) -> None:
        self.runs, self.updates, self.changes = runs, updates, changes

    @torch.no_grad()
    def __call__(self, step: int, gradients: Sequence[Tensor | None]) -> None:
        """Update the weights of all runs in place."""
        flat = {}
        for index, gradient in enumerate(gradients):
            if gradient is not None:  # as in torch, a parameter that the loss does not see stays
                flat[index] = gradient.reshape(self.runs, -1)
        for change in self.changes:
            flat = dict(change(flat))
        # The optimizer sees the changed gradients only, as with torch's step_pre_hook.
        for index, gradient in flat.items():
            update, place = self.updates[index]
            update.take_step(step, place, gradient)

    def list_optimizers(self) -> list[StackedUpdate]:
        """List the updates of the optimizers, each once: several parameters share one."""
        return list({id(update): update for update, _ in self.updates.values()}.values())


def make_update(
    rules: Sequence[Rule],
    parameters: Sequence[Tensor],
    steps: int,
    layouts: Sequence[Layout] | None = None,
) -> RunsUpdate:
    """Make the update of stacked runs.

    Args:
        rules: one for each run; all name optimizers of the same option.
        parameters: stacked, with a leading dimension for the run; changed in place.
        steps: how many updates there will be.
        layouts: of the parameters; None: one run's part looks as it does in the run's own model.
    """
    # Each parameter as (runs, numbers of one run), a view of the same memory.
    weights = [parameter.detach().view(len(rules), -1) for parameter in parameters]
    if layouts is None:
        layouts = [Layout(parameter.shape[1:]) for parameter in parameters]
    updates = _make_updates(rules, weights, steps, layouts)
    changes = []
    for option in select_options(GradientOption):
        change = option.stack_change(rules, weights, layouts)
        if change is not None:
            changes.append(change)
    return RunsUpdate(len(rules), updates, changes)


def _make_updates(
    rules: Sequence[Rule], weights: Sequence[Tensor], steps: int, layouts: Sequence[Layout]
) -> dict[int, tuple[StackedUpdate, int]]:
    """Make the optimizers' updates: for each parameter, its update and its place in that one.

    Parameters that train with the same lrs share an update, as they share a group in torch.
    """
    option = find_optimizers()[rules[0]["optimizer"]]
    option.check_layouts(layouts)
    groups: dict[tuple[float, ...], list[int]] = {}  # by the factor of each run
    for index, layout in enumerate(layouts):
        factors = tuple([find_lr_factor(rule, layout.role) for rule in rules])
        groups.setdefault(factors, []).append(index)
    updates = {}
    for factors, indices in groups.items():
        scaled = []
        for rule, factor in zip(rules, factors, strict=True):
            scaled.append(rule.replace_values(lr=rule["lr"] * factor))
        own_weights = [weights[index] for index in indices]
        own_layouts = [layouts[index] for index in indices]
        update = option.stack_update(scaled, own_weights, steps, own_layouts)
        for place, index in enumerate(indices):
            updates[index] = (update, place)
    return updates
