"""The exercise of ddp: average the gradients of all processes yourself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.lab.exercise import Exercise

AllMean = Callable[[Tensor], Tensor]


def stub(model: nn.Module, share: float, all_mean: AllMean) -> None:
    """What the learner starts from."""


def reference(model: nn.Module, share: float, all_mean: AllMean) -> None:
    """Weight this rank's gradients by its share of the rows, and average them over the ranks."""
    for p in model.parameters():
        mine = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad = all_mean(mine * share)


class Ranks:
    """Two ranks without processes: the attempt runs for each in turn, twice.

    The first time its calls of all_mean are written down; the second time they are answered.
    """

    def __init__(
        self, attempt: Callable, make: Callable[[], list[nn.ParameterList]], shares: list[float]
    ) -> None:
        self.sent: list[list[Tensor]] = []
        for model, share in zip(make(), shares, strict=True):
            sent: list[Tensor] = []
            attempt(model, share, lambda tensor, sent=sent: _keep(sent, tensor))
            self.sent.append(sent)
        self.problem, models = self._problem(), make()
        if self.problem is None:
            for model, share in zip(models, shares, strict=True):
                answers = iter([sum(each) / len(each) for each in zip(*self.sent, strict=True)])
                attempt(model, share, lambda tensor, answers=answers: next(answers).clone())
        self.grads = [[p.grad for p in model.parameters()] for model in models]
        self.weights = [[float(p.detach()) for p in model.parameters()] for model in models]

    def _problem(self) -> str | None:
        """What makes a collective hang: one rank calls it and another does not."""
        first, second = ([tuple(t.shape) for t in sent] for sent in self.sent)
        if len(first) != len(second):
            return (
                f"rank 0 called all_mean {len(first)} times and rank 1 {len(second)} times: with "
                f"real processes the one that calls once more waits for ever."
            )
        for call, (a, b) in enumerate(zip(first, second, strict=True), start=1):
            if a != b:
                return f"in call {call} of all_mean rank 0 sent shape {a} and rank 1 {b}."
        return None


def _keep(sent: list[Tensor], tensor: Tensor) -> Tensor:
    sent.append(tensor.detach().clone())
    return tensor.detach().clone()


def _model(gradients: list[float | None], weight: float) -> nn.ParameterList:
    """A model of parameters of one number each, with these gradients."""
    model = nn.ParameterList([torch.full((1,), weight) for _ in gradients])
    for p, gradient in zip(model, gradients, strict=True):
        p.grad = None if gradient is None else torch.tensor([gradient])
    return model


def _numbers(grads: list[Tensor | None]) -> list[float | None]:
    return [None if grad is None else round(float(grad), 4) for grad in grads]


def _run(attempt: Callable, mine: list, others: list, shares: list[float]) -> Ranks:
    return Ranks(attempt, lambda: [_model(mine, 5.0), _model(others, 6.0)], shares)


def every_rank_has_the_mean(attempt: Callable[..., Any]) -> str | None:
    """Equal shares: the plain mean, on both ranks."""
    ranks = _run(attempt, [1.0, 4.0], [3.0, 0.0], [1.0, 1.0])
    found = [_numbers(grads) for grads in ranks.grads]
    if ranks.problem:
        return ranks.problem
    if found != [[2.0, 2.0]] * 2:
        return (
            f"rank 0 has the gradients [1, 4], rank 1 [3, 0], both half of the rows: expected "
            f"[2.0, 2.0] in p.grad on both, got {found[0]} on rank 0 and {found[1]} on rank 1."
        )
    return None


def unequal_shares_are_weighted(attempt: Callable[..., Any]) -> str | None:
    """Three rows on one rank, one on the other: the mean over the rows."""
    ranks = _run(attempt, [1.0], [3.0], [1.5, 0.5])
    found = [_numbers(grads) for grads in ranks.grads]
    if ranks.problem is None and found != [[1.5], [1.5]]:
        return (
            f"rank 0 has 3 rows (share 1.5) and gradient [1], rank 1 one row (share 0.5) and [3]: "
            f"the mean over the four rows is 1.5, got {found[0]} on rank 0 and {found[1]} on 1."
        )
    return ranks.problem


def an_unused_parameter_is_averaged_too(attempt: Callable[..., Any]) -> str | None:
    """A gradient of None on one rank counts as zero; both ranks go through the same calls."""
    ranks = _run(attempt, [2.0, None], [4.0, 6.0], [1.0, 1.0])
    if ranks.problem:
        return f"where rank 0 has no gradient (p.grad is None) for one parameter, {ranks.problem}"
    found = [_numbers(grads) for grads in ranks.grads]
    if found != [[3.0, 3.0]] * 2:
        return (
            f"rank 0 has the gradients [2, None], rank 1 [4, 6]: expected [3.0, 3.0] on both (None "
            f"counts as zero), got {found[0]} on rank 0 and {found[1]} on rank 1."
        )
    return None


def weights_stay(attempt: Callable[..., Any]) -> str | None:
    """Gradients are averaged, not weights."""
    ranks = _run(attempt, [1.0], [3.0], [1.0, 1.0])
    if ranks.weights != [[5.0], [6.0]]:
        return (
            f"rank 0 has the weight [5] and the gradient [1], rank 1 [6] and [3]: expected the "
            f"weights untouched, got {ranks.weights[0]} on rank 0 and {ranks.weights[1]} on rank 1."
        )
    return None


EXERCISES = [
    Exercise(
        "average_gradients",
        stub,
        reference,
        [
            every_rank_has_the_mean,
            unequal_shares_are_weighted,
            an_unused_parameter_is_averaged_too,
            weights_stay,
        ],
    )
]
