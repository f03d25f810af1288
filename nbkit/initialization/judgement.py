"""Judge a first step: one verdict for each layer, and one for the loss."""

from __future__ import annotations

import math

from nbkit.initialization.first_step import FirstStep
from nbkit.initialization.gradient_checks import check_gradient
from nbkit.initialization.signal_checks import (
    check_copies,
    check_dead_units,
    check_finite,
    check_saturation,
    check_signal_size,
    check_variation,
    check_zero_output,
)
from nbkit.initialization.verdict import InitVerdict, LayerFinding, LossVerdict

_HIGH_LOSS = 1.5  # with Kaiming's weights in the last layer, 1.3 of the loss of equal probabilities
_LOW_LOSS = 0.9  # of the smaller reference; an untrained model comes this close by chance


def judge_call(step: FirstStep, i: int) -> LayerFinding:
    """Return the worst problem of call `i`, with advice."""
    # The worst first: a later check may fail as a consequence of an earlier one.
    checks = [check_finite, check_zero_output, check_copies, check_dead_units, check_saturation]
    if i in step.mixing:
        checks += [check_signal_size, check_variation]
    for check in [*checks, check_gradient]:
        finding = check(step, i)
        if finding is not None:
            return finding
    return InitVerdict.OK, ""


def judge_loss(
    loss: float | None, uniform: float | None, frequent: float | None
) -> tuple[LossVerdict, str]:
    """Compare the first loss with that of a model that knows nothing.

    Args:
        uniform: the loss of equal probabilities.
        frequent: the loss of the classes' frequencies, where a head's bias may start.
    """
    if loss is None:
        return LossVerdict.OK, "Not measured: there is no loss_fn."
    if not math.isfinite(loss):
        return LossVerdict.NOT_FINITE, "Look for NaN or inf in the batch, the weights and the loss."
    if uniform is None:
        return LossVerdict.OK, "There is nothing to compare it with."
    if loss > _HIGH_LOSS * uniform:
        return LossVerdict.TOO_HIGH, (
            f"It is {loss / uniform:.2g} times the loss of equal probabilities: the model is "
            f"confident before it has learned anything. Scale the last layer down, or start it at "
            f"zero."
        )
    # A head may start at either reference by its bias.
    known = [size for size in (uniform, frequent) if size is not None and math.isfinite(size)]
    if loss < _LOW_LOSS * min(known, default=0.0):
        return LossVerdict.TOO_LOW, (
            "It is below the loss of equal probabilities, and of the classes' frequencies. Is the "
            "model trained already, or does the input hold the target?"
        )
    return LossVerdict.OK, ""
