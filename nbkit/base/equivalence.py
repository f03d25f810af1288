"""Compare two gradients that must be equal but for rounding, and report the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from nbkit.base.batch_gradients import Gradients
from nbkit.base.report import Report, Word


class EquivalenceCause(Word):
    """Why a gradient changes when its batch is divided."""

    NONE = "none"
    BATCHNORM = "batchnorm"
    DROPOUT = "dropout"
    RANDOM_NUMBERS = "random numbers"
    SUM_REDUCTION = "sum reduction"
    MEAN_OF_MEANS = "mean of means"
    RAGGED_SHARDS = "ragged shards"
    UNUSED_PARAMETERS = "unused parameters"
    COUPLED_SAMPLES = "coupled samples"
    NOT_FINITE = "not finite"


@dataclass
class EquivalenceReport(Report):
    """Two gradients compared.

    Attributes:
        error: largest absolute difference over the largest absolute reference gradient; infinite
            where a part of the batch cannot be computed at all.
        equivalent: whether the difference is within rounding.
        causes: for each cause of the difference, in the order in which they were found, a sentence
            of advice; empty if the gradients are equivalent.
        tolerance: the error up to which rounding explains it: the square root of the dtype's eps.
        parameters: the error of each parameter, on the same scale.
        cause: the first of the causes; `EquivalenceCause.NONE` if there is none.
        advice: the advice of all causes, in one text.
    """

    error: float
    equivalent: bool
    causes: dict[EquivalenceCause, str] = field(default_factory=dict)
    tolerance: float = 0.0
    parameters: dict[str, float] = field(default_factory=dict)

    @property
    def cause(self) -> EquivalenceCause:
        """Return the first of the causes."""
        return next(iter(self.causes), EquivalenceCause.NONE)

    @property
    def advice(self) -> str:
        """Return the advice of all causes."""
        return " ".join(self.causes.values())

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return the verdict, and the five parameters that differ most."""
        verdict = "equivalent" if self.equivalent else f"NOT equivalent: {', '.join(self.causes)}"
        sizes = f"error {self.error:.2g}, rounding explains {self.tolerance:.2g}"
        worst = sorted(self.parameters.items(), key=lambda item: -item[1])
        return f"{verdict} ({sizes}). {self.advice}".rstrip(), ("parameter", "error"), worst[:5]

    def to_dict(self) -> dict[str, object]:
        """Return every field as plain JSON, with the first cause and the advice."""
        return {**super().to_dict(), "cause": str(self.cause), "advice": self.advice}


def compare_gradients(
    reference: Gradients, measured: Gradients, largest_term: float = 0.0
) -> EquivalenceReport:
    """Compare gradients by their largest difference.

        error = max |measured - reference| / max |reference|

    Args:
        reference: gradients by parameter.
        measured: gradients of the same parameters.
        largest_term: the largest absolute gradient that was added up to `measured`. Where large
            terms cancel to a small gradient, their rounding is large beside it.
    Returns:
        EquivalenceReport: the errors, without a cause.
    """
    # One scale for all parameters: a small gradient may be rounding of large terms elsewhere.
    scale = find_largest_entry([reference])
    differences = {}
    for name, gradient in reference.items():
        differences[name] = find_largest_entry([{name: measured[name] - gradient}])
    worst = max(differences.values(), default=0.0, key=_rank_nan_first)
    # The coarsest dtype decides how much rounding there may be.
    eps = max((torch.finfo(g.dtype).eps for g in reference.values()), default=0.0)

    # A reference of zeros has no scale: then the errors are absolute.
    unit = scale or 1.0
    return EquivalenceReport(
        error=worst / unit,
        equivalent=worst <= max(eps**0.5 * scale, 100 * eps * largest_term),
        tolerance=eps**0.5,
        parameters={name: difference / unit for name, difference in differences.items()},
    )


def find_largest_entry(several: Sequence[Gradients]) -> float:
    """Return the largest absolute number in several gradients; NaN if one holds NaN."""
    largest = 0.0
    for gradients in several:
        for gradient in gradients.values():
            if gradient.numel():
                # max() alone would drop NaN where it stands second.
                largest = max(largest, gradient.abs().max().item(), key=_rank_nan_first)
    return largest


def _rank_nan_first(value: float) -> tuple[bool, float]:
    is_nan = value != value
    return is_nan, value
