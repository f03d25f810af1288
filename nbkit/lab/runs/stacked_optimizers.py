"""torch's optimizers for stacked weights: the same updates, with numbers of each run's own.

Every tensor is seen as (runs, numbers of one run), and what differs from run to run as (runs, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nbkit.lab.runs.arms import Rule
from nbkit.lab.runs.stacked_clipping import Layout, StackedClip


def per_run(values: Sequence[float], like: Tensor) -> Tensor:
    """A number for each run -> (runs, 1), to multiply (runs, numbers) with."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def make_update(
    rules: Sequence[Rule],
    parameters: Sequence[Tensor],
    steps: int,
    layouts: Sequence[Layout] | None = None,
) -> Callable[[int, Sequence[Tensor | None]], None]:
    """The update of all runs, `update(step, gradients)`: clips, then takes the optimizer's step.

    Args:
        rules: of each run; all name the same optimizer, or Adam and AdamW.
        parameters: stacked, with a leading dimension for the run; changed in place.
        steps: how many there will be.
        layouts: of the parameters; None: one run's part looks as it does in the run's own model.
    """
    weights = [parameter.detach().view(len(rules), -1) for parameter in parameters]
    optimizer = (_Sgd if rules[0].optimizer == "sgd" else _Adam)(rules, weights, steps)
    layouts = layouts or [Layout(parameter.shape[1:]) for parameter in parameters]
    clip = StackedClip(rules, weights, layouts)

    @torch.no_grad()
    def update(step: int, gradients: Sequence[Tensor | None]) -> None:
        flat = {i: g.reshape(len(rules), -1) for i, g in enumerate(gradients) if g is not None}
        for index, gradient in clip(flat).items():
            optimizer.step(step, index, gradient)

    return update


def run_losses(logits: Tensor, y: Tensor, smoothing: Tensor | None) -> Tensor:
    """Each run's mean cross-entropy; `smoothing` is (runs, 1), or None where no run smooths."""
    # Classes before samples: over a last dimension torch's softmax takes nine times as long.
    if smoothing is None:
        return F.cross_entropy(logits.mT, y, reduction="none").mean(1)
    logs = F.log_softmax(logits.mT, 1)
    hard, soft = F.nll_loss(logs, y, reduction="none"), -logs.mean(1)
    return ((1 - smoothing) * hard + smoothing * soft).mean(1)


class _Sgd:
    """velocity = momentum * velocity + gradient; weight -= lr * velocity, as in torch.optim.SGD."""

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.velocities = [torch.zeros_like(weight) for weight in weights]
        self.momentum = per_run([rule.momentum for rule in rules], like)
        self.lrs = _each_step([rule.lrs(steps) for rule in rules], like)
        self.decay = _if_any([rule.weight_decay for rule in rules], like)
        nesterov = _if_any([rule.nesterov for rule in rules], like)
        self.nesterov = None if nesterov is None else nesterov.bool()

    def step(self, step: int, index: int, gradient: Tensor) -> None:
        weight, velocity = self.weights[index], self.velocities[index]
        if self.decay is not None:
            gradient = torch.addcmul(gradient, weight, self.decay)
        velocity.mul_(self.momentum).add_(gradient)
        if self.nesterov is not None:
            ahead = torch.addcmul(gradient, velocity, self.momentum)
            velocity = torch.where(self.nesterov, ahead, velocity)
        weight.addcmul_(velocity, self.lrs[step], value=-1)


class _Adam:
    """torch.optim.Adam and AdamW: they differ in whether decay joins the gradient or the weight.

    weight -= lr / (1 - beta1^t) * mean / (sqrt(square / (1 - beta2^t)) + eps)
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.means = [torch.zeros_like(weight) for weight in weights]
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.beta2 = per_run([rule.betas[1] for rule in rules], like)
        self.new1, self.new2 = (
            per_run([1 - rule.betas[which] for rule in rules], like) for which in (0, 1)
        )
        self.eps = per_run([rule.eps for rule in rules], like)
        lrs = [rule.lrs(steps) for rule in rules]
        self.rates = _each_step(
            [
                [lr / (1 - rule.betas[0] ** t) for t, lr in enumerate(own, 1)]
                for rule, own in zip(rules, lrs, strict=True)
            ],
            like,
        )
        self.roots = _each_step(
            [[math.sqrt(1 - r.betas[1] ** t) for t in range(1, steps + 1)] for r in rules], like
        )
        self.joined = _if_any([r.weight_decay * (r.optimizer == "adam") for r in rules], like)
        apart = [r.weight_decay * (r.optimizer == "adamw") for r in rules]
        kept = [[1 - lr * d for lr in own] for own, d in zip(lrs, apart, strict=True)]
        self.kept = _each_step(kept, like) if any(apart) else None

    def step(self, step: int, index: int, gradient: Tensor) -> None:
        weight, mean, square = self.weights[index], self.means[index], self.squares[index]
        if self.joined is not None:
            gradient = torch.addcmul(gradient, weight, self.joined)
        if self.kept is not None:
            weight.mul_(self.kept[step])
        mean.lerp_(gradient, self.new1)
        square.mul_(self.beta2).addcmul_(gradient * self.new2, gradient)
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        weight.addcdiv_(mean * self.rates[step], divisor, value=-1)


def _each_step(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Numbers of each run, one a step -> (steps, runs, 1)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).T[..., None]


def _if_any(values: Sequence[float], like: Tensor) -> Tensor | None:
    """A number for each run; None where all are 0, so that what nobody wants costs nothing."""
    return per_run(values, like) if any(values) else None
