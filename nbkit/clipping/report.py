"""What a clip reports: the norms it measured and the factor it applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from nbkit.base.gradients import LISTED, join_names
from nbkit.base.report import Report, convert_to_json


@dataclass(eq=False)
class ClipReport(Report):
    """What a clip found and did. The numbers stay on the device until the first one is read.

    Attributes:
        values: total norm, coefficient and each parameter's norm, on the gradients' device.
        names: the parameters that have a gradient.
        rule: what was asked for; as text, "max_norm=1".
    """

    values: Tensor
    names: tuple[str, ...]
    rule: object

    @cached_property
    def _numbers(self) -> list[float]:
        return self.values.tolist()  # the one synchronisation, whatever is read, and how often

    @property
    def total_norm(self) -> float:
        """Norm of all gradients together, before clipping."""
        return self._numbers[0]

    @property
    def coefficient(self) -> float:
        """The smallest factor that a gradient was multiplied by; 1.0 where none was changed."""
        return self._numbers[1]

    @property
    def clipped(self) -> bool:
        """Whether a gradient was changed."""
        return self.coefficient != 1.0

    @property
    def norms(self) -> dict[str, float]:
        """Norm of each parameter's gradient, before clipping."""
        return dict(zip(self.names, self._numbers[2:], strict=True))

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """The parameters whose gradient holds infinity or NaN."""
        return tuple(name for name, norm in self.norms.items() if not math.isfinite(norm))

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain JSON; what is not finite becomes None."""
        fields = ("rule", "total_norm", "clipped", "coefficient", "norms", "nonfinite")
        return {name: convert_to_json(getattr(self, name)) for name in fields}

    def table(self):
        """The largest norms first."""
        did = f"clipped, by {self.coefficient:.3g} at most" if self.clipped else "not clipped"
        summary = f"gradient norm {self.total_norm:.3g}, {self.rule}: {did}"
        if self.nonfinite:
            summary += f"; not finite: {join_names(self.nonfinite)}"
        rows = sorted(self.norms.items(), key=lambda row: -row[1])
        if len(rows) > LISTED:
            summary += f"; the {LISTED} largest of {len(rows)} norms:"
        return summary, ("parameter", "norm"), rows[:LISTED]
