"""The exercise of the lesson start_here: read a verdict from an interval and a margin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain


def stub_read_verdict(low: float, high: float, margin: float) -> str:
    """Return a word that is never right: the learner starts from here."""
    return "your word"


def solve_read_verdict(low: float, high: float, margin: float) -> str:
    """Judge "the ratio is below the margin", when the ratio lies between low and high."""
    # An end counts, not the middle: a claim is supported when every possible value is on its side.
    if high < margin:
        return "SUPPORTED"
    if low > margin:
        return "REFUTED"
    return "INCONCLUSIVE"


def _expect_word(low: float, high: float, why: str) -> Callable[[Attempt], str | None]:
    """Make a check of the word for one interval and a margin of 0.5."""

    def check_word(attempt: Attempt) -> str | None:
        expected, got = solve_read_verdict(low, high, 0.5), attempt(low, high, 0.5)
        if got == expected:
            return None
        return f"low={low}, high={high}, margin=0.5: expected {expected!r} ({why}), got {got!r}."

    # An exercise shows a check's docstring when the learner's function raises.
    check_word.__doc__ = f"{solve_read_verdict(low, high, 0.5)!r} ({why})."
    return check_word


def the_margin_is_read(attempt: Attempt) -> str | None:
    """'SUPPORTED', since the margin that is passed in is the one that counts."""
    # With a margin of 0.5 built in, this interval would be refuted.
    got = attempt(0.6, 0.9, 1.0)
    if got == "SUPPORTED":
        return None
    return f"low=0.6, high=0.9, margin=1.0: expected 'SUPPORTED' (all of it is below), got {got!r}."


EXERCISES = [
    Exercise(
        "read_verdict",
        stub_read_verdict,
        solve_read_verdict,
        [
            _expect_word(0.2, 0.4, "all of the interval is below the margin"),
            _expect_word(0.6, 0.9, "all of it is above"),
            _expect_word(0.4, 0.6, "the margin lies inside: both sides are possible"),
            # The middle of the next two intervals points to the wrong word.
            _expect_word(0.2, 0.6, "the middle is below, but the upper end is not"),
            _expect_word(0.4, 0.9, "the middle is above, but the lower end is not"),
            the_margin_is_read,
        ],
    )
]

ANSWERS = {
    "report": Answer(
        choices="abc",
        right="a",
        why="a compares the luckiest run of each arm. Its number gets better the more runs an arm "
        "has had, and one lucky seed decides it. Papers call it `best of n`.",
        hints={
            "b": "a single lucky seed of eight moves its average by an eighth of its logarithm.",
            "c": "a median does not move for a single seed; it only throws the pairing away.",
        },
    )
}
