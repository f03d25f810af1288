"""A quiet machine for the lessons that need one: what times several processes runs beside nothing.

Two processes on two cores, and another lesson on one of them: the timings would be of the company.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from nbkit.course.run.locks import hold
from nbkit.lab.evidence.claims import all_claims


def needs_quiet(lesson: str) -> bool:
    """Whether a lesson has a claim on the time that several processes take side by side."""
    claims = all_claims().values()
    return any(claim.lesson == lesson and "two cores" in claim.needs for claim in claims)


@contextlib.contextmanager
def company(alone: bool, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Have the machine alone, or share it with the lessons that do not mind; wait for either.

    Args:
        alone: whether this lesson needs the machine to itself.
        stopped: asked while waiting whether to give up.
    Raises:
        Stopped: if it was.
    """
    with contextlib.ExitStack() as held:
        # Who waits to be alone waits in the door: those who come later cannot overtake for ever.
        with hold(["door"], stopped):
            held.enter_context(hold(["machine"], stopped, shared=not alone))
        yield
