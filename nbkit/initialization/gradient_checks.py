"""Check the backward pass of a first step: the gradient at each layer beside that at the end."""

from __future__ import annotations

from nbkit.initialization.calls import Call
from nbkit.initialization.first_step import FirstStep
from nbkit.initialization.verdict import (
    LARGER,
    RESIDUAL,
    SMALLER,
    InitVerdict,
    LayerFinding,
    format_rate,
)

# Wider than the limit of the signal: pooling spreads a gradient thin without harm.
_GRADIENT_LIMIT = 100.0


def check_gradient(step: FirstStep, i: int) -> LayerFinding | None:
    """Report a gradient that does not arrive, or arrives vanished or exploded, at call `i`."""
    norms: dict[int, float] = {}  # by call; without those that have no gradient
    for j in range(len(step.calls)):
        norm = step.read_gradient_norm(j)
        if norm is not None:
            norms[j] = norm
    if not norms:
        return None
    call = step.calls[i]
    if call.numbers.gradient_rms is None:
        return _report_missing_gradient(call)
    if call.numbers.gradient_rms == 0:
        return _report_zero_gradient(step, call)
    return _check_gradient_size(step, i, norms)


def _report_missing_gradient(call: Call) -> LayerFinding | None:
    if not call.expects_gradient:  # all layers up to it are frozen
        return None
    return InitVerdict.UNUSED, "The loss does not depend on it: is it detached, or not used?"


def _report_zero_gradient(step: FirstStep, call: Call) -> LayerFinding:
    gate = step.find_gate_after(call)
    if gate is not None:
        return InitVerdict.OK, f"Its gradient is zero until {gate.name}, which is zero, has moved."
    return InitVerdict.NO_GRADIENT, (
        f"A layer after it passes no gradient back{step.mention_dead_layer()}."
    )


def _check_gradient_size(step: FirstStep, i: int, norms: dict[int, float]) -> LayerFinding | None:
    """Compare the gradient at hidden layer `i` with that at the last hidden layer.

    Only if all layers before `i` show the same: the queries and keys of attention get little at
    first, and so does a residual branch behind a small factor, while the gradient goes past them.
    """
    # The last layer is left out: the loss alone sets its gradient.
    hidden = [j for j in step.mixing[:-1] if norms.get(j)]
    if i not in hidden or i == hidden[-1]:
        return None
    call, last = step.calls[i], hidden[-1]
    # From `i` back to the input, the nearest first; then the ends of earlier branches.
    earlier = [norms[j] for j in sorted(norms, reverse=True) if j <= i and norms[j]]
    for merge in step.merges:
        if merge.order < call.order and merge.gradient_norm:
            earlier.append(merge.gradient_norm)
    ends = [norms[last], *_list_branch_end(step, last)]

    layers_between = len(hidden) - 1 - hidden.index(i)
    name = step.calls[last].name
    rate = format_rate(earlier[0] / norms[last], f"from {name} to here", layers_between)
    # With normalisations the size of the weights hardly matters; a residual path does.
    normalised = step.calls[-1].stretch > 0
    if max(earlier) < min(ends) / _GRADIENT_LIMIT and not _is_bypassed_by_input(step, call):
        return InitVerdict.GRADIENT_VANISHING, f"{rate} {RESIDUAL if normalised else LARGER}"
    if min(earlier) > max(ends) * _GRADIENT_LIMIT:
        return InitVerdict.GRADIENT_EXPLODING, f"{rate} {RESIDUAL if normalised else SMALLER}"
    return None


def _list_branch_end(step: FirstStep, last: int) -> list[float]:
    """Return the gradient where the last branch ends, if the last hidden layer is in a branch.

    A small factor behind the branch (LayerScale, ReZero, the weight of a BatchNorm) makes the
    gradient of that layer small, while all of it reaches the layers before the branch.
    """
    head = step.calls[step.last].order
    ends: list[float] = []
    for merge in step.merges:
        if step.calls[last].order <= merge.order < head and merge.gradient_norm:
            ends.append(merge.gradient_norm)
    return ends[-1:]


def _is_bypassed_by_input(step: FirstStep, call: Call) -> bool:
    """Check whether the model's input goes past this layer: it needs no gradient there."""
    return any(merge.past_input and merge.order >= call.order for merge in step.merges)
