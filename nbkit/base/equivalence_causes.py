"""Find out why the gradients of a batch's parts do not add up to the gradient of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nbkit.base.batch_gradients import (
    Gradients,
    LossFunction,
    compute_gradients,
    differentiate_loss,
)
from nbkit.base.equivalence import (
    EquivalenceCause,
    EquivalenceReport,
    compare_gradients,
    find_largest_entry,
)
from nbkit.base.suspect_layers import Suspects, switch_off_layers

Kinds = frozenset[EquivalenceCause]  # of layers that are switched off
Advised = tuple[EquivalenceCause, str]

ADVICE = {
    EquivalenceCause.BATCHNORM: (
        "BatchNorm ({layers}) normalises each part of the batch by the statistics of that part. "
        "Freeze it, use a norm over the sample (LayerNorm, GroupNorm), or accept the difference."
    ),
    EquivalenceCause.DROPOUT: (
        "Dropout ({layers}) draws new masks for each part. The gradient is another sample of the "
        "same random gradient, not a wrong one."
    ),
}
STARVED = (
    "BatchNorm ({layers}) gets one value a channel from a part, which has no variance, so torch "
    "refuses to train on it. Take larger parts, freeze it, or use a norm over the sample "
    "(LayerNorm, GroupNorm)."
)
RANDOM_NUMBERS = (
    "The forward pass draws random numbers outside of dropout layers. The gradient is another "
    "sample of the same random gradient, not a wrong one."
)
COUPLED_SAMPLES = (
    "Neither weights of the parts nor BatchNorm nor dropout explain the difference, so the loss or "
    "the model couples the samples of a batch: a contrastive loss, the root or logarithm of a "
    "mean, or batch statistics made by hand."
)
NOT_FINITE = "A gradient is not finite, so it cannot be compared. find_nonfinite names the module."


def explain_difference(
    suspects: Suspects,
    measure: Callable[[Kinds], EquivalenceReport],
    find_rest: Callable[[Kinds], Advised],
    starved: Sequence[str] = (),
) -> EquivalenceReport:
    """Compare the gradients and, if they differ by more than rounding, add the causes.

    Args:
        suspects: the suspect layers of the model.
        measure: compares with these kinds of layers switched off.
        find_rest: names what remains with these kinds switched off, with a sentence of advice.
        starved: BatchNorm layers that cannot be measured with the others, see
            `find_starved_layers`.
    """
    if starved:
        return _explain_without_batchnorm(suspects, measure, find_rest, starved)
    report = measure(frozenset())
    if report.equivalent:
        return report
    # NaN would make every suspect look guilty.
    if math.isfinite(report.error):
        report.causes = _find_causes(suspects, measure, find_rest)
    else:
        report.causes = {EquivalenceCause.NOT_FINITE: NOT_FINITE}
    return report


def _explain_without_batchnorm(
    suspects: Suspects,
    measure: Callable[[Kinds], EquivalenceReport],
    find_rest: Callable[[Kinds], Advised],
    starved: Sequence[str],
) -> EquivalenceReport:
    """Name BatchNorm as one cause, and find the others with BatchNorm switched off."""
    off = frozenset({EquivalenceCause.BATCHNORM})
    others = {kind: names for kind, names in suspects.items() if kind not in off}
    rest = explain_difference(
        others, lambda more: measure(off | more), lambda more: find_rest(off | more)
    )
    advice = STARVED.format(layers=", ".join(starved[:3]))
    causes = {EquivalenceCause.BATCHNORM: advice, **rest.causes}
    return EquivalenceReport(math.inf, False, causes, rest.tolerance)


def _find_causes(
    suspects: Suspects,
    measure: Callable[[Kinds], EquivalenceReport],
    find_rest: Callable[[Kinds], Advised],
) -> dict[EquivalenceCause, str]:
    """Tell which of the suspects cause a difference, and what else does if they do not."""
    every = frozenset(suspects)
    guilty = list(suspects)
    rest: list[Advised] = []
    # If all suspects together explain it, test each alone; otherwise something else is at work.
    if suspects and measure(every).equivalent:
        # One kind is guilty if the difference is there with all the others switched off.
        guilty = [kind for kind in suspects if not measure(every - {kind}).equivalent]
    else:
        rest = [find_rest(every)]
    causes = {}
    for kind in guilty:
        causes[kind] = ADVICE[kind].format(layers=", ".join(suspects[kind][:3]))
    return {**causes, **dict(rest)}


def find_remaining_cause(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    parts: Sequence[Any],
    explain_weights: Callable[[list[float]], Advised],
    off: Kinds,
) -> Advised:
    """Find why the parts' gradients do not add up to the batch's, where no suspect layer does it.

    Args:
        explain_weights: the cause if other weights of the parts would make the sum right.
        off: the kinds of suspect layers, to be switched off.
    """
    with switch_off_layers(model, off):
        reference, loss = differentiate_loss(model, loss_fn, batch)
        # The same batch with another seed: a difference can only come from random numbers.
        again = compute_gradients(model, loss_fn, batch, seed=1)
        if not compare_gradients(reference, again).equivalent:
            return EquivalenceCause.RANDOM_NUMBERS, RANDOM_NUMBERS
        results = [differentiate_loss(model, loss_fn, part) for part in parts]
    gradients, losses = zip(*results, strict=True)
    # A wrongly weighted loss has a gradient that is another weighted sum of the parts'.
    weights = fit_weights(reference, gradients)
    if weights is None or not _are_shares(weights, loss, losses, reference):
        return EquivalenceCause.COUPLED_SAMPLES, COUPLED_SAMPLES
    return explain_weights(weights)


def _are_shares(
    weights: Sequence[float], loss: float, losses: Sequence[float], reference: Gradients
) -> bool:
    """Say whether weights are shares of loss terms, as in a mean, or all 1, as in a sum.

    A function of a mean, such as its root or its logarithm, has a gradient that is a weighted sum
    of the parts' too. But shares of terms sum to 1, which those of a root do not, and give the
    loss from the parts' losses, which those of a logarithm do not.
    """
    if are_ones(weights):
        return True
    coarsest = max(torch.finfo(gradient.dtype).eps for gradient in reference.values())
    rounding = 4 * math.sqrt(coarsest)
    if abs(sum(weights) - 1) > rounding:
        return False
    total = size = 0.0
    for weight, part in zip(weights, losses, strict=True):
        total += weight * part
        size += abs(weight * part)
    return abs(total - loss) <= rounding * size


def are_ones(weights: Sequence[float]) -> bool:
    """Say whether fitted weights are all 1: then the loss is a sum, not a mean."""
    return all(abs(weight - 1) < 0.01 for weight in weights)


def fit_weights(reference: Gradients, parts: Sequence[Gradients]) -> list[float] | None:
    """Fit the weights w with sum(w_i parts_i) = reference; None if there are none.

    Least squares by its normal equations, in float64, a parameter at a time.
    """
    if len(parts) >= sum(g.numel() for g in reference.values()):
        return None  # with so few numbers some weights always fit
    # Minimise |reference - sum w_i parts_i|^2: (parts parts^T) w = parts reference.
    gram = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    right = torch.zeros(len(parts), 1, dtype=torch.float64)
    for name, target in reference.items():
        # columns: (parts, numbers of the parameter)
        columns = torch.stack([part[name].flatten().double().cpu() for part in parts])
        gram += columns @ columns.T
        right += columns @ target.flatten().double().cpu()[:, None]
    if not gram.isfinite().all() or not right.isfinite().all():
        return None
    # gelsd: the parts may be linearly dependent, then the normal equations are singular.
    solution = torch.linalg.lstsq(gram, right, driver="gelsd").solution.flatten().tolist()
    combined: Gradients = {}
    for name in reference:
        combined[name] = torch.zeros_like(reference[name])
        for weight, part in zip(solution, parts, strict=True):
            combined[name] += weight * part[name]
    fits = compare_gradients(reference, combined, find_largest_entry(parts)).equivalent
    return solution if fits else None
