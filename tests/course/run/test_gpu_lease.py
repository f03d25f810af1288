"""A GPU has one lesson at a time, whoever runs it: tried with GPUs that exist by name only."""

import subprocess
import sys
import threading

import pytest

from nbkit.course.kernel.polling import Stopped
from nbkit.course.run import locks as file_locks
from nbkit.course.run.gpu import lease_gpu, list_gpus


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(file_locks, "WAIT_SECONDS", 0.001)


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-5a")


def full():
    """Whether no GPU can be had."""
    try:
        with lease_gpu(is_stopped=lambda: True):
            return False
    except Stopped:
        return True


def test_each_lesson_sees_a_gpu_of_its_own(two):
    with lease_gpu() as first, lease_gpu() as second:
        assert [first, second] == [
            {"CUDA_VISIBLE_DEVICES": "0"},
            {"CUDA_VISIBLE_DEVICES": "GPU-5a"},
        ]
        assert full()
    assert not full()


def test_one_that_waits_begins_when_another_ends(two):
    with lease_gpu():
        first = lease_gpu()
        first.__enter__()
        begun = threading.Event()

        def wait():
            with lease_gpu():
                begun.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not begun.wait(0.05)
        first.__exit__(None, None, None)
        thread.join(20)
        assert begun.is_set()


def test_a_lesson_that_fails_gives_its_gpu_back(two):
    for _ in range(3):
        with pytest.raises(KeyError), lease_gpu():
            raise KeyError
    with lease_gpu() as first, lease_gpu() as second:
        assert first != second


def test_another_process_has_it_until_it_is_killed(two, tmp_path):
    code = (
        "import tempfile, time\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "from nbkit.course.run.gpu import lease_gpu\n"
        "with lease_gpu() as a, lease_gpu() as b: print(a, b, flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert "GPU-5a" in other.stdout.readline()
    assert full()
    other.kill()
    other.communicate()
    assert not full()


def test_they_are_shared_when_told_so(two):
    with lease_gpu(2) as a, lease_gpu(2) as b, lease_gpu(2) as c, lease_gpu(2) as d:
        seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in (a, b, c, d)]
        assert seen == ["0", "GPU-5a"] * 2  # one on each before there are two on one


def test_they_are_left_alone_when_told_so(two):
    with lease_gpu(0) as environment:
        assert environment == {}


@pytest.mark.parametrize("visible", ["", "-1"])
def test_without_a_gpu_nobody_waits(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with lease_gpu() as first, lease_gpu() as second:
        assert first == second == {}


def test_all_there_are_unless_some_are_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert list_gpus() == ["0", "1", "2"]
