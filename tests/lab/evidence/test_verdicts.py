"""A claim measured on further tasks: each is judged by itself, and all of them are told."""

import json

import pytest

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import judge

ABOUT = ("id", "x", "It helps.", "w", "a / b", "ratio", "below", 8, "Yes.", "No.", "Open.")
CLAIM = Claim(*ABOUT, margin=1.0, task="digits: an MLP, 100 steps", n_elsewhere=4)
HELD, LOST, OPEN = Interval(0.5, 0.4, 0.6, 8), Interval(2.0, 1.5, 3.0, 8), Interval(1, 0.5, 2, 8)


@pytest.mark.parametrize(
    ("home", "away", "line", "end"),
    [
        (HELD, HELD, "id  SUPPORTED  (2 of 2 tasks)", "2 of 2 tasks: digits, signals."),
        (HELD, LOST, "id  SUPPORTED  (1 of 2 tasks)", "1 of 2 tasks: digits, signals (refuted)."),
        (LOST, HELD, "id  REFUTED  (1 of 2 tasks)", "1 of 2 tasks: digits (refuted), signals."),
        (
            OPEN,
            OPEN,
            "id  INCONCLUSIVE  (0 of 2 tasks)",
            "0 of 2 tasks: digits (inconclusive), signals (inconclusive).",
        ),
    ],
)
def test_a_verdict_tells_on_how_many_tasks_it_held(home, away, line, end):
    verdict = judge(CLAIM, home, {"signals": away})
    assert str(verdict) == line
    assert verdict.takeaway().endswith(f"It held on {end}")


def test_a_single_task_is_not_counted():
    verdict = judge(CLAIM, HELD)
    assert (str(verdict), verdict.takeaway()) == ("id  SUPPORTED", "Yes.")
    assert verdict.elsewhere == () and verdict.to_dict()["elsewhere"] == []


def test_a_claim_that_was_not_judged_at_home_does_not_count_its_tasks():
    few = judge(CLAIM, Interval(0.5, 0.4, 0.6, 7), {"signals": HELD})
    assert str(few) == "id  SKIPPED (7 of the 8 seeds it needs)"
    assert few.takeaway() == "It helps. Not judged in this run."


def test_a_further_task_may_need_fewer_seeds():
    verdict = judge(CLAIM, HELD, {"a": Interval(0.5, 0.4, 0.6, 4), "b": Interval(0.5, 0.4, 0.6, 3)})
    (_, a), (_, b) = verdict.elsewhere
    assert (a.verdict, b.verdict, b.reason) == ("SUPPORTED", "SKIPPED", "3 of the 4 seeds it needs")
    assert verdict.takeaway().endswith("It held on 2 of 3 tasks: digits, a, b (skipped).")
    bare = Claim(*ABOUT, margin=1.0)
    ((_, away),) = judge(bare, HELD, {"signals": Interval(0.5, 0.4, 0.6, 7)}).elsewhere
    assert away.reason == "7 of the 8 seeds it needs"


def test_what_was_measured_elsewhere_must_fit_the_claim_too():
    with pytest.raises(ValueError, match="on the task signals: id measures ratio: expected an In"):
        judge(CLAIM, HELD, {"signals": [True]})


def test_the_numbers_of_every_task_are_in_the_json():
    told = judge(CLAIM, HELD, {"signals": LOST}).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["task"], told["baseline"]) == ("digits: an MLP, 100 steps", "")
    (there,) = told["elsewhere"]
    assert (there["task"], there["verdict"], there["effect"]) == ("signals", "REFUTED", 2.0)
    assert (there["interval"], there["n"], there["over"]) == ([1.5, 3.0], 8, "seeds")
