"""The axis on which an effect is predicted and shown: logarithmic for a ratio, else linear."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nbkit.lab.evidence.claims import Claim

POSITIONS = 200  # steps of a mark from the low to the high end
MOST_TICKS = 7
# Each digit that a tick may begin with; the first set that gives enough ticks is taken.
LOG_DIGITS = ((1,), (1, 3), (1, 2, 5))
FEWEST_TICKS = 3


@dataclass(frozen=True)
class EffectAxis:
    """The range of effects that is drawn for a claim."""

    low: float
    high: float
    is_log: bool

    def find_place(self, value: float) -> float:
        """Return the place of an effect, from 0 at the low end to 1 at the high end.

        An effect that is not on the axis, as that of a run that diverged, is put at its end.
        """
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def list_values(self) -> list[float]:
        """List the effects at which a mark may stand, from the low to the high end."""
        values = []
        # As many digits as it takes to tell two neighbours apart.
        step = (self.high - self.low) / POSITIONS
        decimals = max(0, -math.floor(math.log10(step)))
        factor = (self.high / self.low) ** (1 / POSITIONS) if self.is_log else 1.0
        digits = max(3, 1 - math.floor(math.log10(factor - 1))) if self.is_log else 0
        for position in range(POSITIONS + 1):
            if self.is_log:
                value = float(f"{self.low * factor**position:.{digits}g}")
            else:
                value = round(self.low + step * position, decimals)
            # Rounding must not carry the ends off the axis.
            values.append(min(max(value, self.low), self.high))
        return values

    def list_ticks(self) -> list[float]:
        """List a few round numbers on the axis, such as 0.1, 0.3, 1, 3."""
        for digits in LOG_DIGITS if self.is_log else ():
            ticks = _list_log_ticks(self.low, self.high, digits)
            if len(ticks) >= FEWEST_TICKS:
                # Over many decades, each second, third, ... of them.
                return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
        # A short piece of a logarithmic axis looks linear.
        return _list_linear_ticks(self.low, self.high)


def make_axis(claim: Claim, values: Iterable[float] = ()) -> EffectAxis:
    """Make the axis of a claim, which has a margin.

    Args:
        values: effects that should be on the axis. A range that the claim states is kept as it is.
    """
    is_log = claim.measure == "ratio"
    if claim.axis is not None:
        return EffectAxis(*claim.axis, is_log)
    low, high = _find_usual_range(claim)
    for value in values:
        # Without a range in the claim, the axis grows, within reason, to hold what is shown.
        if is_log and 0 < value < math.inf:
            low, high = min(low, max(value / 1.2, 1e-3)), max(high, min(value * 1.2, 1e3))
        elif not is_log and math.isfinite(value) and claim.measure == "difference":
            low, high = min(low, value), max(high, value)
    return EffectAxis(low, high, is_log)


def _find_usual_range(claim: Claim) -> tuple[float, float]:
    """Find the range of effects for a claim that states none."""
    assert claim.margin is not None
    if claim.measure == "proportion":
        return 0.0, 1.0
    if claim.measure == "proportion_difference":
        return -1.0, 1.0
    if claim.measure == "ratio":
        # No effect is a ratio of 1, and always on the axis.
        return min(claim.margin, 1.0) / 4, max(claim.margin, 1.0) * 4
    reach = 4 * abs(claim.margin) or 1.0
    return -reach, reach


def _list_linear_ticks(low: float, high: float) -> list[float]:
    """List the multiples of 1, 2, 2.5 or 5 times a power of ten that lie on a linear axis."""
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    for factor in (1, 2, 2.5, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < MOST_TICKS:
            break
    ticks = []
    for count in range(first, last + 1):
        # Ten digits take back what the product adds: 3 * 0.1 is 0.30000000000000004.
        ticks.append(float(f"{count * step:.10g}"))
    return ticks


def _list_log_ticks(low: float, high: float, digits: Iterable[float]) -> list[float]:
    """List the numbers on a logarithmic axis that begin with one of these digits."""
    ticks = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in digits:
            # From the text, since 3 * 10**-1 is 0.30000000000000004.
            tick = float(f"{digit}e{exponent}")
            if low <= tick <= high:
                ticks.append(tick)
    return ticks
