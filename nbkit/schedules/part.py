"""One factor of a schedule, its settings checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nbkit.base.numbers import read_integer, read_real
from nbkit.schedules.shapes import KINDS, Kind, Shape

# The range of each setting: lowest, highest, and whether the lowest itself is allowed.
RANGES = {
    "end": (0.0, 1.0, True),
    "decay": (0.0, 1.0, False),
    "rise": (0.0, 1.0, False),
    "start": (0.0, 1.0, False),
    "gamma": (0.0, 1.0, False),
}


@dataclass(frozen=True)
class SchedulePart:
    """Hold the settings of one schedule; `Schedule` multiplies several.

    Attributes:
        kind: a key of KINDS.
        updates: number of updates, warm-up included.
        warmup: number of updates in front in which the lr rises linearly.
        settings: (name, value) of every setting of the kind.
        past_end: "raise" or "hold".
    """

    kind: str
    updates: int
    warmup: int
    settings: tuple[tuple[str, float], ...]
    past_end: str

    @cached_property
    def _values(self) -> dict[str, float]:
        # Looked up once: the schedule is called at every update.
        return dict(self.settings)

    @cached_property
    def _shape(self) -> Shape:
        return KINDS[self.kind].shape

    def find_factor(self, update: int) -> float:
        """Return the factor of an update."""
        if update < self.warmup:
            # The first update has 1 / (w + 1) and not 0: at an lr of 0 it would do nothing.
            return (update + 1) / (self.warmup + 1)
        if update > self.updates:
            if self.past_end == "raise":
                raise ValueError(
                    f"this schedule ({self.describe()}) has ended: update {update} was asked for. "
                    f"Make it for as many updates as the training has, or with "
                    f'past_end="hold".'
                )
            update = self.updates
        return self._shape(update - self.warmup, self.updates - self.warmup, self._values)

    @property
    def rising(self) -> int:
        """Return the number of updates before the first one with the full lr."""
        if self.kind == "one_cycle":
            return math.ceil(self._values["rise"] * self.updates - 1)
        return self.warmup

    def to_dict(self) -> dict[str, object]:
        """Return the settings as plain JSON."""
        # Without the cached values, which hold nothing new.
        return {
            "kind": self.kind,
            "updates": self.updates,
            "warmup": self.warmup,
            "settings": dict(self.settings),
            "past_end": self.past_end,
        }

    def describe(self) -> str:
        """Return the settings in words."""
        words = [self.kind, f"{self.updates} updates"]
        if self.warmup:
            words.append(f"warmup={self.warmup}")
        for name, value in self.settings:
            words.append(f"{name}={value:.3g}")
        return ", ".join(words)


def make_part(
    kind: str, updates: int, warmup: int, given: Mapping[str, Any], past_end: str
) -> SchedulePart:
    """Check what was given and fill in the defaults; a setting of None was not given."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if past_end not in ("raise", "hold"):
        raise ValueError(f'past_end must be "raise" or "hold", got {past_end!r}.')
    count = read_integer(updates)
    if count is None or count < 1:
        raise ValueError(
            f"updates must be a whole number of at least 1, got {updates!r}. nbkit.updates(loader, "
            f"epochs) counts them."
        )
    rising = _check_warmup(kind, count, warmup)
    body = count - rising
    values = _read_settings(kind, given)
    if "every" in KINDS[kind].defaults:
        values["every"] = _read_every(given["every"], body)
    if "decay" in values:
        values["decay_updates"] = _count_decay(values.pop("decay"), count, body)
    if kind == "one_cycle" and not 1 / count < values["rise"] < 1:
        raise ValueError(
            f"rise must be less than 1 and more than one update of the cycle, got "
            f"rise={values['rise']:g} of {count} updates."
        )
    if kind == "exponential" and values["end"] == 0:
        raise ValueError("end must be above 0 for exponential, which never reaches 0, got 0.")
    return SchedulePart(kind, count, rising, tuple(values.items()), past_end)


def _check_warmup(kind: str, updates: int, warmup: Any) -> int:
    """Return the number of warm-up updates."""
    count = read_integer(warmup)
    if count is None or not 0 <= count < updates:
        share = read_real(warmup)
        hint = ""
        if count is None and share is not None and 0 < share < 1:
            hint = f" It counts updates: a share of {share:g} is {round(share * updates)} of them."
        raise ValueError(
            f"warmup must be a whole number of updates, from 0 to {updates - 1}, got "
            f"{warmup!r}.{hint}"
        )
    if count and KINDS[kind].rises:
        raise ValueError(
            f"{kind} rises by itself, from the factor start: leave warmup out, got {warmup!r}."
        )
    return count


def _read_settings(kind: str, given: Mapping[str, Any]) -> dict[str, float]:
    """Return the real-valued settings of a kind; refuse those that it does not have."""
    known: Kind = KINDS[kind]
    values = {}
    for name, value in given.items():
        if name not in known.defaults:
            if value is not None:
                have = ", ".join(known.defaults) or "none"
                raise ValueError(
                    f"{kind} has no setting {name!r}, got {name}={value!r}: it would change "
                    f"nothing. Leave it out; the settings of {kind}: {have}."
                )
            continue
        if name == "every":
            continue  # a count, read elsewhere
        chosen = known.defaults[name] if value is None else value
        values[name] = _read_in_range(name, chosen)
    return values


def _read_in_range(name: str, value: Any) -> float:
    """Return a real number within the range of this setting."""
    low, high, may_be_low = RANGES[name]
    number = read_real(value)
    # Written so that NaN is refused, too.
    if number is None or not (low < number <= high or (may_be_low and number == low)):
        bound = "from" if may_be_low else "above"
        raise ValueError(f"{name} must be {bound} {low:g} up to {high:g}, got {value!r}.")
    return number


def _read_every(value: Any, body: int) -> int:
    """Return the updates between two drops, or of a cycle; a third of all by default."""
    if value is None:
        return max(1, math.ceil(body / 3))
    count = read_integer(value)
    if count is None or count < 1:
        raise ValueError(f"every must be a whole number of updates, at least 1, got {value!r}.")
    return count


def _count_decay(share: float, updates: int, body: int) -> int:
    """Return the number of updates in the decay: a share of all, and at least one."""
    count = max(1, round(share * updates))
    if count > body:
        raise ValueError(
            f"expected warm-up and decay to fit into {updates} updates, got {updates - body} of "
            f"warm-up and {count} of decay (decay={share:g}). Make one of them shorter."
        )
    return count
