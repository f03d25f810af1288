"""The codes of verdicts, and the advice that several of them share."""

from __future__ import annotations

from nbkit.base.report import Word


class InitVerdict(Word):
    """Name the worst problem of a layer at its first step."""

    OK = "ok"
    NOT_FINITE = "not finite"
    NO_OUTPUT = "no output"
    SYMMETRIC = "symmetric"
    DEAD = "dead"
    SATURATED = "saturated"
    SIGNAL_VANISHING = "signal vanishing"
    SIGNAL_EXPLODING = "signal exploding"
    CONSTANT = "constant"
    GRADIENT_NOT_FINITE = "gradient not finite"
    GRADIENT_VANISHING = "gradient vanishing"
    GRADIENT_EXPLODING = "gradient exploding"
    NO_GRADIENT = "no gradient"
    UNUSED = "unused"


class LossVerdict(Word):
    """Name the problem of the loss before the first step."""

    OK = "ok"
    NOT_FINITE = "not finite"
    TOO_HIGH = "too high"
    TOO_LOW = "too low"


# The code and the advice. A check that has nothing to say returns None instead.
LayerFinding = tuple[InitVerdict, str]

RESIDUAL = "Add residual connections: a normalisation alone does not keep the size of the gradient."
_WEIGHTS = "weights (kaiming_normal for ReLU, xavier_uniform for tanh) or a normalisation."
SMALLER, LARGER = f"Use smaller {_WEIGHTS}", f"Use larger {_WEIGHTS}"


def format_rate(factor: float, where: str, steps: int) -> str:
    """Say by which factor a size changed, in total and per layer (the geometric mean)."""
    return f"x{factor:.2g} {where}, x{factor ** (1 / steps):.2f} a layer."
