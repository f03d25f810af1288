"""The progress line says where the run is: rewritten at a terminal, a line at a time in a log."""

import io

import pytest

from nbkit.course import progress as course_progress
from nbkit.course.progress import Progress
from nbkit.course.record import Record


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(course_progress, "monotonic", clock)
    return clock


def record(lesson, **values):
    return Record(lesson, {}, "0.1", "ab", "2026-01-01", {}, seconds=14.2, **values)


def visible(text):
    """What a terminal shows in the end: after a carriage return a line is written over."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_a_terminal_shows_one_line_that_is_written_over(clock):
    stream = Terminal()
    with Progress(2, stream) as progress:
        progress.start("01_a")
        progress.cell(1, 27)
        clock.now = 14
        progress.cell(12, 27)
        assert visible(stream.getvalue()) == ["lesson 1 of 2  01_a  cell 12 of 27  14 s"]
        progress.finish(record("01_a", status="ok"))
        progress.start("02_b")
        progress.finish(record("02_b", reason="KeyError: 'x'"))
    assert visible(stream.getvalue()) == [
        "lesson 1 of 2  01_a  14.2 s",
        "lesson 2 of 2  02_b  14.2 s  FAILED: KeyError: 'x'",
        "",
    ]


def test_a_run_that_breaks_off_leaves_a_clean_line(clock):
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(1, stream) as progress:
        progress.start("01_a")
        raise KeyboardInterrupt
    assert visible(stream.getvalue()) == [""]


def test_a_log_gets_whole_lines_only(clock):
    stream = io.StringIO()
    with Progress(1, stream) as progress:
        progress.start("01_a")
        for cell in range(27):
            progress.cell(cell, 27)
        progress.finish(record("01_a", status="ok"))
    assert stream.getvalue().splitlines() == [
        "lesson 1 of 1  01_a  0 s",
        "lesson 1 of 1  01_a  14.2 s",
    ]


def test_a_long_cell_is_seen_to_go_on(clock, monkeypatch):
    stream = io.StringIO()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        clock.now += seconds
        return len(waits) > 2

    progress = Progress(1, stream)
    monkeypatch.setattr(progress._done, "wait", wait)
    progress.start("01_a")
    progress.cell(3, 27)
    progress._tick()
    assert stream.getvalue().splitlines()[1:] == [
        "lesson 1 of 1  01_a  cell 3 of 27  10 s",
        "lesson 1 of 1  01_a  cell 3 of 27  20 s",
    ]
    assert waits == [10, 10, 10]
