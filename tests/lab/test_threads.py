"""One thread from the opening of a lesson on, unless the user asked for another number."""

import os
import subprocess
import sys

import pytest

from nbkit.lab.lesson import Lesson
from nbkit.lab.threads import read_thread_count, use_one_thread

COUNTED = """
import torch
{before}
from nbkit.lab.lesson import Lesson
{between}
Lesson("lr_finder", {{}})
{after}
Lesson("lr_finder", {{}})
print(torch.get_num_threads())
"""
# More threads than this machine has cores: torch does not choose that number by itself.
MANY = 2 * (os.cpu_count() or 1) + 1


def count_threads(omp, before="", between="", after=""):
    """How many threads torch has in a new process after a lesson was opened twice."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("OMP_NUM_THREADS", None)
    if omp is not None:
        environment["OMP_NUM_THREADS"] = omp
    source = COUNTED.format(before=before, between=between, after=after)
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("omp", "where", "count"),
    [
        (None, None, 1),
        ("", None, 1),
        ("2", None, min(2, os.cpu_count() or 1)),
        (None, "before", MANY),
        (None, "between", MANY),
        (None, "after", MANY),
    ],
)
def test_a_lesson_computes_on_one_thread_unless_asked_otherwise(omp, where, count):
    asked = {where: f"torch.set_num_threads({MANY})"} if where else {}
    assert count_threads(omp, **asked) == count


def test_a_count_is_read_as_openmp_reads_it():
    assert [read_thread_count("X", text) for text in ("4", " 4 , 2", "", " ")] == [4, 4, None, None]


def test_a_lesson_refuses_a_count_that_is_none(monkeypatch):
    use_one_thread.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match=r"OMP_NUM_THREADS must be .* got 'many'\. Set another"):
        Lesson("lr_finder", {})
