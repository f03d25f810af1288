"""Weights by name, parametrized or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def behind(module: Any, name: str) -> list[nn.Parameter]:
    """The parameters that a name stands for: one, or those of its parametrization, or none."""
    if parametrize.is_parametrized(module, name):
        return list(module.parametrizations[name].parameters(recurse=False))
    parameter = module._parameters.get(name)
    return [] if parameter is None else [parameter]


def assign(module: Any, name: str, value: Tensor) -> bool:
    """Give a weight a value in place; False and nothing done if its parametrization takes none."""
    if not parametrize.is_parametrized(module, name):
        module._parameters[name].copy_(value)
        return True
    try:
        setattr(module, name, value)
    except (NotImplementedError, RuntimeError):  # no right_inverse, or one that refuses
        return False
    return True
