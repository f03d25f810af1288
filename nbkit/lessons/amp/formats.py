"""The number formats of lesson `amp`: what each can hold, and what it makes of a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nbkit.base.dtypes import DTYPES

# Powers of two: below the first a number rounds to zero, from the second on it has all its digits,
# from the third on it is infinite.
RANGES = {"fp32": (-150, -126, 128), "bf16": (-134, -126, 128), "fp16": (-25, -14, 16)}
# How many bits are the exponent, and how many the fraction; one more is the sign.
FIELDS = {"fp32": (8, 23), "bf16": (8, 7), "fp16": (5, 10)}


@dataclass(frozen=True)
class Stored:
    """What a format makes of a number.

    Attributes:
        bits: the sign, the exponent and the fraction, each as a string of 0 and 1.
        value: the number that is stored; 0 or infinity if it was too small or too large.
        error: how far `value` is from the number, as a share of it; infinity if it is infinite.
    """

    bits: tuple[str, str, str]
    value: float
    error: float


def choose_dtype(precision: str) -> torch.dtype:
    """Choose torch's dtype of a precision: float32 for "fp32"."""
    return DTYPES[precision] or torch.float32


def store_number(number: float, precision: str) -> Stored:
    """Round a number to a format, and read the bits that are then in memory.

    >>> store_number(1.5, "fp16").bits
    ('0', '01111', '1000000000')
    """
    stored = torch.tensor(number, dtype=torch.float64).to(choose_dtype(precision))
    exponent, fraction = FIELDS[precision]
    width = 1 + exponent + fraction
    # The same bits, read as a whole number; a negative one counts from 2^width downwards.
    whole = stored.view(torch.int32 if width == 32 else torch.int16).item() % 2**width
    bits = f"{int(whole):0{width}b}"
    value = stored.item()
    error = abs(value - number) / abs(number) if number else 0.0
    return Stored((bits[0], bits[1 : 1 + exponent], bits[1 + exponent :]), value, error)


def describe_stored(stored: Stored, scale: float = 1.0) -> str:
    """Say what became of a number that was stored times a scale, in the number's own unit."""
    if stored.value == 0:
        return "0: lost"
    if stored.error == float("inf"):
        return "infinite"
    # At most 6 digits are written, so a smaller error cannot be seen in them.
    value = f"{stored.value / scale:.6g}"
    return f"{value}, exact" if stored.error == 0 else f"{value}, off by {100 * stored.error:.2g} %"


def count_rounding(values: Tensor, precision: str, scale: float = 1.0) -> dict[str, float]:
    """Count what rounding does to these numbers, times the scale: shares lost, short, kept, inf.

    >>> count_rounding(torch.tensor([1e-9, 1e-6, 1.0, 1e6]), "fp16")
    {'zero': 0.25, 'short': 0.25, 'kept': 0.25, 'infinite': 0.25}
    """
    dtype = choose_dtype(precision)
    # What half precision makes of each scaled number.
    rounded = (values * scale).to(dtype).abs()
    zero, infinite = rounded == 0, rounded.isinf()
    # Subnormal: below the smallest number with all its digits.
    short = (rounded < torch.finfo(dtype).tiny) & ~zero
    counts = {"zero": zero, "short": short, "kept": ~(zero | short | infinite)}
    counts["infinite"] = infinite
    return {name: float(each.double().mean()) for name, each in counts.items()}


def describe_numbers(number: float, scale: float, precisions: Sequence[str] = ("fp16",)) -> str:
    """Say what each of the formats makes of a number times a scale."""
    parts = []
    for precision in precisions:
        stored = store_number(number * scale, precision)
        parts.append(f"{precision}: {describe_stored(stored, scale)}")
    return "; ".join(parts)
