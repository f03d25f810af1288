"""The two live labs of lesson `amp`: one number in three formats, and a training in each of them.

The second lab rounds where autocast would: each product's factors and its result, and their
gradients on the way back. Its arithmetic is float32, so that a move is quick on a processor that
has no half precision, and so that all seeds train as one program. Tests hold it against torch's
autocast.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lessons.amp import pictures, task
from nbkit.lessons.amp.formats import choose_dtype, describe_numbers, store_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 50
BATCH = 64


# ---- one number ----


def draw_number(fig: Figure, *, number: float, log2_scale: int) -> Generator[None, None, str]:
    """Draw the bits of a number in three formats, and where it lies in their ranges."""
    left, right = fig.subplots(1, 2, width_ratios=(2, 1))
    scale = 2.0**log2_scale
    # The bits get two thirds of the width: float32 has 32 of them.
    pictures.draw_bits(left, number, scale)
    pictures.draw_ranges(right, number, scale)
    yield
    return describe_number(number, scale)


def describe_number(number: float, scale: float) -> str:
    """Say what half precision makes of a number times a scale, and which goal that reaches."""
    sentence = describe_numbers(number, scale, ("bf16", "fp16"))
    plain, scaled = store_number(number, "fp16"), store_number(number * scale, "fp16")
    if math.isinf(scaled.value):
        return f"goal 3 reached, fp16 overflows: {sentence}"
    if plain.value == 0 and scaled.value != 0:
        return f"goal 2 reached, the scale saves the number: {sentence}"
    if scaled.value == 0 and store_number(number * scale, "bf16").value != 0:
        return f"goal 1 reached, fp16 loses the number: {sentence}"
    return sentence


# ---- many trainings, rounded ----


@dataclass
class RoundedRuns:
    """Hold trainings of the network that looks for the ink, one for each seed.

    Attributes:
        weights: of each run all weights and biases in one row, (runs, numbers).
        shapes: of the pieces of a row, weight (inputs, outputs) and bias (1, outputs) in turn.
        losses: for each step so far, (runs), relative to always answering with the mean.
        skipped: (runs), how many steps were skipped.
    """

    weights: Tensor
    shapes: list[torch.Size]
    skipped: Tensor
    losses: list[Tensor] = field(default_factory=list)

    def split_weights(self) -> list[Tensor]:
        """Return the weights of each layer, (runs, inputs, outputs), and its biases in turn."""
        pieces = self.weights.split([shape.numel() for shape in self.shapes], dim=1)
        return [piece.unflatten(1, s) for piece, s in zip(pieces, self.shapes, strict=True)]

    def read_ends(self) -> list[float]:
        """Return the mean of each run's last five losses."""
        return [float(end) for end in torch.stack(self.losses[-5:]).mean(0)]


def start_runs(seeds: Sequence[int]) -> RoundedRuns:
    """Lay the initial weights of the networks with these seeds side by side."""
    rows, shapes = [], []
    for seed in seeds:
        model, _ = task.make_finder(seed)
        pieces = []
        for layer in model:
            if isinstance(layer, nn.Linear):
                pieces += [layer.weight.detach().mT, layer.bias.detach()[None]]
        shapes = [piece.shape for piece in pieces]
        rows.append(torch.cat([piece.flatten() for piece in pieces]))
    return RoundedRuns(torch.stack(rows).requires_grad_(), shapes, torch.zeros(len(seeds)))


def round_both_ways(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to a format and back; autograd rounds the gradient on its way back, too."""
    return x.to(dtype).to(torch.float32)


def answer_rounded(
    weights: Sequence[Tensor], x: Tensor, pixel: float, dtype: torch.dtype
) -> Tensor:
    """Compute where the networks see the ink, (runs, batch, 2), rounded where autocast rounds."""
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for layer, (weight, bias) in enumerate(pairs):
        # The two factors of the product and the bias are rounded, and so is the sum.
        factors = [round_both_ways(each, dtype) for each in (bias, x, weight)]
        x = round_both_ways(torch.baddbmm(*factors), dtype)
        if layer < len(pairs) - 1:
            x = x.relu()
    return round_both_ways(pixel * x, dtype)


def train_rounded(
    runs: RoundedRuns,
    data: Data,
    seeds: Sequence[int],
    *,
    pixel: float,
    precision: str,
    scale: float = 1.0,
    steps: int = STEPS,
) -> Iterator[None]:
    """Train all runs with Adam and a loss scale, as `Amp` does; yields after each step.

    A run whose gradients are not all finite skips its step, and halves its scale.
    """
    dtype, guessing = choose_dtype(precision), data.y_train.var(0).mean()
    scales, adam = torch.full((len(seeds),), scale), SkippingAdam(runs.weights, lr=task.LR)
    orders = [data.batches(BATCH, seed=seed, steps=steps).indices() for seed in seeds]
    for rows in zip(*orders, strict=True):
        batch = torch.stack(rows)  # (runs, batch)
        answers = answer_rounded(runs.split_weights(), data.x_train[batch], pixel, dtype)
        losses = (answers - data.y_train[batch]).square().mean((1, 2))
        # Each run's loss times its own scale; a loss reaches the weights of its own run only.
        (gradient,) = torch.autograd.grad((losses * scales).sum(), runs.weights)
        gradient = gradient / scales[:, None]
        # One gradient that is not finite stops the step of its run, and of no other.
        finite = gradient.isfinite().all(1)
        adam.take_step(gradient, finite)
        scales = torch.where(finite, scales, scales / 2)
        runs.skipped = runs.skipped + ~finite
        runs.losses.append(losses.detach() / guessing)
        yield


class SkippingAdam:
    """Adam for many runs, of which some skip a step."""

    def __init__(self, weights: Tensor, lr: float) -> None:
        self.weights, self.lr = weights, lr  # weights: (runs, numbers)
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros(len(weights), 1)  # steps made so far, of each run

    @torch.no_grad()
    def take_step(self, gradient: Tensor, stepped: Tensor) -> None:
        """Update the runs that step; the others keep their weights and their averages.

        Source: Kingma & Ba 2015, algorithm 1, with torch's defaults.
        """
        # What was not finite must not reach the averages, so the runs that skip are left out.
        runs = stepped.nonzero().flatten()
        gradient = gradient[runs]
        mean = 0.9 * self.mean[runs] + 0.1 * gradient
        square = 0.999 * self.square[runs] + 0.001 * gradient.square()
        steps = self.steps[runs] + 1
        self.mean[runs], self.square[runs], self.steps[runs] = mean, square, steps
        # Both averages start at 0; divided by this they are averages from the first step on.
        size = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        self.weights[runs] -= self.lr * mean / (1 - 0.9**steps) / size


@cache
def train_in_float32(pixel: float, seeds: tuple[int, ...]) -> RoundedRuns:
    """Train the same networks in float32; kept, since only the unit of length changes them."""
    data, runs = task.locate_ink(digits(), pixel), start_runs(seeds)
    for _ in train_rounded(runs, data, seeds, pixel=pixel, precision="fp32"):
        pass
    return runs


def draw_training(
    fig: Figure, *, log2_scale: int, pixel: float, precision: str, seeds: Sequence[int]
) -> Generator[None, None, str]:
    """Draw the first gradients against the format's range, and train in it and in float32."""
    left, right = fig.subplots(1, 2)
    # Only fp16 has a loss scale, as in `Amp`.
    scale = 2.0**log2_scale if precision == "fp16" else 1.0
    data = task.locate_ink(digits(), pixel)
    pictures.draw_histogram(left, task.find_first_gradients(data, pixel), precision, scale)
    yield
    plain, yours = train_in_float32(pixel, tuple(seeds)), start_runs(seeds)
    training = train_rounded(yours, data, seeds, pixel=pixel, precision=precision, scale=scale)
    for step, _ in enumerate(training, 1):
        # A picture costs more than ten steps: one on the way, and the last one.
        if step % 25 == 0:
            arms = {"float32": plain.losses[:step], "yours": yours.losses}
            pictures.draw_relative_losses(right, arms, steps=STEPS)
            share = float(yours.skipped.mean()) / step
            right.set_title(f"{100 * share:.0f} % of the steps skipped", fontsize=10)
        if step % 5 == 0:
            yield
    return describe_precision_run(yours, plain, precision, log2_scale)


def describe_precision_run(
    yours: RoundedRuns, plain: RoundedRuns, precision: str, log2_scale: int
) -> str:
    """Say in a sentence how your networks end, and which goal they have reached."""
    ends, others = yours.read_ends(), plain.read_ends()
    sentence = compare_losses("yours", ends, "float32", others)
    if precision != "fp16":
        return sentence
    # Stricter than "no difference that these seeds can see": a loss 5 % higher is ruled out.
    ends_alike, skips = paired_ratio(ends, others).high < 1.05, bool(yours.skipped.any())
    if ends_alike and log2_scale == 0:
        return f"goal 3 reached: {sentence}"
    # A few skipped steps are part of a search for the scale; goal 1 asks for none.
    if ends_alike and not skips:
        return f"goal 1 reached: {sentence}"
    if skips and "higher" in sentence:
        return f"goal 2 reached, steps are skipped: {sentence}"
    return sentence
