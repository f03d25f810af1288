"""Say which parameter an optimizer trains, by which rule, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nbkit.base.gradients import named_parameters
from nbkit.base.report import Report


@dataclass(frozen=True)
class OptimizedParameter:
    """How one parameter is trained.

    Attributes:
        name: the parameter's name.
        shape: its shape.
        rule: the optimizer, or the rule of its group.
        lr: the lr of its group now.
        weight_decay: the weight decay of its group.
        why: what the parameter is; empty for an optimizer that `make_optimizer` did not make.
    """

    name: str
    shape: tuple[int, ...]
    rule: str
    lr: float
    weight_decay: float
    why: str


@dataclass(frozen=True)
class OptimizerReport(Report):
    """Who got what: one row for each parameter of an optimizer.

    Attributes:
        optimizer: name of the optimizer's class.
        parameters: how each is trained, in the order of the groups.
    """

    optimizer: str
    parameters: tuple[OptimizedParameter, ...]

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """Return a row for each parameter."""
        rows: list[list[object]] = []
        for each in self.parameters:
            shape = " x ".join(map(str, each.shape))
            rows.append([each.name, shape, each.rule, each.lr, each.weight_decay, each.why])
        columns = ["parameter", "shape", "rule", "lr", "weight decay", "why"]
        return f"{self.optimizer}: {len(rows)} parameters", columns, rows


def describe_optimizer(optimizer: torch.optim.Optimizer) -> OptimizerReport:
    """List each parameter of an optimizer with its rule, lr and weight decay as they are now.

    >>> from nbkit.optimizers import make_optimizer
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> print(describe_optimizer(make_optimizer(model, "muon", 0.01, weight_decay=0.1)))
    MuonAdamW: 4 parameters
    parameter  shape  rule   lr    weight decay  why
    0.weight   8 x 4  muon   0.01  0.1           hidden matrix
    0.bias     8      adamw  0.01  0             bias or other vector
    1.bias     2      adamw  0.01  0             bias or other vector
    1.weight   2 x 8  adamw  0.01  0.1           output head
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"expected an optimizer of torch, got {type(optimizer).__name__}.")
    kind = type(optimizer).__name__
    names = {id(parameter): name for name, parameter in named_parameters(optimizer).items()}
    rows = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            row = OptimizedParameter(
                name=names[id(parameter)],
                shape=tuple(parameter.shape),
                rule=group.get("rule", kind.lower()),
                lr=float(group["lr"]),
                weight_decay=float(group.get("weight_decay", 0.0)),
                why=group.get("why", ""),
            )
            rows.append(row)
    return OptimizerReport(kind, tuple(rows))
