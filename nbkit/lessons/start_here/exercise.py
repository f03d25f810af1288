"""The exercise of start_here: read a verdict from an interval and a margin."""

from __future__ import annotations

from collections.abc import Callable

from nbkit.lab.exercise import Exercise


def stub(low: float, high: float, margin: float) -> str:
    """What the learner starts from."""
    return "your word"


def reference(low: float, high: float, margin: float) -> str:
    """The verdict on "the ratio is below the margin", when it lies between low and high."""
    if high < margin:
        return "SUPPORTED"
    if low > margin:
        return "REFUTED"
    return "INCONCLUSIVE"


def _expect(low: float, high: float, why: str) -> Callable[[Callable], str | None]:
    """A check: the word for this interval, held against a margin of 0.5."""

    def check(attempt: Callable) -> str | None:
        expected, came = reference(low, high, 0.5), attempt(low, high, 0.5)
        if came == expected:
            return None
        return f"low={low}, high={high}, margin=0.5: expected {expected!r} ({why}), got {came!r}."

    check.__doc__ = f"{reference(low, high, 0.5)!r} ({why})."
    return check


def the_margin_is_read(attempt: Callable) -> str | None:
    """'SUPPORTED': the margin that is handed over is the one that counts."""
    came = attempt(0.6, 0.9, 1.0)
    if came == "SUPPORTED":
        return None
    return (
        f"low=0.6, high=0.9, margin=1.0: expected 'SUPPORTED' (all of it is below), got {came!r}."
    )


EXERCISES = [
    Exercise(
        "read_verdict",
        stub,
        reference,
        [
            _expect(0.2, 0.4, "all of the interval is below the margin"),
            _expect(0.6, 0.9, "all of it is above"),
            _expect(0.4, 0.6, "the margin lies inside: both sides are possible"),
            _expect(0.2, 0.6, "the middle is below, but the upper end is not"),
            _expect(0.4, 0.9, "the middle is above, but the lower end is not"),
            the_margin_is_read,
        ],
    )
]
