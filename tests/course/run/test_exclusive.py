"""A lesson that times several processes has the machine to itself; the others share it."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from course_notebooks import write
from ranks import PATIENCE

from nbkit.course.kernel.fork_client import stop_fork_server
from nbkit.course.kernel.polling import Stopped
from nbkit.course.record import Record
from nbkit.course.run import locks as file_locks
from nbkit.course.run.course_run import _order_tasks, run_lessons
from nbkit.course.run.exclusive import hold_machine, needs_machine_alone
from nbkit.course.run.one_lesson import run_task
from nbkit.course.run.options import RunOptions
from nbkit.course.run.tasks import Task


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(file_locks, "WAIT_SECONDS", 0.001)
    yield
    stop_fork_server()


def has_to_wait(alone):
    """Whether a lesson that comes now is kept waiting."""
    try:
        with hold_machine(alone, is_stopped=lambda: True):
            return False
    except Stopped:
        return True


def test_the_others_share_the_machine():
    with hold_machine(alone=False), hold_machine(alone=False):
        assert not has_to_wait(alone=False)
        assert has_to_wait(alone=True)
    assert not has_to_wait(alone=True)


def test_one_that_runs_alone_lets_nobody_in():
    with hold_machine(alone=True):
        assert has_to_wait(alone=False)
        assert has_to_wait(alone=True)
    assert not has_to_wait(alone=False)


def test_a_lesson_that_fails_gives_the_machine_back():
    for alone in (True, False, True):
        with pytest.raises(KeyError), hold_machine(alone):
            raise KeyError


def test_nobody_overtakes_one_that_waits_to_be_alone():
    came, begun, done = threading.Event(), threading.Event(), threading.Event()

    def asked():
        came.set()
        return False

    def wait():
        with hold_machine(alone=True, is_stopped=asked):
            begun.set()
            done.wait(PATIENCE)

    with hold_machine(alone=False):
        thread = threading.Thread(target=wait)
        thread.start()
        assert came.wait(PATIENCE)  # it has tried in vain
        assert has_to_wait(alone=False)
        assert not begun.is_set()
    assert begun.wait(PATIENCE)
    done.set()
    thread.join(PATIENCE)
    assert not has_to_wait(alone=False)


def test_another_process_has_it_until_it_is_killed(tmp_path):
    code = (
        "import tempfile, time\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "from nbkit.course.run.exclusive import hold_machine\n"
        "with hold_machine(alone=True): print('alone', flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "alone\n"
    assert has_to_wait(alone=False)
    other.kill()
    other.communicate()
    assert not has_to_wait(alone=True)


def test_without_file_locks_nobody_waits(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with hold_machine(alone=True):
        assert not has_to_wait(alone=True)


def test_only_lessons_with_claims_over_timings_need_quiet():
    assert needs_machine_alone("ddp") and needs_machine_alone("amp")
    assert not needs_machine_alone("accumulation")
    assert not needs_machine_alone("a lesson of one's own")


def test_lessons_that_run_alone_go_first_and_then_the_longest():
    names = ["05_amp", "06_accumulation", "07_ddp"]
    tasks = [Task(Path(f"{name}.ipynb"), Path(), name) for name in names]
    expected = dict.fromkeys(names)
    assert [task.name for task in _order_tasks(tasks, expected, jobs=1)] == names
    by_two = [task.name for task in _order_tasks(tasks, expected, jobs=2)]
    assert by_two == ["05_amp", "07_ddp", "06_accumulation"]


# The limit is there to end a test that fails; on a busy machine a kernel starts in a minute or two.
MEET = """\
import pathlib, time
began, end = time.monotonic(), time.monotonic() + 250
pathlib.Path({mine!r}).touch()
while not pathlib.Path({other!r}).exists() and time.monotonic() < end: time.sleep(0.01)
met = time.monotonic() < end"""
SAY = "print(began, time.monotonic(), met)"


class AloneFirst(ThreadPoolExecutor):
    """Begin the lesson that runs alone before the others come.

    If it came between the other two, which wait for each other, it would keep the second one out.
    """

    def submit(self, function, task):
        future = super().submit(function, task)
        while task.name == "07_ddp" and Record.load(task.record_path).status == "waiting":
            time.sleep(0.01)
        return future


def test_a_run_leaves_the_lesson_that_needs_it_alone(tmp_path):
    here = {"mine": str(tmp_path / "a"), "other": str(tmp_path / "b")}
    there = {"mine": here["other"], "other": here["mine"]}
    wait = "import time; began, met = time.monotonic(), True; time.sleep(0.3)"
    sources = {"01_a": MEET.format(**here), "07_ddp": wait, "08_b": MEET.format(**there)}
    lessons = [write(tmp_path / f"{name}.ipynb", text, SAY) for name, text in sources.items()]
    times = {}
    options = RunOptions(jobs=3, executor=f"{__name__}:AloneFirst")
    for record in run_lessons(lessons, tmp_path / "out", options=options):
        nb = nbformat.read(tmp_path / "out" / f"{record.name}.ipynb", as_version=4)
        began, ended, met = nb.cells[2].outputs[0].text.split()
        assert met == "True"  # the other two have run side by side
        times[record.name] = float(began), float(ended)
    began, ended = times.pop("07_ddp")
    for other_began, other_ended in times.values():
        assert other_ended <= began or ended <= other_began


def test_one_that_is_stopped_while_it_waits_has_not_begun(tmp_path):
    path, out = write(tmp_path / "07_ddp.ipynb", "1"), tmp_path / "out"
    out.mkdir()
    gone = (tmp_path / "a run that has been stopped", "")
    task = Task(path, out, "07_ddp", token=gone)
    with hold_machine(alone=False), ThreadPoolExecutor(1) as pool:  # as a run does it
        record = pool.submit(run_task, task).result()
    assert record.status == "failed"
    assert record.reason == "not begun: stopped by Ctrl-C"
    assert Record.find(out / "07_ddp.json") == record
