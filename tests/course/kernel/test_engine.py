"""The engine stops at the first fault, marks it in the saved notebook, and loses no wake-up."""

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from queue import Empty

import nbformat
import papermill
import pytest
from course_notebooks import write
from jupyter_client.session import Session
from papermill.engines import papermill_engines

import nbkit
from nbkit.course.kernel.cells import find_error
from nbkit.course.kernel.engine import NbkitEngine
from nbkit.course.kernel.polling import PollingChannel
from nbkit.lab.knobs import KnobError

FAULTS = {
    "raises": ("1 / 0", "ZeroDivisionError", "division by zero"),
    "killed": (
        "import os, signal\nos.write(2, b'last words')\nos.kill(os.getpid(), signal.SIGKILL)",
        "DeadKernelError",
        "the kernel died of signal 9 (often: out of memory)",
    ),
    "exits": ("import os; os._exit(3)", "DeadKernelError", "the kernel died with exit status 3"),
    "leaves": ("import sys; sys.exit(0)", "EarlyExit", "the lesson was left here by sys.exit(0)"),
    "calls exit": ("exit()\nprint(2)", "EarlyExit", "the lesson was left here by exit() or quit()"),
    "keeps its kernel": (
        "quit(keep_kernel=True)",
        "EarlyExit",
        "the lesson was left here by exit() or quit()",
    ),
    "raises the end": ("raise SystemExit", "EarlyExit", "the lesson was left here by sys.exit()"),
    "sleeps": (
        "import time; time.sleep(60)",
        "CellTimeoutError",
        "the cell ran for more than its 2 s",
    ),
    "widget": (
        "import ipywidgets\nwith ipywidgets.Output():\n    {}['key']",
        "KeyError",
        "'key'",
    ),
}


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setitem(papermill_engines._engines, "nbkit", NbkitEngine)
    return "nbkit"


def execute(path, engine, out=None, **options):
    out = out or path.with_name("out.ipynb")
    papermill.execute_notebook(
        str(path), str(out), engine_name=engine, progress_bar=False, **options
    )
    return nbformat.read(out, as_version=4)


def statuses(nb):
    return [cell.metadata.papermill.status for cell in nb.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_marked_where_it_happened(fault, tmp_path, engine):
    source, name, message = FAULTS[fault]
    path = write(tmp_path / "lesson.ipynb", "before = 1", source, "after = 1")

    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(path, engine, execution_timeout=2)

    assert (caught.value.ename, caught.value.evalue) == (name, message)
    nb = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert statuses(nb) == ["completed", "failed", "pending"]
    assert nb.metadata.papermill.exception is True
    assert nb.cells[-1].execution_count is None
    marked = [cell for cell in nb.cells if "papermill-error-cell-tag" in cell.metadata.tags]
    assert len(marked) == 2
    assert "widgets" not in nb.metadata


def test_a_dead_kernel_leaves_its_last_words(tmp_path, engine):
    path = write(tmp_path / "lesson.ipynb", FAULTS["killed"][0])
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(path, engine)
    assert any("last words" in line for line in caught.value.traceback)


def test_a_cell_over_its_time_shows_where_it_was(tmp_path, engine):
    path = write(
        tmp_path / "lesson.ipynb", "import time\nwhile True:\n    time.sleep(0.01)  # here"
    )
    with pytest.raises(papermill.PapermillExecutionError):
        execute(path, engine, execution_timeout=1)
    nb = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    interrupted = [o for cell in nb.cells for o in cell.get("outputs", [])][-1]
    assert interrupted.ename == "KeyboardInterrupt"
    assert "# here" in "\n".join(interrupted.traceback)


def test_a_cell_that_survives_the_interrupt_fails_all_the_same(tmp_path, engine):
    source = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    path = write(tmp_path / "lesson.ipynb", source, "after = 1")
    with pytest.raises(papermill.PapermillExecutionError, match="more than its 1 s"):
        execute(path, engine, execution_timeout=1)


def test_a_cell_that_ignores_the_interrupt_is_killed(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("nbkit.course.kernel.client.GRACE_SECONDS", 0.5)
    source = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    path = write(tmp_path / "lesson.ipynb", source)
    with pytest.raises(papermill.PapermillExecutionError, match="did not stop when interrupted"):
        execute(path, engine, execution_timeout=0.5)


@pytest.fixture
def installed(tmp_path):
    """An environment in which the engine is registered as by `pip install nbkit`."""
    root = Path(nbkit.__file__).parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    points = "".join(f"{key} = {value}\n" for key, value in declared["papermill.engine"].items())
    info = tmp_path / "site" / "nbkit-0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(f"[papermill.engine]\n{points}")
    return {**os.environ, "PYTHONPATH": f"{info.parent}{os.pathsep}{root}"}


def test_papermill_finds_the_engine_once_nbkit_is_installed(tmp_path, installed):
    path = write(tmp_path / "lesson.ipynb", "import sys; sys.exit(0)", "after = 1")
    command = [sys.executable, "-m", "papermill", "--engine", "nbkit", path, tmp_path / "out.ipynb"]
    done = subprocess.run(command, env=installed, capture_output=True, text=True)
    assert done.returncode == 1
    assert "EarlyExit: the lesson was left here by sys.exit(0)" in done.stderr


@pytest.mark.parametrize(
    "first", ["nbkit.course.kernel.engine", "nbkit.course.kernel.client", "papermill"]
)
def test_either_may_be_imported_first(first, installed):
    code = f"import {first}, papermill.engines as e; print(e.papermill_engines.get_engine('nbkit'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=installed, capture_output=True, text=True
    )
    assert "NbkitEngine" in done.stdout, done.stderr


def test_no_process_is_left_behind(tmp_path, engine):
    pids = tmp_path / "pids"
    source = (
        "import os, subprocess, pathlib\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"_ = pathlib.Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')"
    )
    execute(write(tmp_path / "lesson.ipynb", source), engine)
    for pid in map(int, pids.read_text().split()):
        assert not running(pid)


def running(pid):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_cell_has_a_time_limit_without_being_asked(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("nbkit.course.kernel.client.CELL_SECONDS", 1)
    path = write(tmp_path / "lesson.ipynb", "import time; time.sleep(60)")
    with pytest.raises(papermill.PapermillExecutionError, match="more than its 1 s"):
        execute(path, engine)


def test_a_kernel_that_never_comes_up_is_no_success(tmp_path, engine):
    path = write(tmp_path / "lesson.ipynb", "1", "2")
    with pytest.raises(Exception, match="no-such-kernel"):
        execute(path, engine, kernel_name="no-such-kernel", language="python")
    nb = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert statuses(nb) == ["failed", "pending"]
    assert "no-such-kernel" in find_error(nb.cells[1]).evalue


def test_an_option_that_nbclient_does_not_take_is_no_success(tmp_path, engine):
    path = write(tmp_path / "lesson.ipynb", "1", "2")
    with pytest.raises(Exception, match="startup_timeout"):
        execute(path, engine, start_timeout="soon")
    nb = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert statuses(nb) == ["failed", "pending"]


@pytest.mark.parametrize("value", [float("nan"), [1.0, {"deep": float("inf")}]])
def test_a_parameter_that_json_cannot_hold_is_refused_before_anything_runs(tmp_path, engine, value):
    path = write(tmp_path / "lesson.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(KnobError, match="lr must be finite, which JSON can hold, got "):
        execute(path, engine, parameters={"lr": value})
    assert not (tmp_path / "out.ipynb").exists() and not (tmp_path / "ran").exists()


def test_the_kernel_sees_a_headless_environment(tmp_path, engine, monkeypatch):
    for name in ("JPY_SESSION_NAME", "MPLBACKEND"):
        monkeypatch.setenv(name, "from outside")
    for name in ("OMP_NUM_THREADS", "NBKIT_LIVE", "PYTHONHASHSEED"):
        monkeypatch.delenv(name, raising=False)
    names = "JPY_SESSION_NAME NBKIT_LIVE MPLBACKEND PYTHONHASHSEED OMP_NUM_THREADS IPYTHONDIR"
    source = f"import os\nprint([os.environ.get(name) for name in {names.split()}])"

    nb = execute(write(tmp_path / "lesson.ipynb", source), engine)

    seen = eval(nb.cells[1].outputs[0].text)
    assert seen[:2] == [None, "0"]
    assert "inline" in seen[2]
    assert seen[3:5] == ["0", "1"]
    assert "nbkit-" in seen[5]
    assert not os.path.exists(seen[5])
    assert os.environ["JPY_SESSION_NAME"] == "from outside"  # ours is left alone


def test_threads_that_somebody_asked_for_are_kept(tmp_path, engine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    nb = execute(
        write(tmp_path / "a.ipynb", "import os; print(os.environ['OMP_NUM_THREADS'])"), engine
    )
    assert nb.cells[1].outputs[0].text == "3\n"


def test_widgets_and_skipped_cells_are_no_fault(tmp_path, engine):
    path = write(
        tmp_path / "lesson.ipynb",
        "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('captured')\nout",
        "1 / 0",
        "",
    )
    nb = nbformat.read(path, as_version=4)
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nb.cells[2].metadata["tags"] = ["skip-execution"]
    nbformat.write(nb, path)

    nb = execute(path, engine)

    assert nb.metadata.papermill.exception is None
    assert "widgets" not in nb.metadata
    assert nb.metadata.language_info.name == "python"


def test_a_notebook_in_format_3_runs(tmp_path, engine):
    code = {"cell_type": "code", "collapsed": False, "input": "print(6 * 7)", "language": "python"}
    sheet = {"cells": [{**code, "metadata": {}, "outputs": []}], "metadata": {}}
    old = {"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [sheet]}
    path = tmp_path / "lesson.ipynb"
    path.write_text(json.dumps(old))
    nb = execute(path, engine, kernel_name="python3", language="python")
    assert nb.cells[0].outputs[0].text == "42\n"


def test_progress_counts_the_cells_that_run(tmp_path, engine):
    seen = []
    path = write(tmp_path / "lesson.ipynb", "1", "", "2")
    execute(path, engine, progress=lambda *place: seen.append(place))
    assert seen == [(1, 2), (2, 2)]


class DeafSocket:
    """A socket whose wake-ups are lost: a poll sees only what was there when it began."""

    def __init__(self, arrives):
        self.arrives = arrives
        self.polls = []

    async def poll(self, timeout):
        here = len(self.polls) >= self.arrives
        self.polls.append(timeout)
        if not here:
            await asyncio.sleep(0 if timeout is not None else 3600)
        return here

    async def recv_multipart(self):
        session = Session(key=b"")
        return session.serialize(session.msg("execute_reply"))


def channel(socket):
    polling = PollingChannel.__new__(PollingChannel)
    polling.socket, polling.session = socket, Session(key=b"")
    return polling


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_lost_wake_up_costs_one_poll(timeout):
    socket = DeafSocket(arrives=2)
    message = asyncio.run(asyncio.wait_for(channel(socket).get_msg(timeout), 5))
    assert message["msg_type"] == "execute_reply"
    assert socket.polls == [500, 500, 500]


def test_a_message_that_does_not_come_is_not_waited_for_longer():
    socket = DeafSocket(arrives=float("inf"))
    with pytest.raises(Empty):
        asyncio.run(channel(socket).get_msg(0.01))


def test_the_kernel_is_listened_to_through_the_polling_channel(tmp_path, engine, monkeypatch):
    used = []
    get = PollingChannel.get_msg
    monkeypatch.setattr(
        PollingChannel, "get_msg", lambda self, timeout=None: used.append(1) or get(self, timeout)
    )
    execute(write(tmp_path / "lesson.ipynb", "1"), engine)
    assert used
