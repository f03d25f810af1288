"""Beyond this process: any executor by name, and a dask cluster that loses a worker in mid-run."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from course_notebooks import write

import nbkit
from nbkit.course import cli
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.run import executors
from nbkit.course.run.course_run import run_lessons
from nbkit.course.run.executors import open_executor
from nbkit.course.run.one_lesson import run_task
from nbkit.course.run.options import RunOptions
from nbkit.course.run.tasks import plan_tasks

ROOT = str(Path(nbkit.__file__).parents[1])


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "the executor is local, dask:ADDRESS or module:callable, got 'nowhere'"),
        ("no_such_module:Pool", "there is no executor no_such_module:Pool: No module named"),
        ("concurrent.futures:Pool", "there is no executor concurrent.futures:Pool"),
        ("concurrent.futures:wait", "is no executor: called with 1, TypeError: "),
        ("os:getpid", "os:getpid is no executor: called with 1, TypeError: "),
        ("builtins:str", "builtins:str is no executor: it gave a str, which has no `submit`"),
        ("dask:", "expected the address of a scheduler after dask:, tcp://HOST:PORT, got ''"),
        ("dask:foo://bar", "unknown address scheme 'foo'"),
    ],
)
def test_what_is_no_executor_is_bad_usage(tmp_path, name, message, capsys):
    lesson = str(write(tmp_path / "01_a.ipynb", "1"))
    assert cli.main(["run", lesson, "--out", str(tmp_path / "out"), "--executor", name]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_does_not_answer_is_bad_usage(monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 0.2)
    with pytest.raises(LessonError, match="no dask scheduler answers at 'tcp://127.0.0.1:9'"):
        open_executor("dask:tcp://127.0.0.1:9", 2).__enter__()


def test_without_dask_there_is_a_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(LessonError, match=r'pip install "nbkit\[cluster\]"'):
        open_executor("dask:tcp://127.0.0.1:9", 2).__enter__()


def two_at_a_time(jobs):
    """An executor of somebody's own."""
    assert jobs == 2
    return ThreadPoolExecutor(jobs)


def test_any_executor_by_name(tmp_path):
    lessons = [write(tmp_path / f"0{n}_a.ipynb", "1") for n in (1, 2, 3)]
    records = run_lessons(
        lessons, tmp_path / "out", options=RunOptions(jobs=2, executor=f"{__name__}:two_at_a_time")
    )
    assert [record.ok for record in records] == [True] * 3


MINE = """\
from concurrent.futures import ThreadPoolExecutor
def make(jobs):
    return ThreadPoolExecutor(jobs)"""


def test_an_executor_may_lie_in_the_folder_that_the_command_runs_in(tmp_path):
    (tmp_path / "mypool.py").write_text(MINE)
    write(tmp_path / "01_a.ipynb", "1")
    code = "import sys; from nbkit.course.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-P", "-c", code, "run", "01_a.ipynb", "--executor", "mypool:make"]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_pool_that_breaks_is_a_reason_with_the_cell(tmp_path):
    source = (
        "import os\nos.kill(int(os.environ['NBKIT_TEST_DRIVER']), 9)\nimport time; time.sleep(60)"
    )
    lesson = write(tmp_path / "01_a.ipynb", "import os", source)
    driver = f"{__name__}:in_processes_that_name_themselves"
    (record,) = run_lessons([lesson], tmp_path / "out", options=RunOptions(executor=driver))
    assert record.status == "failed" and record.cell == 2
    assert record.reason.startswith("BrokenProcessPool: ")
    assert Record.load(tmp_path / "out" / "01_a.json") == record


def in_processes_that_name_themselves(jobs):
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=name_myself)


def name_myself():
    """The kernels of this process learn who drives them."""
    os.environ["NBKIT_TEST_DRIVER"] = str(os.getpid())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"nbkit": "99"}, "the run needs 99: install that version"),
        ({"out": Path("/nowhere")}, "does not see"),
    ],
)
def test_a_machine_that_does_not_fit_says_so(tmp_path, change, message):
    (task,) = plan_tasks([write(tmp_path / "01_a.ipynb", "1")], tmp_path / "out", {})
    task.out.mkdir()
    with pytest.raises(LessonError, match=message):
        run_task(replace(task, **change))


@pytest.fixture
def cluster(tmp_path):
    """A dask scheduler and two workers, each a process of its own; its address, and the workers."""
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    scheduler_file = tmp_path / "scheduler.json"
    common = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def dask(*words):
        command = [sys.executable, "-m", "distributed.cli." + words[0], *map(str, words[1:])]
        return subprocess.Popen([*command, "--scheduler-file", scheduler_file], **common)

    local = ("--host", "127.0.0.1", "--no-dashboard")
    processes = [dask("dask_scheduler", *local, "--port", "0")]
    try:
        wait_for(lambda: scheduler_file.exists() and scheduler_file.read_text().endswith("}"))
        single = (*local, "--no-nanny", "--nthreads", "1", "--local-directory", tmp_path)
        processes += [dask("dask_worker", *single) for _ in range(2)]
        yield json.loads(scheduler_file.read_text())["address"], processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# The first attempt kills who drives it, a dask worker: the second one finds that it was.
KILLS = """\
import os, pathlib, signal, time
here = pathlib.Path({folder!r}, 'tried')
if not here.exists():
    here.touch()
    os.kill({driver}, signal.SIGKILL)
    time.sleep(60)"""


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_finishes_the_run(cluster, tmp_path, capsys):
    address, workers = cluster
    record_of = f"__import__('json').load(open({str(tmp_path / 'out' / '02_b.json')!r}))"
    driver = f"{record_of}['worker']['pid']"
    lessons = [
        write(tmp_path / "01_a.ipynb", "1"),
        write(tmp_path / "02_b.ipynb", "1", KILLS.format(folder=str(tmp_path), driver=driver)),
        write(tmp_path / "03_c.ipynb", "1"),
    ]

    records = run_lessons(
        lessons, tmp_path / "out", options=RunOptions(jobs=2, executor=f"dask:{address}")
    )

    assert [record.ok for record in records] == [True, True, True], records
    with contextlib.suppress(subprocess.TimeoutExpired):
        workers[0].wait(0.1)
    (lost,) = [worker for worker in workers if worker.poll() == -signal.SIGKILL]
    (attempt,) = records[1].attempts
    assert (attempt["cell"], attempt["worker"]["pid"]) == (2, lost.pid)
    assert records[1].worker["pid"] in [worker.pid for worker in workers if worker is not lost]
    assert records[0].attempts == records[2].attempts == []
    assert "02_b" in capsys.readouterr().err
    assert Record.load(tmp_path / "out" / "02_b.json") == records[1]


@pytest.mark.slow
def test_ctrl_c_stops_what_runs_on_a_cluster(cluster, tmp_path):
    address, workers = cluster
    lesson = write(
        tmp_path / "01_a.ipynb",
        f"open({str(tmp_path / 'on')!r}, 'w')",
        "import time\ntime.sleep(100)",
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "nbkit.course.cli", "run", lesson, "--out", tmp_path / "out"]
    process = subprocess.Popen([*command, "--executor", f"dask:{address}"], env=environment)
    wait_for((tmp_path / "on").exists)
    wait_for(lambda: Record.load(tmp_path / "out" / "01_a.json").cell == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    record = Record.load(tmp_path / "out" / "01_a.json")
    assert (record.reason, record.cell) == ("stopped by Ctrl-C", 2)
    assert record.worker["pid"] in [worker.pid for worker in workers]
