"""Read and set a layer's weights by name, parametrized or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def find_parameters(module: Any, name: str) -> list[nn.Parameter]:
    """Return the parameters behind a name: one, those of its parametrization, or none."""
    if parametrize.is_parametrized(module, name):
        # Weight norm has two (a norm and a direction), spectral norm has one.
        return list(module.parametrizations[name].parameters(recurse=False))
    parameter = module._parameters.get(name)
    return [] if parameter is None else [parameter]


def assign_weight(module: Any, name: str, value: Tensor) -> bool:
    """Set a weight in place; return False, with nothing changed, if its parametrization refuses."""
    if not parametrize.is_parametrized(module, name):
        module._parameters[name].copy_(value)
        return True
    # torch computes the parameters that give this value by the parametrization's right_inverse.
    try:
        setattr(module, name, value)
    except (NotImplementedError, RuntimeError):  # there is no right_inverse, or it refuses
        return False
    return True
