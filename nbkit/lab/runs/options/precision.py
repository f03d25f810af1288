"""Add precision: compute the forward pass of an arm under torch's autocast."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from torch import Tensor, nn

from nbkit.base.dtypes import forward_context
from nbkit.lab.runs.option import ForwardOption, Rule

PRECISIONS = ("fp32", "bf16")


class InPrecision(nn.Module):
    """Run a model under autocast; its output is float32, as a loss under autocast reads it."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's output, computed in this precision."""
        with forward_context(self.precision, x.device):
            output: Tensor = self.model(x)
        return output.float()


class Precision(ForwardOption):
    """Keep the weights in float32, and compute the matrix products in bf16."""

    defaults: ClassVar = {"precision": "fp32"}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that the precision trains without a loss scale."""
        precision = rule["precision"]
        if precision not in PRECISIONS:
            return (
                f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}; fp16 needs "
                f"a loss scale: train with nbkit.Amp"
            )
        return None

    def group_runs(self, rule: Rule) -> Hashable:
        """Keep the precisions in different programs."""
        return str(rule["precision"])

    def wrap_model(self, rule: Rule, model: nn.Module) -> nn.Module:
        """Wrap the model in autocast, unless the precision is float32."""
        return model if rule["precision"] == "fp32" else InPrecision(model, rule["precision"])


OPTION = Precision()
