"""Each way in which nbval passes, waits or fails without reason is tried, and is mended."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval_strict import ROOT, Text, without_timings

from nbkit.lab.evidence.register import all_claims
from nbkit.lab.evidence.verdicts import Verdict

SCRIPT = Path(__file__).with_name("nbval_strict.py")
KILL = "import os; os.kill(os.getpid(), 9)"
ENVIRONMENT = "import os; [os.environ.get(n) for n in ('JPY_SESSION_NAME', 'NBKIT_LIVE')]"

# For each notebook its cells: source, stored output, and whether it was executed.
NOTEBOOKS = {
    "compared": [
        ("1 + 1", "2", True),
        ("", None, False),
        ("1 + 1", "3", True),
        ("0.123456", "0.1235", True),
        ("1000", "1001", True),
        (ENVIRONMENT, "[None, '0']", True),
        ("object()", "<object at 0x7f0000000000>", True),
        ("print('nbkit 9.9.9, lesson x')", "nbkit 0.1.0, lesson x\n", True),
        ("# NBVAL_SKIP\n1 / 0", None, False),
    ],
    "unexecuted": [("1 + 1", None, False), ("2", None, False)],
    "half": [("1 + 1", "2", True), ("2", None, False)],
    "dead": [("1 + 1", "2", True), (KILL, None, True), ("1", "1", True)],
    "raising": [("1 / 0", None, True), ("1 + 1", "2", True)],
}


def store(path, cells):
    """Write a notebook as if its cells had been executed with these outputs."""
    nb = new_notebook()
    for count, (source, text, executed) in enumerate(cells, start=1):
        cell = new_code_cell(source, execution_count=count if executed else None)
        if text and source.startswith("print"):
            cell.outputs = [new_output("stream", name="stdout", text=text)]
        elif text:
            data = {"text/plain": text}
            cell.outputs = [new_output("execute_result", data, execution_count=count)]
        nb.cells.append(cell)
    nbformat.write(nb, path)


def compare(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JPY_SESSION_NAME": "a front end's"}
    command = [sys.executable, str(SCRIPT), "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each cell, and what was said: `raising` -> [("failure", "..."), ...]."""
    folder = tmp_path_factory.mktemp("nbval")
    for name, cells in NOTEBOOKS.items():
        store(folder / f"{name}.ipynb", cells)
    done = compare(folder, f"--junitxml={folder / 'junit.xml'}", "-n2", "--dist=loadfile")
    assert done.returncode == 1, done.stdout + done.stderr
    found = {name: [] for name in NOTEBOOKS}
    for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
        name = case.get("classname").removesuffix(".ipynb").rpartition(".")[2]
        problem = next((child for child in case if child.tag != "properties"), None)
        words = "" if problem is None else f"{problem.get('message')} {problem.text}"
        found[name].append(("passed" if problem is None else problem.tag, words))
    return found


def tags(outcome):
    return [tag for tag, _ in outcome]


def test_each_cell_is_compared(outcomes):
    same, empty, differs, close, whole, headless, address, version, skipped = outcomes["compared"]
    assert tags([same, empty]) == ["passed", "passed"]
    assert tags([differs]) == ["failure"]  # and what comes after it is compared all the same
    assert tags([close, whole]) == ["passed", "failure"]
    assert tags([headless]) == ["passed"]
    assert tags([address, version]) == ["passed", "passed"]
    assert tags([skipped]) == ["skipped"]


def test_a_reference_that_was_never_executed_is_an_error(outcomes):
    assert tags(outcomes["unexecuted"]) == ["error", "skipped"]
    assert tags(outcomes["half"]) == ["passed", "error"]
    assert "never executed" in outcomes["half"][1][1]


def test_a_dead_kernel_is_seen_and_said(outcomes):
    assert tags(outcomes["dead"]) == ["passed", "failure", "skipped"]
    assert "the kernel died while running this cell" in outcomes["dead"][1][1]


def test_after_the_first_exception_the_rest_is_skipped(outcomes):
    assert tags(outcomes["raising"]) == ["failure", "skipped"]
    assert "ZeroDivisionError" in outcomes["raising"][0][1]
    assert "the notebook stopped at Cell 0" in outcomes["raising"][1][1]


@pytest.mark.parametrize(
    "stored, fresh",
    [
        ("loss 0.123456", "loss 0.123457"),
        ("1.00 s", "1.01 s"),
        ("9.99", "10.0"),
        ("-2.5e-07", "-2.51e-07"),
        ("3e-4", "3.01e-4"),
        ("[0.1, 2.50]", "[0.1001, 2.51]"),
        ("0.0", "-0.0"),
        ("ends in 0.95.", "ends in 0.951."),
    ],
)
def test_decimals_that_are_close_are_equal(stored, fresh):
    assert (Text(stored) == Text(fresh), Text(stored) != Text(fresh)) == (True, False)


@pytest.mark.parametrize(
    "stored, fresh",
    [
        ("0.123", "0.133"),
        ("0.0", "1e-12"),
        ("1e-9", "0.0"),
        ("0.5", "-0.5"),
        ("1000", "1001"),
        ("8 seeds, 0.5", "9 seeds, 0.5"),
        ("0.50 ms", "0.50 s"),
        ("1.0", "1"),
        ("0.5", "nan"),
        ("torch 2.13.0", "torch 2.13.1"),
        ("a1.5", "a1.51"),
        ("0.5, 0.5", "0.5"),
    ],
)
def test_everything_else_that_differs_is_different(stored, fresh):
    assert (Text(stored) == Text(fresh), Text(stored) != Text(fresh)) == (False, True)


def test_a_notebook_is_not_split_over_kernels(tmp_path):
    store(tmp_path / "a.ipynb", [("x = 1", None, True), ("x", "1", True)])
    refused = compare(tmp_path, "-n2")
    assert refused.returncode == 4
    assert "use --dist loadfile" in refused.stderr


def test_a_cell_over_its_time_stops_the_notebook(tmp_path):
    store(tmp_path / "a.ipynb", [("import time; time.sleep(60)", None, True), ("1", "1", True)])
    done = compare(tmp_path, "--nbval-cell-timeout=1")
    assert done.returncode == 1
    assert "Timeout of 1 seconds exceeded" in done.stdout
    assert "1 failed, 1 skipped" in done.stdout


def test_a_verdict_over_timings_is_not_compared_but_has_to_be_there():
    claim = all_claims()["ddp-speed"]
    words = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
    lines = [f"ddp-speed  {word}" for word in (*words, "SKIPPED (needs two cores)")]
    assert {without_timings(line) for line in lines} == {"ddp-speed  JUDGED"}
    told = {without_timings(f"- {Verdict(claim, word, '').takeaway()}") for word in words}
    assert told == {"- TAKEAWAY OF ddp-speed"}
    there = (("signals", Verdict(claim, "REFUTED", "")),)
    told = [Verdict(claim, word, "", elsewhere=there) for word in words[:3]]
    assert {without_timings(str(one)) for one in told} == {"ddp-speed  JUDGED"}
    assert {without_timings(one.takeaway()) for one in told} == {"TAKEAWAY OF ddp-speed"}
    scores = ("side right at 80 % confidence", "INCONCLUSIVE, so there is nothing to score")
    assert {without_timings(f"ddp-speed: {score}") for score in scores} == {"ddp-speed: SCORED"}
    assert without_timings("ddp-speed: an error") == "ddp-speed: an error"


def test_a_verdict_over_seeds_is_compared():
    for text in ("init-kaiming-relu  REFUTED", "init-kaiming-relu: side right at 80 %"):
        assert without_timings(text) == text
