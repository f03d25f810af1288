"""The two ways to train many runs: one by one, and as one program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbkit.lab.data import Batches, Data
from nbkit.lab.runs.arms import Rule
from nbkit.lab.runs.probe import compare
from nbkit.lab.runs.stacked_clipping import find_layouts
from nbkit.lab.runs.stacked_optimizers import make_update, per_run, run_losses
from nbkit.lab.runs.stacking import stack
from nbkit.lab.runs.training import train

PROBE = 8  # samples on which a stack is compared with its models before it is trained

Predict = Callable[[Tensor], Tensor]  # samples -> logits (runs, samples, classes)
Start = tuple[Predict, Iterator[Tensor]]  # and, step by step, the losses (runs)


@dataclass(frozen=True)
class Plan:
    """One run to be: its model as it starts, how it is trained, and on what."""

    model: nn.Module
    rule: Rule
    order: Batches


def apart(plans: Sequence[Plan], data: Data) -> Start:
    """The plain version: an ordinary loop for each run, one step of each in turn."""
    models, trainings = [], []
    for plan in plans:
        models.append(copy.deepcopy(plan.model))
        loss_fn = partial(F.cross_entropy, label_smoothing=plan.rule.label_smoothing)
        optimizer = plan.rule.make_optimizer(models[-1])
        schedule = plan.rule.schedule
        trainings.append(train(models[-1], plan.order, optimizer, loss_fn, schedule=schedule))
    losses = (torch.stack([step.loss for step in steps]) for steps in zip(*trainings, strict=True))
    return (lambda x: torch.stack([_evaluated(model, x) for model in models])), losses


def together(plans: Sequence[Plan], data: Data) -> Start:
    """The fast version: one program for all plans of one make, side by side with the others."""
    makes = [_make(plan) for plan in plans]
    members = [
        [run for run, make in enumerate(makes) if make == one] for one in dict.fromkeys(makes)
    ]
    starts = [_program([plans[run] for run in runs], data) for runs in members]
    if len(starts) == 1:
        return starts[0]
    # The programs' runs, one program after another -> in the order of the plans.
    order = [run for runs in members for run in runs]
    back = torch.tensor(order, device=data.x_train.device).argsort()
    predicts, losses = zip(*starts, strict=True)
    return (
        (lambda x: torch.cat([predict(x) for predict in predicts])[back]),
        (torch.cat(parts)[back] for parts in zip(*losses, strict=True)),
    )


def _make(plan: Plan) -> tuple[object, ...]:
    """Equal for runs that one program can train: the same layers, and a kindred optimizer."""
    shapes = [
        (name, p.shape, p.dtype, p.requires_grad) for name, p in plan.model.named_parameters()
    ]
    modes = [module.training for module in plan.model.modules()]
    builder = id(plan.rule.model)  # what another function builds may only look the same
    return (plan.rule.optimizer == "sgd", builder, repr(plan.model), str(shapes), str(modes))


def _program(plans: Sequence[Plan], data: Data) -> Start:
    """One model whose every tensor has a leading dimension for the run."""
    models = [plan.model for plan in plans]
    model = stack(models)
    compare(model, models, data.x_train[:PROBE])
    predict = partial(_evaluated, model)
    return (lambda x: predict(x.expand(len(plans), *x.shape))), _train(model, plans, data)


def _train(model: nn.Module, plans: Sequence[Plan], data: Data) -> Iterator[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rules = [plan.rule for plan in plans]
    smoothing = [rule.label_smoothing for rule in rules]
    soft = per_run(smoothing, parameters[0]) if any(smoothing) else None
    layouts = find_layouts(model, plans[0].model)
    update = make_update(rules, parameters, plans[0].order.steps, layouts)
    for step, rows in enumerate(_draws(plans)):
        losses = run_losses(model(data.x_train[rows]), data.y_train[rows], soft)
        update(step, torch.autograd.grad(losses.sum(), parameters, allow_unused=True))
        yield losses.detach()


def _draws(plans: Sequence[Plan]) -> Iterator[Tensor]:
    """The rows of each step's batches, (runs, batch); a seed's are drawn once: that pairs them."""
    orders = {plan.order.seed: plan.order for plan in plans}
    places = {seed: place for place, seed in enumerate(orders)}
    of_run = torch.tensor([places[plan.order.seed] for plan in plans])
    of_run = of_run.to(plans[0].order.x.device)
    for rows in zip(*(order.indices() for order in orders.values()), strict=True):
        yield torch.stack(rows)[of_run]


def _evaluated(model: nn.Module, x: Tensor) -> Tensor:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return model(x)
    finally:
        for module, mode in modes.items():
            module.training = mode
