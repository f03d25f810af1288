"""Check the forward pass of a first step, layer by layer: one function for each problem.

Each function looks at call `i` and returns a verdict with advice, or None if it finds nothing.
"""

from __future__ import annotations

import math

from nbkit.initialization.first_step import FirstStep
from nbkit.initialization.verdict import (
    LARGER,
    SMALLER,
    InitVerdict,
    LayerFinding,
    format_rate,
)

_SIGNAL_LIMIT = 10.0  # the signal may grow or shrink by this factor between two layers
_DEAD_LIMIT = 0.4  # share of units; with Kaiming's weights the 20th ReLU layer has half of it
_ENOUGH_SAMPLES = 8  # a healthy unit may well be zero for a few samples
_SATURATED_LIMIT = 0.3  # share of outputs
_SAME_LIMIT = 0.02  # share of an output; below it all samples look the same
_MOSTLY_BIAS = 0.5  # share of an output that varies; below it the bias is the larger part


def check_finite(step: FirstStep, i: int) -> LayerFinding | None:
    """Report an output or a gradient that is not finite."""
    numbers = step.calls[i].numbers
    if not math.isfinite(numbers.output_rms):
        first = step.find_first_nonfinite()
        if first is None or first is step.calls[i]:
            advice = "It is the first: look for NaN or inf in its weights and its input."
        else:
            advice = f"The output of {first.name} before it is not finite either: start there."
        return InitVerdict.NOT_FINITE, advice
    # Without a gradient there is nothing that could overflow.
    if not math.isfinite(numbers.gradient_rms or 0.0):
        return InitVerdict.GRADIENT_NOT_FINITE, "The loss or a layer after it overflows."
    return None


def check_zero_output(step: FirstStep, i: int) -> LayerFinding | None:
    """Report an output of zeros; it is ok if the layer starts at zero and moves."""
    call = step.calls[i]
    if call.numbers.output_rms != 0:
        return None
    if step.owns_gate(call):
        return InitVerdict.OK, "It starts at zero, and moves at the first step."
    return InitVerdict.NO_OUTPUT, (
        f"Its output is zero and stays zero: its weights or all of its inputs are zero"
        f"{step.mention_dead_layer()}. Draw the weights at random (kaiming_normal)."
    )


def check_copies(step: FirstStep, i: int) -> LayerFinding | None:
    """Report units with the same weights and gradients, which no training can separate.

    In the last layer the target separates them as soon as it holds the classes of both.
    """
    call = step.calls[i]
    copies = call.numbers.duplicates
    # A weight of zeros has equal rows, and moves at the first step.
    starts_at_zero = f"{call.path}.weight" in [gate.name for gate in step.gates]
    if not copies or starts_at_zero or i == step.last:
        return None
    return InitVerdict.SYMMETRIC, (
        f"{copies:.0f} units are copies of others and stay so, with the same weights and "
        f"gradients. Draw the weights at random."
    )


def check_dead_units(step: FirstStep, i: int) -> LayerFinding | None:
    """Report units whose ReLU gives zero for every sample: no gradient passes them."""
    share = step.calls[i].numbers.dead or 0.0
    if share < _DEAD_LIMIT or step.samples < _ENOUGH_SAMPLES:
        return None
    return InitVerdict.DEAD, (
        f"{share:.0%} of its units are zero for all {step.samples} samples. Start biases at "
        f"zero and weights by kaiming_normal, or use a leaky ReLU."
    )


def check_saturation(step: FirstStep, i: int) -> LayerFinding | None:
    """Report outputs at a limit of their activation.

    The bias of a last layer may put it there: it starts at the probability of a rare class.
    """
    numbers = step.calls[i].numbers
    share, varying = numbers.saturated or 0.0, numbers.output_varying
    by_bias = varying is not None and varying < _MOSTLY_BIAS and i == step.last
    if share < _SATURATED_LIMIT or by_bias:
        return None
    return InitVerdict.SATURATED, (
        f"{share:.0%} of its outputs are at a limit, where no gradient passes. {SMALLER}"
    )


def check_signal_size(step: FirstStep, i: int) -> LayerFinding | None:
    """Report a signal that vanishes or explodes, unless a normalisation follows.

    The inputs of all later layers must show it as well: the end of a residual branch may be small.
    The last layer is judged by the loss.
    """
    last_stretch = step.calls[step.last].stretch
    if i == step.last or step.calls[i].stretch != last_stretch:
        return None
    # Compare with the first layer since the last normalisation, or with the model's input.
    stretch = step.list_stretch(i)
    start, name = step.read_size(stretch[0]), step.calls[stretch[0]].name
    if i == stretch[0] == step.mixing[0] and step.input_rms:
        start, name = step.input_rms, "the input"

    # Growth of this output, then of the inputs of all later layers, since the start.
    factors = [step.read_size(i) / start]
    for j in step.mixing:
        arriving = step.calls[j].numbers.input_rms
        if j > i and arriving is not None and math.isfinite(arriving):
            factors.append(arriving / start)
    rate = format_rate(factors[0], f"since {name}", stretch.index(i) or 1)
    if max(factors) < 1 / _SIGNAL_LIMIT:
        return InitVerdict.SIGNAL_VANISHING, f"{rate} {LARGER}"
    if min(factors) > _SIGNAL_LIMIT:
        return InitVerdict.SIGNAL_EXPLODING, f"{rate} {SMALLER}"
    return None


def check_variation(step: FirstStep, i: int) -> LayerFinding | None:
    """Report an output that is nearly the same for every sample, as are all outputs after it.

    Inputs and outputs of all later layers must be so too; in the last layer, its own input. A head
    may start at a constant by its bias, such as the log of the classes' frequencies or the mean of
    the target.
    """
    own = step.calls[i].numbers.output_varying
    if own is None:
        return None
    known = [own]
    later = [step.calls[j] for j in step.mixing if j > i] or [step.calls[i]]
    for call in later:
        for share in (call.numbers.output_varying, call.numbers.input_varying):
            if share is not None:
                known.append(share)
    if max(known) >= _SAME_LIMIT:
        return None
    return InitVerdict.CONSTANT, (
        f"Only {own:.1%} of its output differs from sample to sample{step.mention_dead_layer()}. "
        f"Start biases at zero. {LARGER}"
    )
