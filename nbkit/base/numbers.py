"""Read a number of Python, numpy or torch from an argument; a bool does not count as one."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any


def read_integer(value: Any) -> int | None:
    """Read an integer as an int; None for anything else, a bool and a fraction included.

    >>> import torch
    >>> read_integer(2), read_integer(torch.tensor(2)), read_integer(2.0), read_integer(True)
    (2, 2, None, None)
    """
    # operator.index would take True as 1, and a tensor of one number in any shape.
    if _is_bool(value) or getattr(value, "shape", ()) != ():
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor on the meta device
        return None


def read_real(value: Any) -> float | None:
    """Read a real number as a float, NaN and infinity included; None for anything else.

    >>> import torch
    >>> read_real(2), read_real(torch.tensor(0.5)), read_real("2"), read_real(True)
    (2.0, 0.5, None, None)
    """
    if _is_bool(value) or getattr(value, "shape", ()) != ():
        return None
    if not isinstance(value, Real) and not _is_real_array(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # such as 10**400
        return None


def _is_bool(value: Any) -> bool:
    """Recognise a bool of Python, numpy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def _is_real_array(value: Any) -> bool:
    """Recognise an array of numpy or torch that does not hold complex numbers."""
    # By the dtype's name, since numpy need not be installed.
    dtype = str(getattr(value, "dtype", ""))
    return "int" in dtype or "float" in dtype
