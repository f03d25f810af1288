"""Reading a verdict: the reference passes, the stub and plausible wrong versions do not."""

import pytest

from nbkit.lab.exercise import load_exercise

READ_VERDICT = load_exercise("start_here", "read_verdict")


def trusts_the_middle(low, high, margin):
    return "SUPPORTED" if (low + high) / 2 < margin else "REFUTED"


def never_refutes(low, high, margin):
    return "SUPPORTED" if high < margin else "INCONCLUSIVE"


def takes_the_hopeful_end(low, high, margin):
    if low < margin:
        return "SUPPORTED"
    return "REFUTED"


def mixes_the_sides(low, high, margin):
    if low > margin:
        return "SUPPORTED"
    return "REFUTED" if high < margin else "INCONCLUSIVE"


def asks_whether_the_middle_is_far(low, high, margin):
    middle = (low + high) / 2
    if abs(middle - margin) < 0.08:
        return "INCONCLUSIVE"
    return "SUPPORTED" if middle < margin else "REFUTED"


def has_the_margin_built_in(low, high, margin):
    if high < 0.5:
        return "SUPPORTED"
    return "REFUTED" if low > 0.5 else "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (trusts_the_middle, "expected 'INCONCLUSIVE' (the margin lies inside"),
        (never_refutes, "low=0.6, high=0.9, margin=0.5: expected 'REFUTED'"),
        (takes_the_hopeful_end, "the margin lies inside: both sides are possible"),
        (mixes_the_sides, "expected 'SUPPORTED' (all of the interval is below"),
        (asks_whether_the_middle_is_far, "the upper end is not"),
        (has_the_margin_built_in, "margin=1.0: expected 'SUPPORTED'"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in READ_VERDICT.check(wrong)


def test_the_reference_passes_and_the_stub_does_not():
    assert READ_VERDICT.check(READ_VERDICT.reference) is None
    assert "got 'your word'" in READ_VERDICT.check(READ_VERDICT.stub)
