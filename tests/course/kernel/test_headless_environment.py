"""How the cores are shared out among kernels that run beside each other."""

import os

import pytest
from course_notebooks import write

from nbkit.course.cli import main
from nbkit.course.kernel.headless import THREADS, headless_environment, share_threads


@pytest.fixture
def cores(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    "asked, jobs, given",
    [
        ({}, 1, {"OMP_NUM_THREADS": "1"}),
        ({}, 4, {"OMP_NUM_THREADS": "1"}),  # sharing gives nobody more than it had alone
        ({"OMP_NUM_THREADS": "6"}, 1, {"OMP_NUM_THREADS": "6"}),
        ({"OMP_NUM_THREADS": "6"}, 2, {"OMP_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "2"}, 2, {"OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "6,2"}, 3, {"OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "6"}, 99, {"OMP_NUM_THREADS": "1"}),
        ({"MKL_NUM_THREADS": "8"}, 2, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"}),
    ],
)
def test_each_kernel_gets_its_share(cores, monkeypatch, asked, jobs, given):
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert share_threads(jobs) == given


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_empty_count_is_an_unset_one(cores, monkeypatch, jobs):
    for name in THREADS:
        monkeypatch.setenv(name, " ")
    assert share_threads(jobs) == {"OMP_NUM_THREADS": "1"}
    environment = headless_environment("")
    assert [environment.get(name) for name in THREADS] == ["1", None, None, None]


@pytest.mark.parametrize("name", THREADS)
@pytest.mark.parametrize("text", ["many", "0", "-2", "1.5", "4;2", "²"])
def test_nonsense_is_refused_by_the_variable_s_name(cores, monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    for read, argument in ((share_threads, 1), (share_threads, 3), (headless_environment, "")):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number .* got '{text}'"):
            read(argument)


def test_nonsense_ends_the_command_before_a_lesson_starts(cores, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    lesson = write(tmp_path / "own.ipynb", "1")
    assert main(["run", str(lesson), "--out", str(tmp_path / "out")]) == 2
    assert "OMP_NUM_THREADS must be a whole number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
