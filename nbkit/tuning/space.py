"""The space of settings: draw configurations from it, and find values at its edges."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbkit.base.numbers import read_integer, read_real

EDGE_SHARE = 0.05  # of a range's length, at each end
TRIES = 1000  # for a configuration that was not drawn yet, before a space counts as exhausted


@dataclass(frozen=True)
class SearchRange:
    """A range of numbers to search, ends included; `log=True` searches each decade alike.

    >>> SearchRange(1e-4, 10, log=True)
    SearchRange(low=0.0001, high=10, log=True)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        low, high = read_real(self.low), read_real(self.high)
        if low is None or high is None or not -math.inf < low < high < math.inf:
            raise ValueError(
                f"a SearchRange needs two finite numbers, low < high, got {self.low!r} and "
                f"{self.high!r}. For a list of values, give the list in place of the range."
            )
        if self.log and low <= 0:
            raise ValueError(f"a range with log=True must start above 0, got low={self.low}.")

    def locate_value(self, value: float) -> float:
        """Return where in the range a value lies, from 0 at `low` to 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def pick_value(self, share: float) -> float:
        """Return the value that lies at this share of the range, the inverse of `locate_value`."""
        if self.log:
            value = float(self.low * (self.high / self.low) ** share)
        else:
            value = float(self.low + (self.high - self.low) * share)
        # Rounding must not leave the range.
        return min(max(value, float(self.low)), float(self.high))


# A setting is searched in a range, or in a list of values.
Space = Mapping[str, SearchRange | Sequence[object]]


def sample_configs(space: Space, n: int, seed: int) -> list[dict[str, object]]:
    """Draw different configurations at random from a space.

    The first of them do not depend on `n`: a search that is extended, by a larger `n` and the same
    seed, begins with the configurations that it had.

    Args:
        space: for each setting a `SearchRange`, or a list of values.
        n: how many configurations to draw, >= 1.
        seed: of a generator that belongs to this call; no other random state is read or changed.
    Returns:
        list[dict]: the names in the space's order.
    Raises:
        TypeError: if a setting is neither a range nor a list.
        ValueError: if `space` is empty, `n` or `seed` is no integer, or there are not `n` different
            configurations.

    Source: Bergstra & Bengio 2012, Random Search for Hyper-Parameter Optimization.

    >>> space = {"lr": SearchRange(0.01, 1, log=True), "nesterov": [False, True]}
    >>> configs = sample_configs(space, 9, seed=0)
    >>> list(configs[0]), configs == sample_configs(space, 27, seed=0)[:9]
    (['lr', 'nesterov'], True)
    """
    check_space(space)
    count, whole_seed = read_integer(n), read_integer(seed)
    if count is None or count < 1 or whole_seed is None:
        raise ValueError(
            f"expected n, an integer of at least 1, and an integer seed, got n={n!r}, "
            f"seed={seed!r}."
        )

    # The standard library's generator draws the same floats for a seed in every Python version.
    source = random.Random(whole_seed)
    configs: list[dict[str, object]] = []
    tries = 0
    while len(configs) < count:
        config = {name: _draw_value(setting, source.random()) for name, setting in space.items()}
        if config not in configs:
            configs.append(config)
            tries = 0
            continue
        tries += 1
        if tries == TRIES:
            raise ValueError(
                f"the space seems to have no more than {len(configs)} different configurations, "
                f"n={n} are wanted. Ask for fewer, or add values to its lists."
            )
    return configs


def check_space(space: Space) -> None:
    """Refuse a space that is empty, or a setting that is neither a range nor a list of values."""
    if not space:
        raise ValueError('space must name at least one setting, such as {"lr": SearchRange(...)}.')
    for name, setting in space.items():
        if isinstance(setting, SearchRange):
            continue
        is_list = isinstance(setting, Sequence) and not isinstance(setting, str)
        if not is_list or not len(setting):
            raise TypeError(
                f"space[{name!r}] must be a SearchRange or a list of values, got {setting!r}."
            )


def _draw_value(setting: SearchRange | Sequence[object], share: float) -> object:
    """Return the value at this share, in [0, 1), of a range or of a list."""
    if isinstance(setting, SearchRange):
        return setting.pick_value(share)
    return setting[int(share * len(setting))]


def find_edges(
    best: Mapping[str, object],
    configs: Sequence[Mapping[str, object]],
    space: Space | None = None,
) -> dict[str, str]:
    """Find the numbers of a configuration that lie at an edge of what was searched.

    In a `SearchRange` the edges are its outer 5 %, on its own scale. In a list of numbers, or where
    no space is given, they are the lowest and the highest of at least three different values that
    were tried. Of n values drawn at random one is the lowest and one the highest, so without a
    space a value is found at an edge by chance with probability 2 / n.

    Returns:
        dict: setting -> "lowest" or "highest", empty if no number lies at an edge.

    >>> find_edges({"lr": 0.1}, [{"lr": 0.001}, {"lr": 0.01}, {"lr": 0.1}])
    {'lr': 'highest'}
    """
    edges = {}
    for name, value in best.items():
        number = read_real(value)
        if number is None:
            continue
        setting = None if space is None else space.get(name)
        if isinstance(setting, SearchRange):
            edge = _name_edge_of_range(number, setting)
        else:
            tried = [config.get(name) for config in configs] if setting is None else setting
            edge = _name_edge_of_list(number, tried)
        if edge is not None:
            edges[name] = edge
    return edges


def _name_edge_of_range(number: float, setting: SearchRange) -> str | None:
    # The logarithm of what is not above 0 does not exist; such a value is below the range.
    share = setting.locate_value(number) if number > 0 or not setting.log else 0.0
    if share <= EDGE_SHARE:
        return "lowest"
    return "highest" if share >= 1 - EDGE_SHARE else None


def _name_edge_of_list(number: float, tried: Sequence[object]) -> str | None:
    numbers = set()
    for value in tried:
        read = read_real(value)
        if read is not None:
            numbers.add(read)
    # With one or two values each of them is at an edge, which says nothing.
    if len(numbers) < 3:
        return None
    if number <= min(numbers):
        return "lowest"
    return "highest" if number >= max(numbers) else None
