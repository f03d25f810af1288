"""Set and check the exercise of ddp: average the gradients of all processes yourself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

AllMean = Callable[[Tensor], Tensor]
Attempt = Callable[[nn.Module, float, AllMean], None]
Gradient = float | None  # of a parameter that is a single number


def stub_average_gradients(model: nn.Module, share: float, all_mean: AllMean) -> None:
    """Do nothing yet: the learner starts from here."""


def solve_average_gradients(model: nn.Module, share: float, all_mean: AllMean) -> None:
    """Weight this rank's gradients by its share of the rows, and average them over the ranks."""
    for p in model.parameters():
        # Every rank makes the same calls: a rank without a gradient sends zeros.
        mine = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad = all_mean(mine * share)


class PretendRanks:
    """Pretend two ranks without processes: run the attempt on each in turn, twice.

    The first pass records its calls of all_mean, the second one answers them.

    Attributes:
        problem: why real processes would hang, or None.
        grads: for each rank the gradients afterwards, rounded; None if there is none.
        weights: for each rank the weights afterwards.
    """

    def __init__(
        self, attempt: Attempt, make: Callable[[], list[nn.ParameterList]], shares: list[float]
    ) -> None:
        self.sent: list[list[Tensor]] = []  # for each rank, what it sent to all_mean
        for model, share in zip(make(), shares, strict=True):
            self.sent.append([])
            attempt(model, share, _record_calls(self.sent[-1]))
        models = make()
        self.problem = self._find_problem()
        if self.problem is None:
            for model, share in zip(models, shares, strict=True):
                attempt(model, share, _answer_calls(self.sent))
        self.grads = [_read_gradients(model) for model in models]
        self.weights = [_read_weights(model) for model in models]

    def _find_problem(self) -> str | None:
        """Say what would make a collective hang: one rank calls it and another does not."""
        # Real ranks must send as many tensors as each other, and of the same shapes.
        first, second = map(_list_shapes, self.sent)
        if len(first) != len(second):
            return (
                f"rank 0 called all_mean {len(first)} times and rank 1 {len(second)} times: with "
                f"real processes the one that calls once more waits forever."
            )
        for call, (a, b) in enumerate(zip(first, second, strict=True), start=1):
            if a != b:
                return f"in call {call} of all_mean rank 0 sent shape {a} and rank 1 {b}."
        return None


def _list_shapes(tensors: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def _record_calls(sent: list[Tensor]) -> AllMean:
    """Make an all_mean that keeps a copy of each tensor that it is called with."""

    def record_call(tensor: Tensor) -> Tensor:
        sent.append(tensor.detach().clone())
        return tensor.detach().clone()

    return record_call


def _answer_calls(sent: list[list[Tensor]]) -> AllMean:
    """Make an all_mean that returns the means of what the ranks have sent, call by call."""
    calls = zip(*sent, strict=True)

    def answer_call(tensor: Tensor) -> Tensor:
        return torch.stack(next(calls)).mean(0)

    return answer_call


def _make_model(gradients: list[Gradient], weight: float) -> nn.ParameterList:
    """Make a model whose parameters are one number each, with these gradients."""
    model = nn.ParameterList()
    for gradient in gradients:
        parameter = nn.Parameter(torch.full((1,), weight))
        parameter.grad = None if gradient is None else torch.tensor([gradient])
        model.append(parameter)
    return model


def _read_gradients(model: nn.Module) -> list[Gradient]:
    """Read each parameter's gradient, rounded so that the checks can compare with ==."""
    numbers: list[Gradient] = []
    for p in model.parameters():
        numbers.append(None if p.grad is None else round(float(p.grad), 4))
    return numbers


def _read_weights(model: nn.Module) -> list[float]:
    return [float(p.detach()) for p in model.parameters()]


def _pretend_two(
    attempt: Attempt, mine: list[Gradient], others: list[Gradient], shares: list[float]
) -> PretendRanks:
    """Run an attempt on two ranks with these gradients and shares of the rows."""
    # Different weights, so that a check sees if the weights are averaged, too.
    return PretendRanks(attempt, lambda: [_make_model(mine, 5.0), _make_model(others, 6.0)], shares)


def check_mean_on_every_rank(attempt: Attempt) -> str | None:
    """With equal shares, both ranks have the plain mean."""
    ranks = _pretend_two(attempt, [1.0, 4.0], [3.0, 0.0], [1.0, 1.0])
    found = ranks.grads
    if ranks.problem:
        return ranks.problem
    # The mean of 1 and 3, and of 4 and 0.
    if found != [[2.0, 2.0]] * 2:
        return (
            f"rank 0 has the gradients [1, 4], rank 1 [3, 0], both half of the rows: expected "
            f"[2.0, 2.0] in p.grad on both, got {found[0]} on rank 0 and {found[1]} on rank 1."
        )
    return None


def check_unequal_shares(attempt: Attempt) -> str | None:
    """With three rows on one rank and one on the other, both have the mean over the rows."""
    ranks = _pretend_two(attempt, [1.0], [3.0], [1.5, 0.5])
    found = ranks.grads
    if ranks.problem is None and found != [[1.5], [1.5]]:
        return (
            f"rank 0 has 3 rows (share 1.5) and gradient [1], rank 1 one row (share 0.5) and [3]: "
            f"the mean over the four rows is 1.5, got {found[0]} on rank 0 and {found[1]} on 1."
        )
    return ranks.problem


def check_unused_parameter(attempt: Attempt) -> str | None:
    """A gradient of None counts as zero, and both ranks make the same calls."""
    ranks = _pretend_two(attempt, [2.0, None], [4.0, 6.0], [1.0, 1.0])
    if ranks.problem:
        return f"where rank 0 has no gradient (p.grad is None) for one parameter, {ranks.problem}"
    found = ranks.grads
    if found != [[3.0, 3.0]] * 2:
        return (
            f"rank 0 has the gradients [2, None], rank 1 [4, 6]: expected [3.0, 3.0] on both (None "
            f"counts as zero), got {found[0]} on rank 0 and {found[1]} on rank 1."
        )
    return None


def check_weights_stay(attempt: Attempt) -> str | None:
    """Gradients are averaged, and weights stay as they are."""
    ranks = _pretend_two(attempt, [1.0], [3.0], [1.0, 1.0])
    if ranks.weights != [[5.0], [6.0]]:
        return (
            f"rank 0 has the weight [5] and the gradient [1], rank 1 [6] and [3]: expected the "
            f"weights untouched, got {ranks.weights[0]} on rank 0 and {ranks.weights[1]} on rank 1."
        )
    return None


# The docstring of a check is what a learner reads as expected if the attempt raises.
EXERCISES = [
    Exercise(
        "average_gradients",
        stub_average_gradients,
        solve_average_gradients,
        [
            check_mean_on_every_rank,
            check_unequal_shares,
            check_unused_parameter,
            check_weights_stay,
        ],
    )
]

ANSWERS = {
    "rows": Answer(
        choices="abc",
        right="c",
        why="in c each rank shuffles all rows by a seed of its own and takes half. About a quarter "
        "of the rows come twice in an epoch, and a quarter never. It looks like a training that "
        "works, with a little less data.",
        hints={
            "a": "the order depends on the epoch only, so both ranks have the same one; one rank "
            "takes the even places, the other the odd ones.",
            "b": "the halves are cut before anything is shuffled, so no row is in both. It has "
            "another weakness: a rank never sees the rows of the other half.",
        },
    )
}
