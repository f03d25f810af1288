"""Train many runs as one program: arms x seeds, with a leading dimension for the run.

The weights of R runs are stacked, so that one batched kernel does the work of R small ones:

    (R, batch, inputs) @ (R, inputs, outputs) + (R, 1, outputs)

What differs from run to run, such as lr, weight decay and max_norm, is data of the program: a
number for each run. Runs do not touch each other, because a loss reaches the weights of its own run
only. Arms with other layers or another kind of optimizer become separate programs behind one Runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbkit.base.state import preserve_state
from nbkit.lab.data import Batches, Data
from nbkit.lab.runs.arms import read_arms
from nbkit.lab.runs.assembly import build_model, identify_start
from nbkit.lab.runs.option import MakeModel, Rule
from nbkit.lab.runs.programs import Plan, Predict, train_separately, train_stacked

CHUNK = 1024  # samples evaluated at once; more would need much memory for many runs


class Runs:
    """Hold the results so far of runs in training, arms x seeds.

    `arms` and `seeds` name the rows and columns, and `step` counts the updates so far. A run whose
    loss stops being finite has diverged and stays so: its loss is `inf` from that step on, which
    sorts after every other. Tensors stay on the device until they are read.
    """

    def __init__(
        self, arms: Sequence[str], seeds: Sequence[int], steps: int, predict: Predict, like: Tensor
    ) -> None:
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.step = 0
        self.diverged = torch.zeros(len(arms), len(seeds), dtype=torch.bool, device=like.device)
        self._losses = like.new_empty(len(arms), len(seeds), steps)
        self._predict = predict

    @property
    def losses(self) -> Tensor:
        """Return the training losses (arms, seeds, steps so far), each before its update."""
        return self._losses[..., : self.step]

    def final(self, tail: float = 0.1) -> Tensor:
        """Average the last losses, (arms, seeds); `tail` is their share of the steps so far.

        Raises:
            ValueError: if tail is not above 0 and at most 1, or no step has been taken.
        """
        if not 0 < tail <= 1 or self.step == 0:
            raise ValueError(
                f"tail must be above 0 and at most 1, after at least one step; got tail={tail} "
                f"after {self.step} steps."
            )
        return self.losses[..., -math.ceil(tail * self.step) :].mean(-1)

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean loss and accuracy on these samples, (arms, seeds) each.

        If a run has diverged, or its loss here is not finite, the loss is `inf` and the accuracy 0.
        """
        losses, correct = [], []
        for some_x, some_y in zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True):
            chunk_losses, chunk_correct = self._score_chunk(some_x, some_y)
            losses.append(chunk_losses)
            correct.append(chunk_correct)
        shape = self.diverged.shape
        loss = torch.stack(losses).sum(0).view(shape) / len(x)
        accuracy = torch.stack(correct).sum(0).view(shape) / len(x)
        # A run that has diverged predicts nothing, even if its logits happen to be finite.
        lost = self.diverged | ~loss.isfinite()
        return loss.masked_fill(lost, torch.inf), accuracy.masked_fill(lost, 0.0)

    def _score_chunk(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return each run's summed loss and number of correct answers, (runs) each."""
        logits = self._predict(x)  # (runs, samples, classes)
        labels = y.expand(len(logits), -1)
        losses = F.cross_entropy(logits.mT, labels, reduction="none")
        return losses.sum(1), (logits.argmax(-1) == labels).sum(1)

    def _record_losses(self, losses: Tensor) -> None:
        """Store the losses (runs) of one step."""
        losses = losses.view(self.diverged.shape)  # (arms, seeds)
        # Without reading them, which would synchronise: once diverged, a run stays so.
        self.diverged = self.diverged | ~losses.isfinite()
        self._losses[..., self.step] = losses.masked_fill(self.diverged, torch.inf)
        self.step += 1


def train_runs(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    vectorize: bool = True,
) -> Iterator[Runs]:
    """Train every arm with every seed, all at once, on the cross-entropy.

    Args:
        make_model: builds a model from torch's random state, which is seeded before each call and
            restored afterwards.
        data: the training data; the models train on its device.
        arms: name -> `{"lr": 0.1, "momentum": 0.9, "schedule": step -> factor}`; lr is required. A
            number may be a list with one for each seed. An arm may also set:
            optimizer: "sgd" (the default), "adagrad", "adam", "adamw", "muon", "nadam" or
                "rmsprop", with torch's options of these names and its defaults; "lamb" or "lion"
                by their papers; "schedule_free_sgd" or "schedule_free_adamw", whose losses are at
                the weights that train, while `evaluate` looks at their average. Muon trains
                hidden matrices, and AdamW the rest.
            weight_decay: 0.1 for "muon", 0.01 for "adamw" and "lamb", otherwise 0 by default.
            lr_factors: (name, layers_above) -> factor on the lr of one parameter.
            max_norm, max_value or agc: clips each run's gradients, as `clip_gradients_` does with
                nonfinite="ignore"; `inf` does not clip.
            init: a function that sets a built model's weights, or a scheme of nbkit.initialize_
                by name, with an optional gain; drawn from the seed, after the model.
            model: builds this arm's model in place of make_model, from the same seed. Weights that
                both draw in the same order are equal, so draw first what the arms share.
            precision: "bf16" computes the forward pass under torch's autocast; default "fp32".
            label_smoothing: of the training loss and of `Runs.losses`; `evaluate` measures the
                plain cross-entropy in every arm.
        seeds: one run for each, in every arm. Runs with the same seed are paired: the same batches
            in the same order and, for the same model and init, the same initial weights.
        steps: number of optimizer updates of each run.
        batch_size: number of samples in each batch.
        vectorize: False trains the runs one by one: any model, the same result, slower.
    Returns:
        Iterator[Runs]: yields the same object after each update of all runs, with one more step.
    Raises:
        ValueError: if arms or seeds cannot be read, or a model has a layer that cannot be stacked.

    Any model of torch's layers is stacked, whatever its forward: Linear, Conv1d, Conv2d, BatchNorm,
    pooling and activations by fast kernels, everything else through torch.func.vmap. Refused by
    name are Dropout in training, hooks, shared parameters or buffers, padding in a lookup other
    than nn.Embedding's, and a forward that draws random numbers or branches on values. Before the
    first step, a few samples go through every model and its stack, in training and in evaluation,
    and a stack that computes something else is refused.

    "The same result" means up to rounding. A weight that the loss does not see, such as a bias
    before a BatchNorm, has a gradient of rounding errors only, and Adam turns them into whole
    steps. The losses agree, but running statistics follow that weight with a delay, so `evaluate`
    may differ by more.

    To add something that an arm may set, add a file to `nbkit.lab.runs.options`.

    >>> from nbkit.lab.data import digits
    >>> from nbkit.lab.models import mlp
    >>> arms = {"slow": {"lr": 0.01}, "fast": {"lr": 0.1}}
    >>> for runs in train_runs(mlp, digits(), arms, seeds=range(4), steps=20, batch_size=64):
    ...     pass
    >>> runs.losses.shape, bool((runs.final() < 2.4).all())
    (torch.Size([2, 4, 20]), True)
    """
    # Repeated seeds would count one run several times.
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers, at least one, got {seeds}.")
    rules = read_arms(arms, len(seeds), steps)
    orders = [data.batches(batch_size, seed=seed, steps=steps) for seed in seeds]

    with preserve_state():
        models = _build_models(make_model, rules, orders)
    # The runs stand arm after arm, and within an arm seed after seed.
    plans = list(map(Plan, models, rules, orders * len(arms)))
    predict, losses = train_stacked(plans, data) if vectorize else train_separately(plans, data)
    runs = Runs(list(arms), seeds, steps, predict, like=next(models[0].parameters()))
    return _record_steps(runs, losses)


def _build_models(
    make_model: MakeModel,
    rules: Sequence[Rule],
    orders: Sequence[Batches],
) -> list[nn.Module]:
    """Build the model of each run; runs that start from the same one share it."""
    built: dict[Hashable, nn.Module] = {}
    models = []
    for run, rule in enumerate(rules):
        order = orders[run % len(orders)]
        start = (identify_start(rule), order.seed)
        if start not in built:
            built[start] = build_model(rule, make_model, order.seed).to(order.x.device)
        models.append(built[start])
    # Equal ids among different starts: make_model returned one object twice.
    if len(set(map(id, built.values()))) < len(built):
        raise ValueError("make_model must build a new model at each call, got the same one again.")
    return models


def _record_steps(runs: Runs, losses: Iterator[Tensor]) -> Iterator[Runs]:
    for step_losses in losses:
        runs._record_losses(step_losses)
        yield runs
