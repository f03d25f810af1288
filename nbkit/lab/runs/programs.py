"""Train many runs in two ways: one by one, or stacked into as few programs as possible."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nbkit.lab.data import Batches, Data
from nbkit.lab.runs.assembly import (
    build_optimizer_of_run,
    choose_loss,
    choose_stacked_loss,
    group_program,
    make_update,
    wrap_model,
)
from nbkit.lab.runs.averaging import evaluate_averages
from nbkit.lab.runs.layouts import find_layouts, list_trained_parameters
from nbkit.lab.runs.option import Rule
from nbkit.lab.runs.probe import check_stack
from nbkit.lab.runs.stacking import stack
from nbkit.lab.runs.training import Step, train

PROBE = 8  # samples on which a stack is compared with its models before it is trained

# Changes the weights in place: the step, and the gradients of each parameter.
Update = Callable[[int, Sequence[Tensor | None]], None]
Predict = Callable[[Tensor], Tensor]  # samples -> logits (runs, samples, classes)
# How to predict, and an iterator that trains one step at a time and yields the losses (runs).
Start = tuple[Predict, Iterator[Tensor]]


@dataclass(frozen=True)
class Plan:
    """One run before it starts: its initial model, its rule and its batches."""

    model: nn.Module
    rule: Rule
    order: Batches


# ---- one by one ----


def train_separately(plans: Sequence[Plan], data: Data) -> Start:
    """Train each run in an ordinary loop, one step of each in turn."""
    models, optimizers, trainings = [], [], []
    for plan in plans:
        model = copy.deepcopy(plan.model)  # runs that start alike share the plan's model
        optimizer = build_optimizer_of_run(plan.rule, model)
        loss_fn, schedule = choose_loss(plan.rule), plan.rule["schedule"]
        computed = wrap_model(plan.rule, model)
        trainings.append(train(computed, plan.order, optimizer, loss_fn, schedule=schedule))
        models.append(computed)
        optimizers.append(optimizer)

    def predict_runs(x: Tensor) -> Tensor:
        with evaluate_averages(*optimizers):
            return torch.stack([call_evaluated(model, x) for model in models])

    return predict_runs, _join_steps(trainings)


def _join_steps(trainings: Sequence[Iterator[Step]]) -> Iterator[Tensor]:
    """Yield the losses (runs) of one step of every training."""
    for steps in zip(*trainings, strict=True):
        yield torch.stack([step.loss for step in steps])


# ---- stacked ----


def train_stacked(plans: Sequence[Plan], data: Data) -> Start:
    """Train the runs that can be stacked as one program each, all programs side by side."""
    members: dict[Hashable, list[int]] = {}  # by program, the places of its runs in `plans`
    for place, plan in enumerate(plans):
        members.setdefault(identify_program(plan), []).append(place)
    starts, order = [], []
    for places in members.values():
        starts.append(_start_program([plans[place] for place in places], data))
        order += places
    if len(starts) == 1:
        return starts[0]
    # From the programs' runs, one program after another, to the order of the plans.
    back = torch.tensor(order, device=data.x_train.device).argsort()
    predicts, losses = zip(*starts, strict=True)

    def predict_runs(x: Tensor) -> Tensor:
        return torch.cat([predict(x) for predict in predicts])[back]

    return predict_runs, _join_programs(losses, back)


def _join_programs(losses: Sequence[Iterator[Tensor]], back: Tensor) -> Iterator[Tensor]:
    """Yield the losses (runs) of one step of every program, in the order of the plans."""
    for parts in zip(*losses, strict=True):
        yield torch.cat(parts)[back]


def identify_program(plan: Plan) -> Hashable:
    """Return a key that is equal for runs with the same layers and kindred rules."""
    shapes = []
    for name, parameter in plan.model.named_parameters():
        shapes.append((name, parameter.shape, parameter.dtype, parameter.requires_grad))
    modes = [module.training for module in plan.model.modules()]
    # The repr of a model names its layers with their options, but not what is in the two lists.
    return (group_program(plan.rule), repr(plan.model), str(shapes), str(modes))


def _start_program(plans: Sequence[Plan], data: Data) -> Start:
    """Stack the models, so that every tensor has a leading dimension for the run."""
    models = [plan.model for plan in plans]
    model = stack(models)
    check_stack(model, models, data.x_train[:PROBE])
    predict = partial(call_evaluated, wrap_model(plans[0].rule, model))

    def predict_runs(x: Tensor) -> Tensor:
        with evaluate_averages(*update.list_optimizers()):
            return predict(x.expand(len(plans), *x.shape))

    # Made at once, so that what cannot be trained is refused before the first step.
    layouts = find_layouts(model, plans[0].model)
    rules, steps = [plan.rule for plan in plans], plans[0].order.steps
    update = make_update(rules, list_trained_parameters(model), steps, layouts)
    return predict_runs, _train_program(model, plans, data, update)


def _train_program(
    model: nn.Module, plans: Sequence[Plan], data: Data, update: Update
) -> Iterator[Tensor]:
    """Yield the losses (runs) of each step, before its update."""
    parameters = list_trained_parameters(model)
    find_losses = choose_stacked_loss([plan.rule for plan in plans], parameters[0])
    # The stack itself keeps the names of its parameters; what wraps it is called in its place.
    computed = wrap_model(plans[0].rule, model)
    for step, rows in enumerate(_draw_batches(plans)):
        losses = find_losses(computed(data.x_train[rows]), data.y_train[rows])
        # A run's loss depends on its own weights only, so the sum gives each run its gradients.
        update(step, torch.autograd.grad(losses.sum(), parameters, allow_unused=True))
        yield losses.detach()


def _draw_batches(plans: Sequence[Plan]) -> Iterator[Tensor]:
    """Yield the rows of each step's batches, (runs, batch).

    Runs with the same seed get the same batches, which pairs them; they are drawn once.
    """
    orders: dict[int, Iterator[Tensor]] = {}  # by seed, the rows of its batches
    places = []  # for each run, which of these it gets
    for plan in plans:
        seed = plan.order.seed
        if seed not in orders:
            orders[seed] = plan.order.indices()
        places.append(list(orders).index(seed))
    own = torch.tensor(places, device=plans[0].order.x.device)
    for rows in zip(*orders.values(), strict=True):
        yield torch.stack(rows)[own]


def call_evaluated(model: nn.Module, x: Tensor) -> Tensor:
    """Call the model in evaluation mode, and give each module its own mode back."""
    # Module by module: a model may hold frozen parts that stay in evaluation mode.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        logits: Tensor = model(x)
        return logits
    finally:
        for module, mode in modes.items():
            module.training = mode
