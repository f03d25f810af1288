"""The progress line says where the run is: rewritten at a terminal, a line at a time in a log."""

import io

import pytest

from nbkit.course.record import Record
from nbkit.course.run import progress as course_progress
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import Task
from nbkit.course.run.time_left import ExpectedTimes


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


def running(cell=None, cells=27, lesson="01_a"):
    return {lesson: record(lesson, status="running", cell=cell, cell_count=cells)}


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_terminal_shows_one_line_that_is_written_over(clock, wide):
    stream = Terminal()
    with Progress(2, stream) as progress:
        progress.show_lessons(running(1), ["02_b"])
        clock.now = 14
        progress.show_lessons(running(12), ["02_b"])
        assert visible(stream.getvalue()) == [
            "0 of 2 done  01_a cell 12 of 27, 14 s, about 20 s left"
        ]
        progress.finish_lesson(record("01_a", status="ok"))
        progress.show_lessons(running(3, 5, "02_b"), [])
        assert "02_b cell 3 of 5" in visible(stream.getvalue())[1]
        progress.finish_lesson(record("02_b", reason="KeyError: 'x'"))
    assert visible(stream.getvalue()) == [
        "1 of 2 done  01_a  14.2 s",
        "2 of 2 done  02_b  14.2 s  FAILED: KeyError: 'x'",
        "",
    ]


def test_what_took_its_time_before_tells_what_is_left(clock, wide):
    expected = {"01_a": ExpectedTimes(30.0, (10.0, 10.0, 10.0)), "02_b": ExpectedTimes(60.0)}
    progress = Progress(3, Terminal(), jobs=2, expected=expected)
    progress.show_lessons(running(2, 3), ["02_b"])
    clock.now = 4
    assert progress.format_line() == (
        "0 of 3 done, about 60 s left  01_a cell 2 of 3, 4 s, about 16 s left"
    )


def test_lessons_beside_each_other_are_all_shown(clock, wide):
    progress = Progress(2, Terminal(), jobs=2)
    progress.show_lessons({**running(2, 3), **running(None, lesson="02_b")}, [])
    assert progress.format_line() == "0 of 2 done  01_a cell 2 of 3, 0 s, about 0 s left  02_b, 0 s"


def test_a_terminal_gets_no_line_that_is_longer_than_it(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with Progress(2, stream) as progress:
        progress.show_lessons(running(1), [])
        assert [len(line) for line in visible(stream.getvalue())] == [19]


def test_a_run_that_breaks_off_leaves_a_clean_line(clock):
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(1, stream) as progress:
        progress.show_lessons(running(1), [])
        raise KeyboardInterrupt
    assert visible(stream.getvalue()) == [""]


def test_a_log_gets_whole_lines_only(clock):
    stream = io.StringIO()
    with Progress(1, stream) as progress:
        for cell in range(1, 28):
            progress.show_lessons(running(cell), [])
        progress.finish_lesson(record("01_a", status="ok", attempts=[{}]))
    assert stream.getvalue().splitlines() == [
        "0 of 1 done  01_a begins",
        "1 of 1 done  01_a  14.2 s  (attempts cut off before this one: 1)",
    ]


def test_a_long_cell_is_seen_to_go_on(clock):
    stream = io.StringIO()
    progress = Progress(1, stream)
    for clock.now in range(25):
        progress.show_lessons(running(1), [])
    assert stream.getvalue().splitlines()[1:] == [
        "0 of 1 done  01_a cell 1 of 27, 10 s",
        "0 of 1 done  01_a cell 1 of 27, 20 s",
    ]


def test_the_records_on_disk_are_read_once_a_second(clock, tmp_path):
    task = Task(tmp_path / "01_a.ipynb", tmp_path, "01_a")
    stream = io.StringIO()
    progress = Progress(1, stream)
    progress.read_records([task])
    record("01_a", status="running", cell=1, cell_count=2).save(task.record_path)
    clock.now = 0.9
    progress.read_records([task])
    assert stream.getvalue() == ""
    clock.now = 1
    progress.read_records([task])
    assert stream.getvalue() == "0 of 1 done  01_a begins\n"
