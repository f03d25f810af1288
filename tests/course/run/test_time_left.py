"""Time remaining: from the last run of the same, and otherwise from how it has gone so far."""

import pytest
from course_notebooks import write

from nbkit.course.run import time_left
from nbkit.course.run.tasks import plan_tasks
from nbkit.course.run.time_left import (
    ExpectedTimes,
    estimate_lesson_left,
    estimate_run_left,
    find_expected_times,
    format_time_left,
)


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(time_left, "ledger_dir", lambda: tmp_path / "ledger")
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    return plan_tasks([path], tmp_path / "runs" / "new", {"lr": "1"})[0]


def keep(task, folder, cells=(), name=None, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    cells = [{"cell": n, "seconds": seconds} for n, seconds in enumerate(cells, start=1)]
    task.make_record(**{"status": "ok", "cells": cells, **facts}).save(
        folder / f"{name or task.name}.json"
    )


def test_the_last_run_of_the_same_counts(task, tmp_path):
    assert find_expected_times(task) is None
    runs, ledger = tmp_path / "runs", tmp_path / "ledger"
    keep(task, ledger / "cpu", name="a", seconds=9.0, started="2026-01-09")
    assert find_expected_times(task) == ExpectedTimes(9.0)
    keep(task, runs / "old", [1, 2], seconds=4.0, started="2026-01-01")
    keep(task, runs / "later", [1, 3], seconds=5.0, started="2026-01-02")
    keep(task, runs / "failed", [1, 4], seconds=6.0, started="2026-01-03", status="failed")
    keep(task, runs / "other", [1, 5], seconds=7.0, started="2026-01-04", parameters={})
    assert find_expected_times(task) == ExpectedTimes(5.0, (1, 3))


def test_with_an_earlier_run_each_cell_has_its_own_time():
    expected = ExpectedTimes(20.0, (1.0, 10.0, 5.0))  # four seconds are not in a cell
    assert estimate_lesson_left(expected, 2, 3, elapsed=7.0, in_cell=4.0) == 6.0 + 5.0 + 2.0
    assert estimate_lesson_left(ExpectedTimes(20.0), 2, 3, elapsed=7.0, in_cell=4.0) == 13.0


def test_a_cell_that_is_late_is_expected_to_be_as_late_again():
    expected = ExpectedTimes(20.0, (1.0, 10.0, 5.0))
    pace = (90.0 + 10.0) / (3.0 + 10.0 + 10.0)  # half of the twenty seconds damps it
    left = estimate_lesson_left(expected, 2, 3, elapsed=90.0, in_cell=80.0)
    assert left == pytest.approx(70.0 + pace * (5.0 + 2.0))
    assert estimate_lesson_left(ExpectedTimes(20.0), 2, 3, elapsed=27.0, in_cell=4.0) == 7.0
    assert estimate_lesson_left(None, 3, 5, elapsed=64.0, in_cell=60.0) == 58.0 + 2 * 64 / 3


@pytest.mark.parametrize(
    "expected",
    [None, ExpectedTimes(12.0), ExpectedTimes(12.0, (1.0, 9.0)), ExpectedTimes(12.0, (0.0, 0.0))],
)
def test_about_0_s_left_is_not_said_for_long(expected):
    seconds = range(1, 300)  # in the second and last cell, after a first one of no time
    told = [
        format_time_left(estimate_lesson_left(expected, 2, 2, float(s), float(s))) for s in seconds
    ]
    assert told.count("about 0 s left") <= 2
    assert told[-1].endswith("min left")


def test_without_one_the_cells_so_far_tell():
    assert estimate_lesson_left(None, 1, 9, elapsed=2.0, in_cell=2.0) is None
    assert estimate_lesson_left(None, 3, 5, elapsed=5.0, in_cell=1.0) == 6.0


@pytest.mark.parametrize(
    "running, waiting, typical, jobs, left",
    [
        ([10.0], [20.0, 30.0], None, 1, 60.0),
        ([10.0], [20.0, 30.0], None, 2, 30.0),
        ([90.0], [20.0], None, 2, 90.0),  # no sooner than the longest
        ([10.0], [None], 5.0, 1, 15.0),
        ([10.0], [None], None, 1, None),
        ([], [], None, 1, None),
    ],
)
def test_what_is_left_of_a_run(running, waiting, typical, jobs, left):
    assert estimate_run_left(running, waiting, typical, jobs) == left


def test_in_words():
    said = [format_time_left(seconds) for seconds in (0.4, 40, 200, 9000)]
    assert said == [f"about {words} left" for words in ("0 s", "40 s", "3 min", "2 h")]
