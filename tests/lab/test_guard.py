"""The guard in a used kernel: the newest parameters cell counts, not what other cells have bound.

Each test executes cells as IPython does: their text is appended to `In`, then they run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbkit
from nbkit.lab.knobs import KnobError, between, choice, log
from nbkit.lab.lesson import Lesson

PARAMETERS = 'profile: str = "lesson"  # how much\nlr: float = 0.1\ndepth: int = 3'
RANGES = {"profile": choice("smoke", "lesson"), "lr": log(0.01, 1), "depth": between(1, 5)}


class Kernel:
    """A kernel that has just opened the lesson."""

    def __init__(self):
        self.variables = {"In": ["", "lesson = Lesson('start_here')"], "__annotations__": {}}
        self.variables["lesson"] = Lesson("start_here", self.variables)

    def run(self, cell):
        self.variables["In"].append(cell)
        exec(cell, self.variables)

    def guard(self):
        self.variables["In"].append("knobs = lesson.knobs(...)")
        return self.variables["lesson"].knobs(**RANGES)


@pytest.fixture
def kernel():
    """A kernel in which parameters and guard have run once."""
    kernel = Kernel()
    kernel.run(PARAMETERS)
    kernel.guard()
    return kernel


def test_a_misspelt_name_is_refused_when_the_cells_run_again(kernel):
    kernel.run(PARAMETERS.replace("depth", "depht"))
    with pytest.raises(KnobError, match="unknown parameter 'depht'. Did you mean 'depth'?"):
        kernel.guard()
    kernel.run(PARAMETERS.replace("3", "4"))  # put right: what was misspelt is still bound
    assert kernel.guard()["depth"] == 4 and kernel.variables["depht"] == 3


def test_a_misspelt_name_at_first_can_be_put_right_without_a_restart():
    kernel = Kernel()
    kernel.run(PARAMETERS.replace("depth", "depht"))
    with pytest.raises(KnobError, match="unknown parameter 'depht'"):
        kernel.guard()
    kernel.run(PARAMETERS)
    assert kernel.guard()["depth"] == 3


def test_a_line_that_was_taken_out_is_missed_although_its_variable_is_still_there(kernel):
    kernel.run(PARAMETERS.replace("depth: int = 3", ""))
    with pytest.raises(KnobError, match="the parameters cell must declare `depth: type = default`"):
        kernel.guard()


@pytest.mark.parametrize(
    "cell",
    [
        "count = 3",
        "count: int = 3",  # annotated, but it declares none of the parameters
        "lr: float = 0.2\ncount: int = 3",  # somebody tries another lr
        "def f(depht):\n    depht = 2\n    return depht",
        "depth: int = 2\nprint(depth)\nprofile: str = 'smoke'\ndepht: int = 2",  # it also prints
        "for depht in range(3):\n    pass",
    ],
)
def test_what_other_cells_bind_is_no_parameter(kernel, cell):
    kernel.run(cell)
    kernel.guard()
    again = Kernel()  # and not in a kernel in which it ran before the parameters
    again.run(cell)
    again.run(PARAMETERS)
    again.guard()


def test_the_opening_cell_run_again_in_a_used_kernel_forgets_nothing(kernel):
    kernel.run("count: int = 3")
    variables = kernel.variables
    variables["In"].append("lesson = Lesson('start_here')")
    variables["lesson"] = Lesson("start_here", variables)
    kernel.run(PARAMETERS)
    kernel.guard()
    variables["lesson"] = Lesson("start_here", variables)
    kernel.run(PARAMETERS.replace("depth", "depht"))
    with pytest.raises(KnobError, match="unknown parameter 'depht'"):
        kernel.guard()


def test_what_papermill_injects_is_checked_each_time():
    kernel = Kernel()
    kernel.run(PARAMETERS)
    kernel.run("# Parameters\nlr = 0.5\n")
    assert kernel.guard()["lr"] == 0.5
    for _ in range(2):
        kernel.run(PARAMETERS)
        kernel.run("# Parameters\ndepht = 2\n")
        with pytest.raises(KnobError, match="unknown parameter 'depht'"):
            kernel.guard()


def test_a_cell_that_is_broken_or_an_in_that_is_none_harms_nothing(kernel):
    kernel.variables["In"].append("depht: int = ")
    kernel.guard()
    kernel.variables["In"] = 3
    assert kernel.variables["lesson"].knobs(**RANGES)["depth"] == 3


SESSION = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
guard = (
    "from nbkit.lab import Lesson, between, choice\\n"
    "knobs = lesson.knobs(profile=choice('smoke', 'lesson'), depth=between(1, 5))"
)
parameters = "%precision 3\\nprofile: str = 'lesson'\\ndepth: int = 3"
shell.run_cell("from nbkit.lab import Lesson\\nlesson = Lesson('start_here')", store_history=True)
for cell in (parameters, guard, "count: int = 3", parameters.replace("depth", "depht"), guard,
             parameters.replace("int = 3", "int = 4"), guard):
    result = shell.run_cell(cell, store_history=True)
    print("RESULT", type(result.error_in_exec).__name__)
"""


def test_so_it_is_in_ipython_itself(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(nbkit.__file__).parents[1])}
    environment["IPYTHONDIR"] = str(tmp_path)
    words = [sys.executable, "-c", SESSION]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    none = "NoneType"
    assert found == [none, none, none, none, "KnobError", none, none], done.stdout
