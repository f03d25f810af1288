"""The gradient norms of a whole run: how often it clipped, and which threshold fits it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbkit.base.report import Report, convert_to_json, ensure_axes
from nbkit.clipping.report import ClipReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)  # the rows of the table


class ClipHistory(Report):
    """Collect the gradient norms of a run: how often it clipped, and which threshold fits it.

        history = ClipHistory()
        for batch in batches:
            ...
            history.add(clip_gradients_(model, max_norm=1.0))
        print(history)

    Adding does not synchronise. Reading synchronises once for all steps added since the last read.
    Steps whose norm is not finite are counted in `nonfinite` and left out of all other numbers.

    >>> from nbkit.clipping import clip_gradients_
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> history = ClipHistory()
    >>> for norm in (1.0, 2.0, 3.0, 40.0):
    ...     weight.grad = torch.tensor([norm])
    ...     history.add(clip_gradients_([weight], max_norm=10.0))
    >>> history.clipped_fraction, history.quantile(0.5), history.suggest_max_norm(0.5)
    (0.25, 2.5, 2.5)
    """

    def __init__(self) -> None:
        self._read: list[list[float]] = []  # total norm and coefficient of each step
        self._unread: list[Tensor] = []  # the same of later steps, still on the device

    def add(self, report: ClipReport) -> None:
        """Add the norm and the coefficient of one step."""
        if not isinstance(report, ClipReport):
            raise TypeError(
                f"expected a ClipReport, got {type(report).__name__}. clip_gradients_ returns one, "
                f"and Amp.step(optimizer, clip=...) has one in its .clip."
            )
        # A view would keep the norms of all parameters in memory.
        self._unread.append(report.values[:2].clone())

    def __len__(self) -> int:
        return len(self._read) + len(self._unread)

    def _read_steps(self) -> list[list[float]]:
        """Return total norm and coefficient of every step; synchronise if some are unread."""
        if self._unread:
            device = self._unread[0].device
            unread = torch.stack([numbers.to(device, torch.float64) for numbers in self._unread])
            self._read += unread.tolist()  # one transfer for all steps
            self._unread = []
        return self._read

    def _read_finite_steps(self) -> list[list[float]]:
        """Return total norm and coefficient of the steps whose norm is finite."""
        return [step for step in self._read_steps() if math.isfinite(step[0])]

    def _require_finite_steps(self) -> list[list[float]]:
        """Return the steps whose norm is finite; raise if there are none."""
        steps = self._read_finite_steps()
        if not steps:
            raise ValueError(
                f"none of the {len(self)} steps added so far has a finite norm. Add a step with "
                f"finite gradients first."
            )
        return steps

    @property
    def norms(self) -> list[float]:
        """Return the total norm of every step, before clipping."""
        return [norm for norm, _ in self._read_steps()]

    @property
    def nonfinite(self) -> int:
        """Return the number of steps whose norm is not finite."""
        return len(self) - len(self._read_finite_steps())

    @property
    def clipped_fraction(self) -> float:
        """Return the share of steps that were clipped."""
        steps = self._require_finite_steps()
        # A coefficient of exactly 1 means that no gradient was multiplied.
        clipped = sum(coefficient != 1.0 for _, coefficient in steps)
        return clipped / len(steps)

    def quantile(self, q: float) -> float:
        """Return the norm that the share q of the steps stayed below; 0.5 gives the median."""
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, got {q}.")
        norms = [norm for norm, _ in self._require_finite_steps()]
        return torch.quantile(torch.tensor(norms, dtype=torch.float64), q).item()

    def suggest_max_norm(self, fraction: float = 0.1) -> float:
        """Return the threshold that would have clipped this share of the steps.

        The default, a tenth, cuts rare spikes and leaves ordinary steps unchanged. Norms rise and
        fall during a training, so look again later.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be between 0 and 1, got {fraction}.")
        return self.quantile(1.0 - fraction)

    def to_dict(self) -> dict[str, object]:
        """Return every norm and coefficient, and the numbers derived from them, as plain JSON."""
        # Without a finite norm there are no quantiles.
        has_finite = bool(self._read_finite_steps())
        return {
            "norms": convert_to_json(self.norms),
            "coefficients": convert_to_json([coefficient for _, coefficient in self._read_steps()]),
            "nonfinite": self.nonfinite,
            "clipped_fraction": self.clipped_fraction if has_finite else None,
            "suggested_max_norm": self.suggest_max_norm() if has_finite else None,
        }

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[str, float]]]:
        """Return a line about the run, the names of the columns, and quantiles of the norm."""
        if not self._read_finite_steps():
            return f"{len(self)} steps, none with a finite norm", (), []
        summary = (
            f"{self.clipped_fraction:.0%} of {len(self)} steps clipped, {self.nonfinite} not "
            f"finite; max_norm={self.suggest_max_norm():.3g} would clip one in ten"
        )
        rows = [(f"{q:.0%}", self.quantile(q)) for q in QUANTILES]
        return summary, ("share of steps", "norm below"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the norm of each step, with dots on clipped steps and the suggestion as a line."""
        ax = ensure_axes(ax)
        steps: list[tuple[int, float]] = []  # number of the step from 1, and its norm
        clipped: list[tuple[int, float]] = []
        for number, (norm, coefficient) in enumerate(self._read_steps(), 1):
            # Infinity and NaN have no place on the axis.
            if not math.isfinite(norm):
                continue
            steps.append((number, norm))
            if coefficient != 1.0:
                clipped.append((number, norm))
        ax.plot(*_split_columns(steps), color="#767676")
        ax.plot(*_split_columns(clipped), ".", color="#D55E00")
        if steps:
            ax.axhline(self.suggest_max_norm(), color="#0072B2", linestyle=":")
        ax.set_title(f"{len(clipped)} of {len(steps)} steps clipped (dots); dotted: suggestion")
        ax.set(xlabel="step", ylabel="gradient norm before clipping", yscale="log")
        return ax


def _split_columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Split points into x and y for matplotlib."""
    return [x for x, _ in points], [y for _, y in points]
