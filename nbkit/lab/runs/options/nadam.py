"""Add the optimizer "nadam", with momentum_decay and decoupled_weight_decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_option, stack_steps, stack_values


class NAdam(OptimizerOption):
    """Train with torch.optim.NAdam, which also takes betas and eps."""

    defaults: ClassVar = {"momentum_decay": 0.004, "decoupled_weight_decay": False}
    numbers = ("momentum_decay",)
    optimizers: ClassVar = {"nadam": torch.optim.NAdam}
    shared = ("betas", "eps")

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check momentum_decay."""
        if not 0 <= rule["momentum_decay"] < math.inf:
            return f"momentum_decay must be finite and at least 0, got {rule['momentum_decay']}"
        return None

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of NAdam for stacked runs."""
        return StackedNAdam(rules, weights, steps)


class StackedNAdam:
    """Update as torch.optim.NAdam does: as Adam, with a momentum that looks one step ahead.

    m_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2), and M_t = m_1 * ... * m_t
    ahead = gradient * (1 - m_t) / (1 - M_t) + mean * m_(t+1) / (1 - M_(t+1))
    weight -= lr * ahead / (sqrt(square / (1 - beta2^t)) + eps)
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.means, self.squares = make_zeros(weights), make_zeros(weights)
        kept2, new1, new2 = [], [], []
        of_gradient, of_mean, roots, kept, joined = [], [], [], [], []
        for rule in rules:
            beta1, beta2 = rule["betas"]
            kept2.append(beta2)
            new1.append(1 - beta1)
            new2.append(1 - beta2)
            lrs, apart = rule.list_lrs(steps), rule["decoupled_weight_decay"]
            shares = list_shares(beta1, rule["momentum_decay"], steps)
            of_gradient.append([lr * share for lr, (share, _) in zip(lrs, shares, strict=True)])
            of_mean.append([lr * share for lr, (_, share) in zip(lrs, shares, strict=True)])
            roots.append([math.sqrt(1 - beta2**t) for t in range(1, steps + 1)])
            # Decay shrinks the weights, as in AdamW, or joins the gradient, as in Adam.
            decay = rule["weight_decay"]
            kept.append([1 - lr * decay if apart else 1.0 for lr in lrs])
            joined.append(0.0 if apart else decay)
        self.kept2 = stack_values(kept2, like)
        self.new1, self.new2 = stack_values(new1, like), stack_values(new2, like)
        self.of_gradient, self.of_mean = stack_steps(of_gradient, like), stack_steps(of_mean, like)
        self.roots, self.eps = stack_steps(roots, like), stack_option(rules, "eps", like)
        self.kept, self.joined = stack_steps(kept, like), stack_values(joined, like)

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, mean, square = self.weights[index], self.means[index], self.squares[index]
        weight.mul_(self.kept[step])
        gradient = torch.addcmul(gradient, weight, self.joined)
        mean.lerp_(gradient, self.new1)
        square.mul_(self.kept2).addcmul_(gradient * self.new2, gradient)
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        ahead = gradient * self.of_gradient[step] + mean * self.of_mean[step]
        weight.addcdiv_(ahead, divisor, value=-1)


def list_shares(beta1: float, momentum_decay: float, steps: int) -> list[tuple[float, float]]:
    """List the shares of the gradient and of the mean in each step."""
    shares, product = [], 1.0
    for t in range(1, steps + 1):
        now = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= now
        shares.append(((1 - now) / (1 - product), following / (1 - product * following)))
    return shares


OPTION = NAdam()
