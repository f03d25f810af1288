"""Clipping gradients: by their global norm, by value, or adaptively, unit by unit.

    max_norm:   g <- g * min(1, max_norm / (total_norm + 1e-6))
    max_value:  g <- min(max(g, -max_value), max_value), element by element
    agc:        g_i <- g_i * min(1, agc * max(|w_i|, eps) / |g_i|), unit by unit

A unit is what computes one output: a row of a Linear or Embedding weight, a filter of a
convolution, transposed or not, a row along axis 0 of any other array; a vector, such as a bias, is
one unit. Clipping by norm keeps the direction of the whole gradient, agc that of each unit,
clipping by value neither.

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

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbkit.base.gradients import Parameters
from nbkit.base.report import Report, convert_to_json, ensure_axes
from nbkit.clipping.report import ClipReport
from nbkit.clipping.rule import ClipRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        max_norm: threshold on the norm of all gradients together, > 0; `inf` measures only.
        max_value: largest absolute value of an element.
        agc: largest ratio of a unit's gradient norm to its weight norm, for example 0.01.
        norm_type: p of the p-norm; `inf` is the largest absolute value.
        nonfinite: with infinity or NaN in a gradient, "raise" names the parameters; "skip" leaves
            all gradients as they are; "ignore" clips as torch does: one infinity zeroes the rest.
        eps: with agc, the least weight norm of a unit, 1e-3 by default: zeros can move.
        exclude: with agc, what is left alone, by name or module: NFNets exclude the classifier.
    Returns:
        ClipReport: norms before clipping, in float32 or better. Reading the first number
            synchronises, once; nothing else does with "skip" or "ignore".
    Raises:
        ValueError, TypeError: for a wrong argument; no gradient has been touched.
        FloatingPointError: with "raise", if a gradient is not finite; none has been touched.

    With a loss scale, unscale first: `Amp.step(optimizer, clip=dict(max_norm=1.0))` does. With DDP,
    clip after the gradients are reduced; then every rank computes the same norm. Gradients of
    which each rank holds a part are refused: for FSDP2 and other DTensors there is
    `torch.nn.utils.clip_grad_norm_`, for FSDP the model's own method `clip_grad_norm_`.

    Source: norm: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
    networks"; agc: Brock, De, Smith & Simonyan 2021, "High-performance large-scale image
    recognition without normalization".

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> report = clip_gradients_([weight], max_norm=1.0)
    >>> report.total_norm, round(report.coefficient, 4), weight.grad
    (5.0, 0.2, tensor([0.6000, 0.8000]))
    """
    limits = {"max_norm": max_norm, "max_value": max_value, "agc": agc}
    rule = ClipRule(**limits, norm_type=norm_type, nonfinite=nonfinite, eps=eps, exclude=exclude)
    return rule.bind(parameters)()


class ClipHistory(Report):
    """The gradient norms of a run: how often it clipped, and where a threshold would lie.

        history = ClipHistory()
        for batch in batches:
            ...
            history.add(clip_gradients_(model, max_norm=1.0))
        print(history)

    Adding does not synchronise; reading does, once for all that was added since the last time.
    Steps whose norm is not finite are counted, and otherwise left out.

    >>> weight = nn.Parameter(torch.zeros(1))
    >>> history = ClipHistory()
    >>> for norm in (1.0, 2.0, 3.0, 40.0):
    ...     weight.grad = torch.tensor([norm])
    ...     history.add(clip_gradients_([weight], max_norm=10.0))
    >>> history.clipped_fraction, history.quantile(0.5), history.suggest_max_norm(0.5)
    (0.25, 2.5, 2.5)
    """

    def __init__(self) -> None:
        self._read: list[list[float]] = []  # total norm and coefficient of each step
        self._unread: list[Tensor] = []

    def add(self, report: ClipReport) -> None:
        """Note one step."""
        if not isinstance(report, ClipReport):
            raise TypeError(
                f"expected a ClipReport, got {type(report).__name__}. clip_gradients_ returns one, "
                f"and Amp.step(optimizer, clip=...) has one in its .clip."
            )
        self._unread.append(report.values[:2].clone())  # a view would keep all the norms alive

    def __len__(self) -> int:
        return len(self._read) + len(self._unread)

    def _steps(self) -> list[list[float]]:
        if self._unread:
            device = self._unread[0].device
            unread = torch.stack([numbers.to(device, torch.float64) for numbers in self._unread])
            self._read += unread.tolist()
            self._unread = []
        return self._read

    @property
    def norms(self) -> list[float]:
        """The total norm of every step, before clipping."""
        return [norm for norm, _ in self._steps()]

    @property
    def nonfinite(self) -> int:
        """How many steps had a norm that is not finite."""
        return len(self) - len(self._finite())

    @property
    def clipped_fraction(self) -> float:
        """The share of steps that were clipped."""
        return sum(coefficient != 1.0 for _, coefficient in self._finite()) / len(self._some())

    def quantile(self, q: float) -> float:
        """The norm that the share q of steps stayed below: 0.5 is the median."""
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, got {q}.")
        norms = torch.tensor([norm for norm, _ in self._some()], dtype=torch.float64)
        return torch.quantile(norms, q).item()

    def suggest_max_norm(self, fraction: float = 0.1) -> float:
        """The threshold that would have clipped this share of the steps.

        A tenth by default: rare spikes are cut, the ordinary step is left as it is. Norms fall and
        rise during a training, so look again later.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be between 0 and 1, got {fraction}.")
        return self.quantile(1.0 - fraction)

    def _finite(self) -> list[list[float]]:
        return [step for step in self._steps() if math.isfinite(step[0])]

    def _some(self) -> list[list[float]]:
        if not self._finite():
            raise ValueError(f"none of the {len(self)} steps added so far has a finite norm.")
        return self._finite()

    def to_dict(self) -> dict[str, object]:
        """Every norm and coefficient, and the numbers drawn from them, as plain JSON."""
        some = bool(self._finite())
        return {
            "norms": convert_to_json(self.norms),
            "coefficients": convert_to_json([coefficient for _, coefficient in self._steps()]),
            "nonfinite": self.nonfinite,
            "clipped_fraction": self.clipped_fraction if some else None,
            "suggested_max_norm": self.suggest_max_norm() if some else None,
        }

    def table(self):
        """Quantiles of the norm."""
        if not self._finite():
            return f"{len(self)} steps, none with a finite norm", (), ()
        summary = (
            f"{self.clipped_fraction:.0%} of {len(self)} steps clipped, {self.nonfinite} not "
            f"finite; max_norm={self.suggest_max_norm():.3g} would clip one in ten"
        )
        rows = [(f"{q:.0%}", self.quantile(q)) for q in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)]
        return summary, ("share of steps", "norm below"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """The norm at each step, with the clipped steps marked and the suggestion as a line."""
        ax = ensure_axes(ax)
        steps = [(i, *step) for i, step in enumerate(self._steps(), 1) if math.isfinite(step[0])]
        clipped = [(i, norm) for i, norm, coefficient in steps if coefficient != 1.0]
        ax.plot([i for i, _, _ in steps], [norm for _, norm, _ in steps], color="#767676")
        ax.plot([i for i, _ in clipped], [n for _, n in clipped], ".", color="#D55E00")
        if steps:
            ax.axhline(self.suggest_max_norm(), color="#0072B2", linestyle=":")
        ax.set_title(f"{len(clipped)} of {len(steps)} steps clipped (dots); dotted: suggestion")
        ax.set(xlabel="step", ylabel="gradient norm before clipping", yscale="log")
        return ax
