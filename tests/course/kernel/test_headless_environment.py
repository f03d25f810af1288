"""How the cores are shared out among kernels that run beside each other."""

import os

import pytest

from nbkit.course.kernel.headless import THREADS, share_threads


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
