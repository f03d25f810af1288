"""The gradients at hand: each parameter once and by name, and what a clip reports of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.optim import Optimizer

from nbkit.report import Report, jsonable

Parameters = nn.Module | Optimizer | Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]

LISTED = 10  # rows of a table, names in a message


def named_parameters(source: Parameters) -> dict[str, Tensor]:
    """Each parameter once, by name: of a model, an optimizer, or whatever yields parameters."""
    if isinstance(source, nn.Module):
        return dict(source.named_parameters())
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in _pairs(source):
        if not isinstance(name, str) or not isinstance(parameter, Tensor):
            raise TypeError(
                f"expected a model, an optimizer, parameters or (name, parameter) pairs; "
                f"got an item of type {type(parameter).__name__}: {parameter!r:.60}."
            )
        if id(parameter) in seen:
            continue  # tied
        if name in named:
            raise ValueError(
                f"two different parameters are both called {name!r}. Tell them apart, for example "
                f"by generator.named_parameters(prefix='generator')."
            )
        seen.add(id(parameter))
        named[name] = parameter
    if not named:
        raise ValueError(
            "no parameters came. A generator can be read only once: pass the model, or "
            "list(model.parameters())."
        )
    return named


def _pairs(source) -> Iterable[tuple[str, Tensor]]:
    if isinstance(source, Optimizer):
        for g, group in enumerate(source.param_groups):
            unnamed = [f"group{g}.{i}" for i in range(len(group["params"]))]
            yield from zip(group.get("param_names", unnamed), group["params"], strict=True)
        return
    for i, item in enumerate([source] if isinstance(source, Tensor) else source):
        yield item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)


def summed(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients there are; in place of a sparse one where rows may repeat, their sum."""
    grads = {name: p.grad for name, p in named.items() if p.grad is not None}
    for name, grad in grads.items():
        if grad.is_sparse:
            grads[name] = grad.coalesce()
    return grads


def numbers(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a gradient holds: itself, or the values of a sparse one, as a view."""
    return {name: grad._values() if grad.is_sparse else grad for name, grad in grads.items()}


def gradients_of(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients there are, to read; of a sparse one its values, repeated rows summed."""
    return numbers(summed(named))


def listed(names: Sequence[str]) -> str:
    """The names, as many as one reads."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


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
        return {name: jsonable(getattr(self, name)) for name in fields}

    def table(self):
        """The largest norms first."""
        did = f"clipped, by {self.coefficient:.3g} at most" if self.clipped else "not clipped"
        summary = f"gradient norm {self.total_norm:.3g}, {self.rule}: {did}"
        if self.nonfinite:
            summary += f"; not finite: {listed(self.nonfinite)}"
        rows = sorted(self.norms.items(), key=lambda row: -row[1])
        if len(rows) > LISTED:
            summary += f"; the {LISTED} largest of {len(rows)} norms:"
        return summary, ("parameter", "norm"), rows[:LISTED]
