"""A quiet machine for the lessons that need one: a lesson with timings runs beside no other.

Two processes on two cores, and another lesson on one of them: the machine would be found busy, and
no timing would be judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from nbkit.course.run.locks import hold
from nbkit.lab.evidence.register import all_claims


def needs_quiet(lesson: str) -> bool:
    """Whether a lesson has a claim over timings: beside another lesson it would be skipped."""
    claims = all_claims().values()
    return any(claim.lesson == lesson and claim.over == "timings" for claim in claims)


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
