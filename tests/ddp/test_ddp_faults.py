"""What goes wrong in a launch: the message, and that no process is left behind."""

import atexit
import json
import linecache
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ranks import PATIENCE

from nbkit.ddp import LaunchError, failures, job, launch, rank
from nbkit.ddp.options import JobOptions


@pytest.fixture
def token(monkeypatch):
    """Marks every process that starts from here, and says at the end that none is left.

    Nor may the kernel have other signal handlers then: torch's agent sets its own where it runs.
    """
    name, before = uuid.uuid4().hex, handlers()
    monkeypatch.setenv("NBKIT_TEST", name)
    yield name
    assert handlers() == before
    assert not left_after(10.0, name)


def handlers():
    """What this process does at each signal (but SIGALRM: that is pytest-timeout's)."""
    numbers = signal.valid_signals() - {signal.SIGALRM}
    return {number: signal.getsignal(number) for number in numbers}


def left_after(seconds, token):
    """The processes that carry the token, once they had this long to end."""
    end = time.monotonic() + seconds
    while (found := processes(token)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def processes(token):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                int(folder.name) != os.getpid()
                and token.encode() in (folder / "environ").read_bytes()
            ):
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            pass  # it has ended meanwhile, or is not ours
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def is_killed():
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@needs_proc
def test_a_killed_rank_is_named(token):
    with pytest.raises(LaunchError, match=r"rank 1 of 2\.\nthe process ended by SIGKILL") as caught:
        launch(is_killed, timeout=PATIENCE)
    assert "Out of memory is the usual reason" in str(caught.value)
    # Rank 0 may complain of the lost connection before it is ended too, or not get to it.
    assert [f.rank for f in caught.value.failures] in ([1], [1, 0])


def never_arrives(folder):
    Path(folder, str(rank())).touch() or (time.sleep(1000) if rank() else dist.barrier())


@needs_proc
def test_a_hang_ends_at_the_timeout_and_says_where_each_rank_was(token, tmp_path, monkeypatch):
    """The time is up when both ranks are there, however long the machine took for that."""

    def both_are_there(options):
        return len(list(tmp_path.iterdir())) == 2

    before = semaphores()
    for module in (job, failures):
        monkeypatch.setattr(module, "is_late", both_are_there)
    with pytest.raises(LaunchError, match=r"did not end within timeout=120 s on 2") as caught:
        launch(never_arrives, str(tmp_path), timeout=PATIENCE)
    first, second = str(caught.value).split("--- rank 1 ---")
    assert all("in never_arrives\n    Path(folder, str" in text for text in (first, second))
    assert "distributed_c10d.py" in first and "distributed_c10d.py" not in second
    assert semaphores() == before


def semaphores():
    return set(Path("/dev/shm").glob("sem.*"))


def test_the_time_is_up_at_the_deadline(monkeypatch):
    monkeypatch.setattr(failures, "time", SimpleNamespace(time=lambda: 100.0))
    late = {end: failures.is_late(replace(OPTIONS, deadline=end)) for end in (None, 99.0, 101.0)}
    assert late == {None: False, 99.0: True, 101.0: False}


def ends_itself(code):
    if rank() == 1:
        os._exit(code)
    dist.barrier()


@needs_proc
@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_that_ends_itself_is_named(token, code):
    with pytest.raises(
        LaunchError, match=rf"rank 1 of 2\.\n.*ended with exit code {code}"
    ) as caught:
        launch(ends_itself, code, timeout=PATIENCE)
    assert caught.value.failures[0].error == f"exit code {code}"


class Unprintable(Exception):
    def __str__(self):
        raise OSError


def raises_unprintable():
    raise Unprintable


@needs_proc
def test_an_exception_without_a_text_is_an_exception(token):
    with pytest.raises(LaunchError, match="in raises_unprintable\n    raise Unprintable") as caught:
        launch(raises_unprintable, nproc=1, timeout=PATIENCE)
    (failure,) = caught.value.failures
    assert failure.error == "Unprintable"
    assert failure.message == "(its text cannot be shown: str() raises OSError)"


def leaves_others_running():
    threading.Thread(target=time.sleep, args=(1000,)).start()
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,)).start()
    return rank()


@needs_proc
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_threads_and_processes_that_are_left_running_end_with_the_call(token, tmp_path, method):
    options = replace(OPTIONS, method=method, timeout=PATIENCE)
    assert job.run_job(tmp_path, (leaves_others_running, (), {}), options) == [0, 1]


@needs_proc
def test_a_second_interrupt_leaves_no_process(token, monkeypatch):
    """It comes while the launcher waits for the end of what the first one has killed."""
    agents = []

    def interrupted(agent, *others):
        agents.append(agent)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        patch.setattr(job, "_show_output", interrupted)
        patch.setattr(job, "_await_end", interrupted)
        launch(time.sleep, 1000, timeout=PATIENCE)
    assert caught.traceback  # it keeps the agent's input open, as a notebook's last error does
    assert agents[0].wait(PATIENCE) == -signal.SIGKILL
    job._await_end(agents[0])


CELL = """
class Net(torch.nn.Linear):
    pass

def fails_once(width):
    store = torch.distributed.distributed_c10d._get_default_store()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        store.set("written by the first attempt", "1")
        raise ValueError("a first time")
    torch.distributed.barrier()
    return Net(width, 1), store.check(["written by the first attempt"])

def fails(settings):
    if os.environ["RANK"] == "1":
        settings["momentum"]
    torch.distributed.barrier()
"""


@pytest.fixture
def cell(monkeypatch):
    """Run code as a notebook does: in __main__, from a file that only this process knows."""
    name = "<cell 7>"
    entry = (len(CELL), None, CELL.splitlines(keepends=True), name)
    monkeypatch.setitem(linecache.cache, name, entry)
    scope = {"__name__": "__main__", "torch": torch, "os": os}
    exec(compile(CELL, name, "exec"), scope)
    for name in ("Net", "fails_once", "fails"):  # pickle finds them by name, here only
        monkeypatch.setattr(sys.modules["__main__"], name, scope[name], raising=False)
    return scope


@needs_proc
def test_an_exception_comes_back_with_its_rank_and_traceback(token, cell, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(LaunchError) as caught:
        launch(cell["fails"], {}, timeout=PATIENCE)
    lines = [line for line in str(caught.value).splitlines() if "^^^" not in line]
    assert lines[:5] == [
        "fails failed on rank 1 of 2.",
        "Traceback (most recent call last):",
        '  File "<cell 7>", line 15, in fails',  # and no frame of the launcher's
        '    settings["momentum"]',
        "KeyError: 'momentum'",
    ]
    told = [(failure.rank, failure.error) for failure in caught.value.failures]
    assert told[0] == (1, "KeyError")
    if len(told) > 1:  # rank 0 has lost its peer, if it was not stopped before it noticed
        assert told[1:] == [(0, "RuntimeError")]
        assert lines[5].startswith("Rank 0 then: RuntimeError: ")
    assert len(lines) == 4 + len(told)
    assert caught.value._render_traceback_()[0] == "LaunchError: fails failed on rank 1 of 2."
    assert not list(tmp_path.glob("nbkit-*"))


@needs_proc
def test_a_function_from_a_cell_restarts_and_returns_a_class_of_the_cell(token, cell):
    """A restarted rank must not read the store of the attempt before (torch 2.13 hangs on it)."""
    values = launch(cell["fails_once"], 3, max_restarts=1, timeout=PATIENCE)
    assert [type(net) is cell["Net"] for net, _ in values] == [True, True]
    assert [stale for _, stale in values] == [False, False]


def leaves_or_returns_a_lock():
    if rank() == 0:
        sys.exit(0)
    return threading.Lock()


@needs_proc
def test_a_rank_without_a_value_is_a_failure(token):
    with pytest.raises(LaunchError) as caught:
        launch(leaves_or_returns_a_lock, timeout=PATIENCE)
    left, locked = sorted(caught.value.failures, key=lambda failure: failure.rank)
    assert (left.error, left.message) == ("SystemExit", "0")
    told = "what leaves_or_returns_a_lock returned cannot be sent to another process"
    assert locked.error == "TypeError" and locked.message.startswith(told)


OPTIONS = JobOptions(nproc=2, backend="gloo", timeout=5.0, max_restarts=1)
CRASH = """Fatal Python error: Segmentation fault

Thread 0x0000000000000002 (most recent call first):
  File "threading.py", line 1 in wait

Current thread 0x0000000000000001 (most recent call first):
  File "{file}", line 2 in inner
  File "{file}", line 1 in outer
  File "nbkit/ddp/worker.py", line 1 in run_rank

Thread 0x0000000000000003 (most recent call first):
  File "main.py", line 1 in main
"""


def test_a_crash_says_in_which_attempt_and_where(tmp_path):
    (source := tmp_path / "user.py").write_text("outer()\ninner()\n")
    (tmp_path / "stack_0_1").write_text("")
    (tmp_path / "stack_1_1").write_text(CRASH.format(file=source))
    (tmp_path / "ended.json").write_text('{"1": -11}')
    error = failures.explain_launch(tmp_path, "train", OPTIONS, [])
    assert str(error).splitlines() == [
        "train failed on rank 1 of 2 (attempt 2).",
        "the process ended by SIGSEGV, without a Python exception.",
        f'  File "{source}", line 1, in outer',
        "    outer()",
        f'  File "{source}", line 2, in inner',
        "    inner()",
    ]


def test_a_killed_rank_is_named_first_though_the_other_complained(tmp_path):
    complaint = {"type": "RuntimeError", "message": "peer", "traceback": "lost", "time": 1.0}
    (tmp_path / "error_0_0").write_text(json.dumps(complaint))
    (tmp_path / "ended.json").write_text('{"1": -9, "0": 1}')
    error = failures.explain_launch(tmp_path, "train", OPTIONS, [])
    assert [f.rank for f in error.failures] == [1, 0]
    assert str(error).startswith("train failed on rank 1 of 2.\nthe process ended by SIGKILL")
    assert str(error).endswith("Rank 0 then: RuntimeError: peer")


def test_a_launcher_that_ends_early_is_quoted(tmp_path):
    error = failures.explain_launch(tmp_path, "train", OPTIONS, ["no port", "was free"])
    assert (
        str(error) == "train: the launcher ended before a rank failed. It said:\nno port\nwas free"
    )


SCRIPT = """
import os, signal, time
from nbkit.ddp import launch

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it

def stays():
    print("started", flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    try:
        launch(stays)
    except KeyboardInterrupt as error:
        print("KeyboardInterrupt:", error)
"""


@pytest.fixture
def script(tmp_path, token):
    """Start a Python file; its output is closed at the end."""
    started = []

    def start(text, *command):
        (file := tmp_path / f"script_{len(started)}.py").write_text(text)
        root = str(Path(__file__).parents[2])
        env = os.environ | {"PYTHONPATH": root, "TMPDIR": str(tmp_path)}
        command = [sys.executable, *command, str(file)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.communicate(timeout=PATIENCE)


@needs_proc
def test_an_interrupt_or_the_callers_death_ends_every_process(script, token, tmp_path):
    interrupted, killed = script(SCRIPT), script(SCRIPT)
    for process, number in [(interrupted, signal.SIGINT), (killed, signal.SIGKILL)]:
        lines = sorted(process.stdout.readline() for _ in range(2))
        assert lines == ["[rank0] started\n", "[rank1] started\n"]
        process.send_signal(number)
        process.wait(PATIENCE)
    told = "KeyboardInterrupt: stays was interrupted; its processes were ended\n"
    assert (interrupted.stdout.read(), interrupted.returncode) == (told, 0)
    assert killed.returncode == -signal.SIGKILL
    assert not left_after(10.0, token) and not list(tmp_path.glob("nbkit-*"))


UNDER_TORCHRUN = """
import torch
from nbkit.ddp import launch, rank, world_size, all_mean

def train(lr):
    return rank(), world_size(), float(all_mean(torch.tensor(lr * rank())))

if __name__ == "__main__":
    first, second = launch(train, 2.0, nproc=7), launch(train, 4.0)
    if rank() == 0:
        print(first, second)
"""


@needs_proc
def test_the_same_line_runs_under_torchrun(script):
    address = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    process = script(UNDER_TORCHRUN, "-m", "torch.distributed.run", "--nproc-per-node=2", *address)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == "[(0, 2, 1.0), (1, 2, 1.0)] [(0, 2, 2.0), (1, 2, 2.0)]\n"
    assert process.returncode == 0


class Finalized:
    last = None

    def __init__(self, file):
        self.file = file

    def __del__(self, write=os.write):
        write(self.file, b"finalized ")


def leaves_an_object_and_a_handler(path):
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    Finalized.last = Finalized(file)
    atexit.register(os.write, file, b"handlers ran ")


@needs_proc
def test_spawned_ranks_end_before_the_interpreter_does(token, tmp_path):
    """As with nccl: gloo's threads abort a rank's regular end now and then (torch 2.13)."""
    options = replace(OPTIONS, nproc=1, method="spawn", timeout=PATIENCE)
    call = (leaves_an_object_and_a_handler, (tmp_path / "end",), {})
    assert job.run_job(tmp_path, call, options) == [None]
    assert (tmp_path / "end").read_text() == "handlers ran "


@pytest.mark.gpu
def test_nccl_rank_that_fails_is_named(token):
    with pytest.raises(LaunchError, match="rank 0 of 1.*KeyError"):
        launch({}.__getitem__, "momentum", nproc=1, backend="nccl", timeout=PATIENCE)
