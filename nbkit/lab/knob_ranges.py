"""The functions that declare what a knob may be, by the name that a guard cell calls them."""

from __future__ import annotations

from collections.abc import Callable

from nbkit.lab.curve_knob import curve
from nbkit.lab.knobs import Knob, between, choice, flag, log

RANGES: dict[str, Callable[..., Knob]] = {
    "between": between,
    "log": log,
    "choice": choice,
    "flag": flag,
    "curve": curve,
}
