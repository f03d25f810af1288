"""The report of one clipped step: the norms before clipping and the factor that was applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from nbkit.base.gradients import LISTED, join_names
from nbkit.base.report import Report, convert_to_json


@dataclass(eq=False)
class ClipReport(Report):
    """Report norms and factor of one clipped step; they stay on the device until one is read.

    Attributes:
        values: total norm, coefficient and each parameter's norm, on the gradients' device; shape
            (2 + number of names,).
        names: names of the parameters that have a gradient.
        rule: the ClipRule that was applied; as text, for example "max_norm=1".
    """

    values: Tensor
    names: tuple[str, ...]
    rule: object

    @cached_property
    def _numbers(self) -> list[float]:
        # The only synchronisation: later reads, of any number, come from this list.
        numbers: list[float] = self.values.tolist()
        return numbers

    @property
    def total_norm(self) -> float:
        """Return the norm of all gradients together, before clipping."""
        return self._numbers[0]

    @property
    def coefficient(self) -> float:
        """Return the smallest factor of a gradient; 1.0 if no gradient was changed."""
        return self._numbers[1]

    @property
    def clipped(self) -> bool:
        """Return whether a gradient was changed."""
        return self.coefficient != 1.0

    @property
    def norms(self) -> dict[str, float]:
        """Return the norm of each parameter's gradient, before clipping."""
        # The total norm and the coefficient come first in `values`.
        return dict(zip(self.names, self._numbers[2:], strict=True))

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """Return the names of the parameters whose gradient holds infinity or NaN."""
        # The norm of such a gradient is infinity or NaN too.
        return tuple(name for name, norm in self.norms.items() if not math.isfinite(norm))

    def to_dict(self) -> dict[str, object]:
        """Return the numbers as plain JSON; numbers that are not finite become None."""
        fields = ("rule", "total_norm", "clipped", "coefficient", "norms", "nonfinite")
        return {name: convert_to_json(getattr(self, name)) for name in fields}

    def table(self) -> tuple[str, tuple[str, str], list[tuple[str, float]]]:
        """Return a line about the step, the names of the columns, and the largest norms."""
        done = f"clipped, by {self.coefficient:.3g} at most" if self.clipped else "not clipped"
        summary = f"gradient norm {self.total_norm:.3g}, {self.rule}: {done}"
        if self.nonfinite:
            summary += f"; not finite: {join_names(self.nonfinite)}"
        # The largest first: these decide the total norm.
        rows = sorted(self.norms.items(), key=lambda row: -row[1])
        if len(rows) > LISTED:
            summary += f"; the {LISTED} largest of {len(rows)} norms:"
        return summary, ("parameter", "norm"), rows[:LISTED]
