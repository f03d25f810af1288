"""Give lessons with timings the machine for themselves.

Such a lesson may run several processes at once. If another lesson used a core meanwhile, the
lesson would find the machine busy and give no verdict about timings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from nbkit.course.run.locks import hold_free_lock
from nbkit.lab.evidence.register import all_claims


def needs_machine_alone(lesson: str) -> bool:
    """Return whether a lesson, given by its word, has a claim about timings."""
    for claim in all_claims().values():
        if claim.lesson == lesson and claim.over == "timings":
            return True
    return False


@contextlib.contextmanager
def hold_machine(alone: bool, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Wait for the machine and hold it until the end of the block.

    Args:
        alone: whether to run no other lesson meanwhile; otherwise share it with lessons that do
            not need it alone.
        is_stopped: asked while waiting whether to give up.
    Raises:
        Stopped: if `is_stopped` says so.
    """
    with contextlib.ExitStack() as held:
        # Waiting for exclusive use holds the "door" lock, so that later arrivals cannot starve it.
        with hold_free_lock(["door"], is_stopped):
            held.enter_context(hold_free_lock(["machine"], is_stopped, shared=not alone))
        # The door is open again: a lesson that shares the machine may now come in.
        yield
