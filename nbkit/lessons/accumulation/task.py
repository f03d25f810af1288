"""What lesson `accumulation` trains and measures: networks, and gradients in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nbkit import accumulate, initialize_
from nbkit.lab.data import Data
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import train


def build_net(width: int = 64, inputs: int = 64) -> nn.Module:
    """Build the lesson's network: two hidden layers, with Kaiming initialisation."""
    model = mlp(2, width, inputs=inputs)
    initialize_(model, "kaiming_normal")
    return model


def build_batchnorm_net() -> nn.Module:
    """Build a network with one hidden layer, normalised by the batch."""
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def start_training(
    seed: int, lr: float = 0.1, inputs: int = 64
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Build the lesson's network and its optimizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = build_net(inputs=inputs)
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def shuffle_epoch(data: Data, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Shuffle one epoch into batches of this size; the last batch holds the rest."""
    # A generator of the epoch: the global random state stays as it is.
    order = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))
    return [(data.x_train[rows], data.y_train[rows]) for rows in order.split(size)]


def have_equal_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same weights, up to rounding."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(one, two, rtol=1e-4, atol=1e-5) for one, two in pairs)


def compute_micro_gradients(model: nn.Module, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Compute the gradient of each micro-batch's mean loss: (micro-batches, parameters).

    Samples that fill no micro-batch at the end are left out. Nothing is changed.

    >>> model = nn.Linear(2, 3)
    >>> x, y = torch.zeros(7, 2), torch.zeros(7, dtype=torch.long)
    >>> compute_micro_gradients(model, x, y, size=2).shape
    torch.Size([3, 9])
    """
    count = len(x) // size
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (x,)), y)

    # (micro-batches, size, ...): the batch axis that vmap takes apart.
    xs, ys = (t[: count * size].unflatten(0, (count, size)) for t in (x, y))
    # One gradient for each micro-batch, at the same weights.
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, xs, ys)
    return torch.cat([gradients[name].flatten(1) for name in weights], dim=1)


@torch.no_grad()
def measure_mean_decrease(
    model: nn.Module, gradients: Tensor, x: Tensor, y: Tensor, lrs: Sequence[float]
) -> Tensor:
    """Measure by how much a step along one of these gradients lowers the loss: mean, (lrs,).

    Args:
        gradients: (steps, parameters), as `compute_micro_gradients` gives them.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    # Back from one long row to the shape of each parameter.
    columns = gradients.split([w.numel() for w in weights.values()], dim=1)
    along = {
        name: column.unflatten(1, w.shape)
        for (name, w), column in zip(weights.items(), columns, strict=True)
    }

    def loss(direction: dict[str, Tensor], lr: float) -> Tensor:
        moved = {name: w - lr * direction[name] for name, w in weights.items()}
        return cross_entropy(functional_call(model, moved, (x,)), y)

    # The mean over all directions, for each lr.
    after = [vmap(loss, in_dims=(0, None))(along, lr).mean() for lr in lrs]
    return cross_entropy(model(x), y) - torch.stack(after)


def measure_step_worth(
    data: Data, seeds: Sequence[int], lrs: Sequence[float]
) -> dict[str, list[Tensor]]:
    """Measure by how much one step lowers the loss, after sixteen steps of training.

    Returns:
        for a step from one micro-batch of 8, and from eight: for each seed the mean decrease at
        each lr (lrs,), in units of the best from one.
    """
    brings: dict[str, list[Tensor]] = {"from one micro-batch": [], "from eight": []}
    for seed in seeds:
        model, optimizer = start_training(seed, lr=0.2)
        for _ in train(model, data.batches(64, seed=seed, steps=16), optimizer, cross_entropy):
            pass
        ((x, y),) = shuffle_epoch(data, len(data.x_train), seed)
        g = compute_micro_gradients(model, x, y, size=8)[:184]
        # Every sixth micro-batch is enough for the mean; 184 make 23 windows of eight.
        one = measure_mean_decrease(model, g[::6], x[:512], y[:512], lrs)
        eights = torch.unflatten(g, 0, (-1, 8)).mean(1)
        eight = measure_mean_decrease(model, eights, x[:512], y[:512], lrs)
        brings["from one micro-batch"].append(one / one.max())
        brings["from eight"].append(eight / one.max())
    return brings


def step_in_pieces(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, pieces: int
) -> None:
    """Take one step from a batch in pieces, as one would write it at first."""
    optimizer.zero_grad()
    for part, labels in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        # The mean loss of this piece; backward() adds its gradient to those before.
        loss = cross_entropy(model(part), labels)
        torch.autograd.backward(loss)
    optimizer.step()


def accumulate_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
) -> None:
    """Train one epoch with `steps` micro-batches to a step, weighted by the library."""
    for window in accumulate(batches, steps=steps, model=model):
        for micro in window:
            x, y = micro.batch
            torch.autograd.backward(cross_entropy(model(x), y) * micro.weight)
        optimizer.step()
        optimizer.zero_grad()


# ---- the bug hunt: after which of n micro-batches a step is due, with k to a window ----


def step_by_modulus(n: int, k: int) -> list[int]:
    """Take the length of the short window for the modulus at the end: snippet a."""
    rest = n % k
    sizes = [k if i < n - rest else rest for i in range(n)]
    return [i for i in range(n) if (i + 1) % sizes[i] == 0 or i + 1 == n]


def step_by_count(n: int, k: int) -> list[int]:
    """Step after each multiple of k, and after the last: snippet b."""
    return [i for i in range(n) if (i + 1) % k == 0 or i + 1 == n]


def step_by_window(n: int, k: int) -> list[int]:
    """Step at the end of each window: snippet c."""
    return [min(start + k, n) - 1 for start in range(0, n, k)]


STEPPERS = {"a": step_by_modulus, "b": step_by_count, "c": step_by_window}
