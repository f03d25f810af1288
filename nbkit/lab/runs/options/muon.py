"""Add the optimizer "muon", with adjust_lr_fn: hidden matrices by Muon, the rest by AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate, Trained, make_groups
from nbkit.lab.runs.options.adam import StackedAdam
from nbkit.lab.runs.run_values import (
    make_zeros,
    stack_lrs,
    stack_option,
    stack_steps,
    stack_used_option,
    stack_values,
)

ADJUSTMENTS = (None, "original", "match_rms_adamw")
# The defaults of torch.optim.Muon: the Newton-Schulz polynomial, its steps, and the least norm.
COEFFICIENTS, NEWTON_STEPS, LEAST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7


class Muon(OptimizerOption):
    """Train hidden matrices with torch.optim.Muon, and everything else with torch.optim.AdamW.

    Biases, norms, convolutions, embeddings and the last layer are no hidden matrices. Both
    optimizers use the arm's lr and weight_decay. Torch's default leaves Muon's steps much longer
    than AdamW's at one lr; `adjust_lr_fn="match_rms_adamw"` makes them alike.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    defaults: ClassVar = {"adjust_lr_fn": None}
    optimizers: ClassVar = {"muon": torch.optim.Muon}
    shared = ("momentum", "nesterov")

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return torch's defaults of Muon for the names that it shares."""
        return {"momentum": 0.95, "nesterov": True, "weight_decay": 0.1}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check adjust_lr_fn."""
        if rule["adjust_lr_fn"] not in ADJUSTMENTS:
            named = ", ".join(map(repr, ADJUSTMENTS))
            return f"adjust_lr_fn must be one of {named}, got {rule['adjust_lr_fn']!r}"
        return None

    def check_layouts(self, layouts: Sequence[Layout]) -> None:
        """Refuse a model without a hidden matrix: AdamW would train all of it."""
        if not any(map(is_hidden_matrix, layouts)):
            raise ValueError(
                "muon needs a model with a hidden matrix: the weight of a layer such as nn.Linear "
                "that is not the last one. This model has none: train it with adamw."
            )

    def build_optimizer(self, rule: Rule, trained: Sequence[Trained]) -> torch.optim.Optimizer:
        """Build the two optimizers of a separate run, as one."""
        hidden: list[Trained] = []
        others: list[Trained] = []
        for each in trained:
            (hidden if is_hidden_matrix(each.layout) else others).append(each)
        names = ("weight_decay", *self.list_names())
        options: Any = {name: rule[name] for name in names}
        parts: list[torch.optim.Optimizer] = [torch.optim.Muon(make_groups(hidden), **options)]
        if others:
            decay = rule["weight_decay"]
            parts.append(torch.optim.AdamW(make_groups(others), weight_decay=decay))
        return JoinedOptimizers(parts)

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of Muon and AdamW for stacked runs."""
        return StackedMuon(rules, weights, steps, layouts)


def is_hidden_matrix(layout: Layout) -> bool:
    """Return whether a parameter is a matrix in its own model, and not of the last layer there."""
    # The own shape decides: in a stack, a bias is (runs, 1, outputs) and looks like a matrix.
    role = layout.role
    is_lookup = issubclass(role.layer, nn.Embedding | nn.EmbeddingBag)
    return len(layout.shape) == 2 and role.layers_above > 0 and not is_lookup


class JoinedOptimizers(torch.optim.Optimizer):
    """Step several optimizers as one; their groups are shared, so a schedule reaches all."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        groups: list[dict[str, Any]] = []
        for part in parts:
            groups += part.param_groups
        super().__init__(groups, {})
        self.parts = parts

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step every optimizer."""
        for part in self.parts:
            part.step()


class StackedMuon:
    """Update as torch.optim.Muon does, and as AdamW does what is no hidden matrix.

    mean = momentum * mean + (1 - momentum) * gradient
    weight -= lr * ratio * orthogonalize(nesterov ? lerp(gradient, mean, momentum) : mean)
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> None:
        like = weights[0]
        self.weights, self.layouts = weights, layouts
        # AdamW's own defaults; the lr and the decay are the arm's.
        adamw: Any = {"optimizer": "adamw", "betas": (0.9, 0.999), "eps": 1e-8}
        self.adamw = StackedAdam([rule.replace_values(**adamw) for rule in rules], weights, steps)
        self.means = make_zeros(weights)
        self.momentum = stack_option(rules, "momentum", like)
        self.new = stack_values([1 - rule["momentum"] for rule in rules], like)
        nesterov = stack_used_option(rules, "nesterov", like)
        self.nesterov = None if nesterov is None else nesterov.bool()
        self.lrs = stack_lrs(rules, steps, like)
        kept = []
        for rule in rules:
            kept.append([1 - lr * rule["weight_decay"] for lr in rule.list_lrs(steps)])
        self.kept = stack_steps(kept, like)
        self.ratios = []  # for each parameter, the factor on the lr of each run: (runs, 1)
        for layout in layouts:
            values = [find_ratio(rule["adjust_lr_fn"], layout.shape) for rule in rules]
            self.ratios.append(stack_values(values, like))

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        layout = self.layouts[index]
        if not is_hidden_matrix(layout):
            self.adamw.take_step(step, index, gradient)
            return
        weight, mean = self.weights[index], self.means[index]
        mean.lerp_(gradient, self.new)
        change = mean
        if self.nesterov is not None:
            ahead = torch.lerp(gradient, mean, self.momentum)
            change = torch.where(self.nesterov, ahead, mean)
        # In the shape of the run's own matrix; the stack may keep it transposed.
        straight = layout.fold_runs(orthogonalize(layout.unfold_runs(change)))
        weight.mul_(self.kept[step])
        weight.addcmul_(straight.to(weight.dtype), self.ratios[index] * self.lrs[step], value=-1)


def find_ratio(adjustment: str | None, shape: torch.Size) -> float:
    """Return torch's factor on the lr of a matrix; 1 for what is not one."""
    if len(shape) != 2:
        return 1.0
    outputs, inputs = shape
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(outputs, inputs))
    return math.sqrt(max(1, outputs / inputs))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move the singular values of each matrix towards 1, (runs, outputs, inputs) in bfloat16.

    Five steps of a polynomial, x = a x + (b A + c A^2) x with A = x x^T, which needs only products.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()  # as in torch: enough digits for a direction
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT  # A is then the smaller of the two squares
    x = x / vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(NEWTON_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


OPTION = Muon()
