"""Add init and gain: the weights that a run starts from."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from nbkit.initialization import initialize_
from nbkit.lab.runs.option import Rule, StartOption


class InitialWeights(StartOption):
    """Set the built model's weights: by a function, or by a scheme of `initialize_`."""

    defaults: ClassVar = {"init": None, "gain": None}
    numbers = ("gain",)

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that a gain stands beside the name of a scheme."""
        # A function sets the weights itself, and would ignore the gain.
        if rule["gain"] is not None and not isinstance(rule["init"], str):
            return "gain is for a scheme: give init its name, such as 'kaiming_normal'"
        return None

    def set_weights(self, rule: Rule, model: nn.Module) -> None:
        """Call the arm's function, or `initialize_` with its scheme and gain."""
        init = rule["init"]
        if callable(init):
            init(model)
        elif init is not None:
            initialize_(model, init, gain=rule["gain"])


OPTION = InitialWeights()
