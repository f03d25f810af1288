"""Add lr_factors: another lr for each parameter, such as a lower one in lower layers."""

from __future__ import annotations

import math
from typing import ClassVar

from nbkit.base.numbers import read_real
from nbkit.lab.runs.layouts import Role
from nbkit.lab.runs.option import ParameterOption, Rule


class LrFactors(ParameterOption):
    """Train each parameter with `lr * lr_factors(name, layers_above)`, under the arm's schedule.

    The name is that of `named_parameters`, and layers_above counts the layers with parameters
    between its layer and the end of the model. So `lambda name, above: 0.7 ** above` is layer-wise
    decay, and `lambda name, above: 1.0 if above == 0 else 0.0` trains the last layer only.
    """

    defaults: ClassVar = {"lr_factors": None}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that it is a function."""
        factors = rule["lr_factors"]
        if factors is not None and not callable(factors):
            return f"lr_factors must be a function (name, layers_above) -> factor, got {factors!r}"
        return None

    def find_factor(self, rule: Rule, role: Role) -> float:
        """Call the arm's function; raise a ValueError if it returns no factor."""
        if rule["lr_factors"] is None:
            return 1.0
        given = rule["lr_factors"](role.name, role.layers_above)
        factor = read_real(given)
        if factor is None or not 0 <= factor < math.inf:
            raise ValueError(
                f"lr_factors must return a finite number of at least 0, got {given!r} for "
                f"{role.name!r} with {role.layers_above} layers above it."
            )
        return factor


OPTION = LrFactors()
