"""Keep a run apart from the notebook: its random numbers, and figures that pyplot opens."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from nbkit.base.state import preserve_state


class RandomState:
    """Keep a random state of torch, numpy and `random` for one run.

    Args:
        seed: of its start.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: tuple[Any, ...] | None = None  # where the run is; None before its start

    @contextlib.contextmanager
    def swap_in(self) -> Iterator[None]:
        """Use the run's random state inside; outside, the notebook's continues."""
        with preserve_state():
            if self._state is None:
                _seed_generators(self._seed)
            else:
                _set_random_state(self._state)
            try:
                yield
            finally:
                # Also after an error: a run that raises has used its numbers.
                self._state = _read_random_state()


def _read_random_state() -> tuple[Any, ...]:
    """Read the states of torch on the CPU, torch on all GPUs, numpy and `random`."""
    import numpy as np

    # Before CUDA is in use, get_rng_state_all would initialise it.
    in_use = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_random_state(state: tuple[Any, ...]) -> None:
    """Set the four states that `_read_random_state` has read."""
    import numpy as np

    on_cpu, cuda, of_numpy, of_python = state
    torch.set_rng_state(on_cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def _seed_generators(seed: int) -> None:
    """Seed torch, numpy and `random`."""
    import numpy as np

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def collect_pyplot_figures(stray: set[int]) -> Iterator[None]:
    """Collect in `stray` the numbers of the figures that pyplot opens inside, and close them."""
    before = _list_pyplot_figures()
    try:
        yield
    finally:
        for number in _list_pyplot_figures() - before:
            stray.add(number)
            sys.modules["matplotlib.pyplot"].close(number)


def _list_pyplot_figures() -> set[int]:
    """List the numbers of pyplot's open figures, without importing pyplot."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return set(pyplot.get_fignums()) if pyplot else set()
