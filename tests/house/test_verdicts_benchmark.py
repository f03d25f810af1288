"""The benchmark that repeats verdicts: when it is content, and when it is not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "verdicts.py"


@pytest.fixture(scope="module")
def verdicts():
    spec = importlib.util.spec_from_file_location("verdicts_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(effect, word="SUPPORTED", half=0.1):
    interval = [effect * (1 - half), effect * (1 + half)]
    return {"verdict": word, "effect": effect, "interval": interval, "reason": "why"}


def test_intervals_that_hold_the_geometric_mean_are_counted(verdicts):
    assert verdicts.count_holding([verdict(2.0)] * 9 + [verdict(3.0)]) == 9
    assert verdicts.count_holding([verdict(1.0, half=0.9), verdict(4.0)]) == 0
    open_end = verdict(4.0) | {"interval": [1.5, None]}
    assert verdicts.count_holding([verdict(1.0), open_end]) == 1


def test_one_interval_in_ten_may_miss_and_two_may_not(verdicts):
    one = {"fast": [verdict(2.0)] * 9 + [verdict(3.0)]}
    two = {"fast": [verdict(2.0)] * 8 + [verdict(3.0), verdict(1.4)]}
    assert verdicts.find_disagreeing(one) == []
    assert verdicts.find_disagreeing(two) == ["fast"]


def test_a_skipped_run_is_no_quiet_one(verdicts):
    runs = {"fast": [verdict(2.0)] * 9 + [verdict(2.0, "SKIPPED")]}
    assert verdicts.find_disagreeing(runs) == ["fast"]


@pytest.mark.parametrize(
    ("word", "misled"),
    [("SUPPORTED", []), ("SKIPPED", []), ("INCONCLUSIVE", []), ("REFUTED", ["fast"])],
)
def test_a_busy_machine_may_skip_a_claim_and_not_decide_it_otherwise(verdicts, word, misled):
    busy = {"fast": [verdict(2.0, "SKIPPED")] * 9 + [verdict(2.0, word)]}
    assert verdicts.find_misled(busy, {"fast": [verdict(2.0)] * 10}) == misled


def test_a_claim_without_a_quiet_verdict_is_not_passed_over(verdicts):
    assert verdicts.find_misled({"fast": [verdict(2.0)]}, {}) == ["fast"]


def test_the_busy_loops_end(verdicts, monkeypatch):
    started, start = [], subprocess.Popen

    def popen(words):
        started.append(start([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1]

    monkeypatch.setattr(verdicts.subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt), verdicts.busy_loops(2):
        assert [loop.poll() for loop in started] == [None, None]
        raise KeyboardInterrupt
    assert [loop.poll() for loop in started] == [-9, -9]
