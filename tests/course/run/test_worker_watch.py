"""An executor without workers is told of at once, and not waited for without end."""

import io
from concurrent.futures import Future

import pytest
from course_notebooks import write

from nbkit.course.run import worker_watch
from nbkit.course.run.dispatch import dispatch_tasks
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import plan_tasks
from nbkit.course.run.worker_watch import WorkerWatch


class Pool:
    lack = "no workers"

    def find_lack(self):
        return self.lack

    def submit(self, function, *arguments):
        return Future()


def test_lessons_that_no_worker_takes_are_given_up_with_the_reason(tmp_path):
    lesson = write(tmp_path / "01_a.ipynb", "1")
    (task,) = plan_tasks([lesson], tmp_path / "out", {}, timeout=0.0)
    task.out.mkdir()
    stream = io.StringIO()
    (record,) = dispatch_tasks([task], Pool(), Progress(1, stream))
    assert (record.status, record.reason) == ("failed", "not begun: no workers, for 0 s")
    assert "no workers; waiting for one" in stream.getvalue()


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(worker_watch, "monotonic", lambda: times[0])
    return times


def test_missing_workers_are_told_once_and_given_up_after_a_while(clock):
    told, pool = [], Pool()
    watch = WorkerWatch(pool, 60.0, told.append)
    assert watch.find_reason() is None
    assert told == ["no workers; waiting for one, for up to 60 s (--timeout)."]
    clock[0] = 59.0
    assert watch.find_reason() is None
    pool.lack = None
    clock[0] = 62.0
    assert watch.find_reason() is None
    pool.lack = "no workers"
    clock[0] = 65.0
    assert watch.find_reason() is None
    assert len(told) == 2  # they came, and have gone again: the time begins anew
    clock[0] = 125.0
    assert watch.find_reason() == "no workers, for 60 s"


def test_any_other_executor_lacks_nothing(clock):
    assert WorkerWatch(object(), 0.0, pytest.fail).find_reason() is None
