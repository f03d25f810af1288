"""Whatever ends a run: what is done stays, the rest says what happened, and no process is left."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from course_notebooks import write

import nbkit
from nbkit.course.record import Record

ROOT = str(Path(nbkit.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


def start(*words, **options):
    """A run as a process of its own."""
    command = [sys.executable, "-m", "nbkit.course.cli", "run", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=pipe,
        stderr=pipe,
        text=True,
        **{"preexec_fn": heed_ctrl_c, **options},
    )


def heed_ctrl_c():
    """A shell starts what it puts in the background with SIGINT ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def long_cell(pids, then="time.sleep(100)"):
    """A cell that has a child, says who they are, and stays."""
    return (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        f"with open({str(pids)!r} + '.part', 'w') as file:\n"
        "    _ = file.write(f'{os.getpid()} {child.pid}')\n"
        f"os.rename({str(pids)!r} + '.part', {str(pids)!r})\n" + then
    )


def wait_for(condition, process=None, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """A process, and all that come from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


@pytest.fixture
def broken(tmp_path):
    """A lesson that is done, one that stays in its second cell, one that has not begun."""
    pids = tmp_path / "pids"
    lessons = [
        write(tmp_path / "01_a.ipynb", "1"),
        write(tmp_path / "02_b.ipynb", "1", long_cell(pids)),
        write(tmp_path / "03_c.ipynb", "1"),
    ]
    process = start(*lessons, "--out", tmp_path / "out")
    wait_for(pids.exists, process)
    process.lessons, process.out = lessons, tmp_path / "out"
    process.pids = [*descendants(process.pid), *map(int, pids.read_text().split())]
    yield process
    process.kill()
    process.communicate()


def records(out):
    return [Record.load(out / f"{name}.json") for name in ("01_a", "02_b", "03_c")]


def all_gone(pids):
    wait_for(lambda: not any(map(alive, pids)), seconds=20)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_marks_what_ran_and_what_waited(broken, number):
    broken.send_signal(number)
    said, _ = broken.communicate(timeout=60)

    assert broken.returncode == 130
    done, cut, waited = records(broken.out)
    assert done.ok and nbformat.read(broken.out / "01_a.ipynb", as_version=4)
    assert (cut.status, cut.reason, cut.cell) == ("failed", "stopped by Ctrl-C", 2)
    assert (waited.status, waited.reason) == ("failed", "not begun: stopped by Ctrl-C")
    saved = nbformat.read(broken.out / "02_b.ipynb", as_version=4)
    marked = [c for c in saved.cells if "papermill-error-cell-tag" not in c.metadata.tags]
    assert [c.metadata.papermill.status for c in marked[1:]] == ["completed", "failed"]
    assert marked[2].outputs[0].ename == "KeyboardInterrupt"
    assert "02_b failed in cell 2: stopped by Ctrl-C" in said
    assert not (broken.out / ".run").exists()
    all_gone(broken.pids)


@LINUX
def test_a_second_ctrl_c_says_the_same(broken):
    broken.send_signal(signal.SIGINT)
    wait_for(lambda: not (broken.out / ".run").exists(), broken)  # it is being stopped
    broken.send_signal(signal.SIGINT)
    said, errors = broken.communicate(timeout=60)
    assert broken.returncode == 130 and "Traceback" not in errors
    assert "02_b failed in cell 2: stopped by Ctrl-C" in said and "UNFINISHED" not in said
    assert [record.status for record in records(broken.out)] == ["ok", "failed", "failed"]
    assert "UNFINISHED" not in (broken.out / "index.html").read_text()
    all_gone(broken.pids)


@LINUX
def test_a_runner_that_is_killed_leaves_records_that_tell_and_no_process(broken):
    assert len(broken.pids) >= 4  # the runner, what kernels are forked from, a kernel, its child
    broken.kill()
    broken.communicate()

    all_gone(broken.pids)
    done, cut, waited = records(broken.out)
    assert done.ok
    assert (cut.status, cut.cell, cut.cell_count) == ("running", 2, 2)
    assert waited.status == "waiting"

    write(broken.lessons[1], "1", "2")  # another version of the lesson
    again = start(*broken.lessons, "--out", broken.out, "--resume")
    said, errors = again.communicate(timeout=100)
    assert again.returncode == 0, errors
    assert "done before, and kept: 01_a\n" in said
    assert records(broken.out)[0] == done
    assert all(record.ok for record in records(broken.out))
    assert sorted(os.listdir(broken.out)) == sorted(
        ["index.html", "report.json", "report.md", *(f"{n}.{end}" for n in ("01_a", "02_b", "03_c")
                         for end in ("ipynb", "html", "json"))]
    )  # fmt: skip


@LINUX
def test_an_attempt_that_was_cut_off_stays_in_the_record(broken, tmp_path):
    broken.kill()
    broken.communicate()
    (tmp_path / "pids").unlink()
    process = start(*broken.lessons, "--out", broken.out, "--resume", "--timeout", "2")
    process.communicate(timeout=100)
    assert process.returncode == 1
    cut = records(broken.out)[1]
    assert cut.reason == "CellTimeoutError: the cell ran for more than its 2 s"
    (attempt,) = cut.attempts
    assert attempt["cell"] == 2 and attempt["worker"]["pid"] == broken.pid
    all_gone(map(int, (tmp_path / "pids").read_text().split()))


def test_each_of_the_faults_of_a_lesson_stops_no_other(tmp_path):
    pids = tmp_path / "pids"
    faults = {
        "01_raises": ("1 / 0", "ZeroDivisionError: division by zero"),
        "02_killed": (long_cell(pids, "os.kill(os.getpid(), 9)"), "DeadKernelError: the kernel d"),
        "03_slow": ("import time; time.sleep(100)", "CellTimeoutError: the cell ran for more than"),
        "04_fine": ("1", None),
    }
    lessons = [write(tmp_path / f"{name}.ipynb", "1", faults[name][0], "3") for name in faults]
    process = start(*lessons, "--out", tmp_path / "out", "--timeout", "3", "--jobs", "2")
    _, errors = process.communicate(timeout=100)

    assert process.returncode == 1, errors
    for name, (_, reason) in faults.items():
        record = Record.load(tmp_path / "out" / f"{name}.json")
        if reason is None:
            assert record.ok
            continue
        assert record.reason.startswith(reason) and record.cell == 2
        assert [c["status"] for c in record.cells] == ["completed", "failed", "pending"]
        assert (tmp_path / "out" / f"{name}.html").exists()
    all_gone(map(int, pids.read_text().split()))


MEGABYTES = "import os\nfor _ in range(60):\n    print(os.urandom(25_000).hex())"


def test_a_file_that_cannot_grow_fails_its_lesson_and_no_other(tmp_path):
    """What the system says of a full disk, it says of this limit too."""
    lessons = [
        write(tmp_path / "01_a.ipynb", "1"),
        write(tmp_path / "02_b.ipynb", "1", MEGABYTES, "3"),
        write(tmp_path / "03_c.ipynb", "1"),
    ]
    limit = 1_000_000
    process = start(
        *(*lessons, "--out", tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1, errors
    check_full(tmp_path / "out", "OSError: [Errno 27] File too large")


def check_full(out, reason):
    first, second, third = records(out)
    assert first.ok and third.ok
    assert second.status == "failed" and second.reason.startswith(reason)
    assert second.cell == 2
    for name in ("01_a", "03_c"):
        assert nbformat.read(out / f"{name}.ipynb", as_version=4)
    assert not [name for name in os.listdir(out) if "part" in name]


def test_a_full_disk_fails_its_lesson_and_no_other(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    lessons = [
        write(tmp_path / "01_a.ipynb", "1"),
        write(tmp_path / "02_b.ipynb", "1", MEGABYTES, "3"),
        write(tmp_path / "03_c.ipynb", "1"),
    ]
    words = [sys.executable, "-m", "nbkit.course.cli", "run", *lessons, "--out", disk / "out"]
    command = " ".join(map(str, words))
    script = (
        f"mount -t tmpfs -o size=2500k tmpfs {disk} || exit 77; {command}; code=$?; "
        f"cp -r {disk}/out {tmp_path}/out; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no small disk can be mounted here")
    assert done.returncode == 1, done.stderr
    check_full(tmp_path / "out", "OSError: [Errno 28] No space left on device")
