"""Kernels that are forked: like those that are not, sooner there, and gone when they should be."""

import os
import sys
import time

import nbformat
import pytest
from course_notebooks import write

from nbkit.course.kernel.fork_client import (
    find_fork_server,
    start_fork_server,
    stop_fork_server,
)
from nbkit.course.run.one_lesson import run_lesson

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

# What a lesson could tell the difference by; modules aside, there is to be none.
LOOK = """\
import os, signal, sys, threading
import matplotlib
print(sys.argv[0].rpartition('/')[2].removesuffix('.py'), __name__, sys.path)
print({k: v for k, v in os.environ.items() if k not in ('IPYTHONDIR', 'JPY_PARENT_PID', '_')})
print(os.getcwd(), os.getpgid(0) == os.getpid() == os.getsid(0))
print(signal.getsignal(signal.SIGCHLD), signal.getsignal(signal.SIGINT))
print(matplotlib.get_backend(), dict(matplotlib.rcParams))
names = sorted(thread.name for thread in threading.enumerate())
print([name for name in names if name != 'Thread-1'], hash('a'))  # -1 looks after the parent
import torch
print(torch.get_num_threads(), torch.manual_seed(0).initial_seed(), torch.randn(2))
import matplotlib.pyplot as plt
_ = plt.plot([1, 2])"""


@pytest.fixture
def forked():
    """Start the process that kernels come from, for a lesson."""
    yield lambda path: start_fork_server([path], {"OMP_NUM_THREADS": "1"})
    stop_fork_server()


def outputs(path, out):
    out.mkdir(exist_ok=True)
    record = run_lesson(path, out)
    assert record.ok, record.reason
    nb = nbformat.read(out / path.name, as_version=4)
    return [cell.outputs for cell in nb.cells if cell.cell_type == "code"]


def text(cell):
    return "".join(output.get("text", "") for output in cell)


def test_a_forked_kernel_is_like_any_other(tmp_path, forked, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write(tmp_path / "01_a.ipynb", LOOK, "import os; print(os.getppid())")
    plain = outputs(path, tmp_path / "plain")
    forked(path)
    pid = find_fork_server()._process.pid
    like = outputs(path, tmp_path / "forked")
    assert text(like[0]).splitlines() == text(plain[0]).splitlines()
    shown = [[out.data.keys() for out in cells[0] if "data" in out] for cells in (like, plain)]
    assert shown[0] == shown[1] != []
    assert any("image/png" in out.get("data", {}) for out in like[0])
    assert (int(text(plain[1])), int(text(like[1]))) == (os.getpid(), pid)


def test_what_a_lesson_does_is_not_seen_by_the_next(tmp_path, forked):
    source = "import sys\nprint(sys.modules.get('numpy') and hasattr(sys.modules['numpy'], 'mine'))"
    path = write(
        tmp_path / "01_a.ipynb",
        "import torch",
        source,
        "import numpy\nnumpy.mine = 1\nprint(numpy.random.random())",
        "print(torch.initial_seed())",
    )
    forked(path)
    first, second = (outputs(path, tmp_path / name) for name in ("first", "second"))
    assert text(first[1]) == text(second[1]) == "False\n"
    assert text(first[2]) != text(second[2])  # nobody seeded them: nobody knows their numbers
    assert text(first[3]) != text(second[3])


def test_the_imports_have_been_done(tmp_path, forked):
    path = write(tmp_path / "01_a.ipynb", "import sys; print('torch' in sys.modules)", "# import")
    forked(path)
    assert text(outputs(path, tmp_path / "out")[0]) == "False\n"  # the lesson does not need it
    stop_fork_server()
    path = write(path, "import sys; print('torch' in sys.modules)\nimport torch")
    forked(path)
    assert text(outputs(path, tmp_path / "out")[0]) == "True\n"


def test_it_has_one_thread(tmp_path, forked):
    path = write(tmp_path / "01_a.ipynb", "import torch")
    forked(path)
    outputs(path, tmp_path / "out")  # then it has imported all
    assert len(os.listdir(f"/proc/{find_fork_server()._process.pid}/task")) == 1


def test_when_it_is_gone_kernels_start_the_ordinary_way(tmp_path, forked):
    path = write(tmp_path / "01_a.ipynb", "import os; print(os.getppid())")
    forked(path)
    process = find_fork_server()._process
    process.kill()
    process.wait()
    assert text(outputs(path, tmp_path / "out")[0]) == f"{os.getpid()}\n"
    assert find_fork_server() is None


def test_a_kernel_does_not_outlive_it(tmp_path, forked):
    path = write(
        tmp_path / "01_a.ipynb",
        "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)",
    )
    forked(path)
    began = time.monotonic()
    (tmp_path / "out").mkdir()
    record = run_lesson(path, tmp_path / "out")
    assert record.reason.startswith("DeadKernelError: the kernel died of signal 9")
    assert time.monotonic() - began < 55


@pytest.mark.parametrize(
    "end, message",
    [
        ("os._exit(3)", "the kernel died with exit status 3"),
        ("os.kill(os.getpid(), 15)", "the kernel died of signal 15"),
    ],
)
def test_how_a_kernel_ended_is_known(tmp_path, forked, end, message):
    path = write(tmp_path / "01_a.ipynb", f"import os, signal\n{end}")
    if "15" in end:  # ipykernel answers this signal, unless it is told not to
        write(path, f"import os, signal\n_ = signal.signal(15, signal.SIG_DFL)\n{end}")
    forked(path)
    (tmp_path / "out").mkdir()
    record = run_lesson(path, tmp_path / "out")
    assert (record.reason, record.cell) == (f"DeadKernelError: {message}", 1)


def test_a_process_of_this_one_does_not_use_it(tmp_path, forked):
    forked(write(tmp_path / "01_a.ipynb", "1"))
    assert find_fork_server() is not None
    pid = os.fork()
    if pid == 0:
        os._exit(0 if find_fork_server() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
