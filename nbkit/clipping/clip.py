"""Clip gradients by their global norm, by value, or adaptively, unit by unit.

    max_norm:   g <- g * min(1, max_norm / (total_norm + 1e-6))
    max_value:  g <- min(max(g, -max_value), max_value), element by element
    agc:        g_i <- g_i * min(1, agc * max(|w_i|, eps) / |g_i|), unit by unit

A unit is the part of a parameter that computes one output: a row of a Linear or Embedding weight, a
filter of a convolution (transposed or not), a row along axis 0 of any other array. A vector, such
as a bias, is one unit. Clipping by norm keeps the direction of the whole gradient, agc keeps the
direction of each unit, and clipping by value keeps neither.

>>> import torch
>>> weight = nn.Parameter(torch.zeros(2))
>>> weight.grad = torch.tensor([3.0, 4.0])
>>> report = clip_gradients_([weight], max_norm=1.0)
>>> report.total_norm, round(report.coefficient, 4), weight.grad
(5.0, 0.2, tensor([0.6000, 0.8000]))

Source: norm: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
networks"; agc: Brock, De, Smith & Simonyan 2021, "High-performance large-scale image recognition
without normalization".
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nbkit.base.gradients import Parameters
from nbkit.clipping.report import ClipReport
from nbkit.clipping.rule import ClipRule


def clip_gradients_(
    parameters: Parameters,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    agc: float | None = None,
    norm_type: float = 2.0,
    nonfinite: str = "raise",
    eps: float | None = None,
    exclude: str | nn.Module | Sequence[str | nn.Module] = (),
) -> ClipReport:
    """Clip the gradients in place by exactly one of three rules, and report their norms.

    Args:
        parameters: a model, an optimizer, parameters, or (name, parameter) pairs. A tied parameter
            counts once; one without a gradient does not count. With agc it must be the model.
        max_norm: threshold on the norm of all gradients together, > 0; `inf` measures without
            clipping.
        max_value: largest absolute value of an element, > 0.
        agc: largest ratio of a unit's gradient norm to its weight norm, for example 0.01.
        norm_type: p of the p-norm; `inf` is the largest absolute value.
        nonfinite: what to do with infinity or NaN in a gradient. "raise" names the parameters;
            "skip" leaves all gradients as they are; "ignore" clips as torch does, so that a single
            infinity sets all other gradients to zero.
        eps: with agc, the smallest weight norm of a unit, by default 1e-3, so that weights that
            start at zero can move.
        exclude: with agc, the parameters or modules that are not clipped, each by name or as a
            module. NFNets exclude the classifier.
    Returns:
        ClipReport: norms before clipping, in float32 or better. Reading the first number
            synchronises, once; with "skip" or "ignore" nothing else does.
    Raises:
        ValueError, TypeError: for a wrong argument; no gradient has been touched.
        FloatingPointError: with "raise", if a gradient is not finite; none has been touched.

    With a loss scale, unscale first, as `Amp.step(optimizer, clip=dict(max_norm=1.0))` does. With
    DDP, clip after the gradients are reduced; then every rank computes the same norm. Gradients
    that are sharded over the ranks are refused: use `torch.nn.utils.clip_grad_norm_` for FSDP2 and
    other DTensors, and the model's own method `clip_grad_norm_` for FSDP.

    Source: norm: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
    networks"; agc: Brock, De, Smith & Simonyan 2021, "High-performance large-scale image
    recognition without normalization".

    >>> import torch
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> report = clip_gradients_([weight], max_norm=1.0)
    >>> report.total_norm, round(report.coefficient, 4), weight.grad
    (5.0, 0.2, tensor([0.6000, 0.8000]))
    """
    rule = ClipRule(
        max_norm=max_norm,
        max_value=max_value,
        agc=agc,
        norm_type=norm_type,
        nonfinite=nonfinite,
        eps=eps,
        exclude=exclude,
    )
    return rule.bind(parameters)()
