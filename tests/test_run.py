"""A run leaves a notebook, a page and a record of each lesson; no failure passes for success."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from course_notebooks import write

import nbkit
from nbkit.course import run as course_run
from nbkit.course.execute import execute, find_fault
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.run import run, run_lesson
from nbkit.lab.knobs import KnobError

VERDICT = """\
from IPython.display import display
numbers = {"kind": "verdict", "claim": "c", "verdict": "SUPPORTED", "effect": 0.5, "n": 8}
display({"text/plain": "c  SUPPORTED"}, raw=True, metadata={"nbkit": numbers})
display({"text/plain": "else"}, raw=True, metadata={"nbkit": {"kind": "table"}})"""


def test_a_lesson_that_runs_leaves_notebook_page_and_record(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "print(lr, profile, quick)", VERDICT, parameters=True)
    out = tmp_path / "out"
    out.mkdir()

    record = run_lesson(path, out, {"lr": "1e-3", "quick": "true"}, profile="smoke")

    assert (record.status, record.reason, record.cell) == ("ok", None, None)
    assert record.parameters == {"lr": 0.001, "quick": True, "profile": "smoke"}
    assert [(v["claim"], v["verdict"], v["n"]) for v in record.verdicts] == [("c", "SUPPORTED", 8)]
    assert [cell["status"] for cell in record.cells] == ["completed"] * 5
    assert 0 < sum(cell["seconds"] for cell in record.cells) < record.seconds
    assert record.notebook_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.nbkit == nbkit.__version__
    assert {"processor", "cores", "torch", "python", "system"} <= set(record.machine)
    assert Record.load(out / "01_a.json") == record

    nb = nbformat.read(out / "01_a.ipynb", as_version=4)
    assert nb.cells[4].outputs[0].text == "0.001 smoke True\n"
    assert "widgets" not in nb.metadata
    page = (out / "01_a.html").read_text()
    assert "0.001 smoke True" in page
    assert "require.min.js" not in page
    assert sorted(os.listdir(out)) == ["01_a.html", "01_a.ipynb", "01_a.json"]


@pytest.mark.parametrize(
    "source, reason",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "EarlyExit: the lesson was left here by sys.exit(0)"),
        (
            "import ipywidgets\nwith ipywidgets.Output():\n    raise ValueError('hidden')",
            "ValueError: hidden",
        ),
    ],
)
def test_a_lesson_that_fails_is_a_record_that_says_where(tmp_path, source, reason):
    path = write(tmp_path / "01_a.ipynb", "before = 1", source, "after = 1")

    record = run_lesson(path, tmp_path_made(tmp_path / "out"))

    assert record.status == "failed"
    assert record.reason.startswith(reason)
    assert record.cell == 2
    assert [cell["status"] for cell in record.cells] == ["completed", "failed", "pending"]
    saved = nbformat.read(tmp_path / "out" / "01_a.ipynb", as_version=4)
    assert saved.metadata.papermill.exception is True
    assert "widgets" not in saved.metadata
    assert Record.load(tmp_path / "out" / "01_a.json") == record


def tmp_path_made(path):
    path.mkdir()
    return path


def test_a_nan_in_the_notebook_is_a_failure_and_is_not_saved(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1")
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].metadata["score"] = float("nan")
    nbformat.write(nb, path)

    record = run_lesson(path, tmp_path_made(tmp_path / "out"))

    assert record.status == "failed"
    assert record.reason.startswith("notebook.cells[1].metadata.score is NaN or infinite")
    text = (tmp_path / "out" / "01_a.ipynb").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_a_cell_that_did_not_run_is_a_fault(tmp_path):
    nb = execute(write(tmp_path / "01_a.ipynb", "1", "2", ""), tmp_path / "out.ipynb")
    assert find_fault(nb) is None
    nb.cells[2].execution_count = None
    assert find_fault(nb) == ("the cell did not run", 2)
    nb.cells[2].metadata.tags.append("skip-execution")
    assert find_fault(nb) is None


def test_a_notebook_that_papermill_cannot_even_begin_is_a_failed_record(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no kernel today")

    monkeypatch.setattr("papermill.execute_notebook", broken)
    record = run_lesson(write(tmp_path / "01_a.ipynb", "1"), tmp_path_made(tmp_path / "out"))
    assert record.reason == "RuntimeError: no kernel today"
    assert Record.load(tmp_path / "out" / "01_a.json") == record


def test_the_kernel_works_in_the_folder_of_the_lesson(tmp_path):
    (tmp_path / "beside.txt").write_text("here")
    path = write(tmp_path / "01_a.ipynb", "print(open('beside.txt').read())")
    here = os.getcwd()
    assert run_lesson(path, tmp_path_made(tmp_path / "out")).ok
    assert os.getcwd() == here


def test_braces_in_a_path_are_just_braces(tmp_path):
    folder = tmp_path_made(tmp_path / "{odd}")
    assert run_lesson(write(folder / "01_a.ipynb", "1"), tmp_path_made(folder / "{out}")).ok


def test_one_failure_stops_no_other(tmp_path, capsys):
    lessons = [
        write(tmp_path / "01_a.ipynb", "import os; os.kill(os.getpid(), 9)"),
        write(tmp_path / "02_b.ipynb", VERDICT),
    ]

    records = run(lessons, tmp_path / "new" / "out")

    assert [record.status for record in records] == ["failed", "ok"]
    printed = capsys.readouterr()
    assert "01_a failed in cell 1: DeadKernelError: the kernel died of signal 9" in printed.out
    assert "SUPPORTED" in printed.out
    assert "lesson 1 of 2  01_a" in printed.err
    assert "lesson 2 of 2  02_b" in printed.err
    page = (tmp_path / "new" / "out" / "index.html").read_text()
    assert "01_a" in page and "02_b" in page


def test_a_full_disk_fails_one_lesson_and_the_next_is_tried(tmp_path, monkeypatch):
    save = Record.save

    def full(record, path):
        if record.lesson == "01_a":
            raise OSError(28, "No space left on device")
        save(record, path)

    monkeypatch.setattr(Record, "save", full)
    lessons = [write(tmp_path / f"{name}.ipynb", "1") for name in ("01_a", "02_b")]
    records = run(lessons, tmp_path / "out")
    assert [record.status for record in records] == ["failed", "ok"]
    assert "No space left on device" in records[0].reason


@pytest.mark.parametrize("given", [{"lrr": "1"}, {"lr": "banana"}, {"lr": "100"}])
def test_no_kernel_starts_when_a_parameter_does_not_fit(tmp_path, monkeypatch, given):
    monkeypatch.setattr(course_run, "execute", lambda *a, **k: pytest.fail("a kernel started"))
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    with pytest.raises(KnobError, match="01_a: "):
        run([path], tmp_path / "out", given)
    with pytest.raises(KnobError, match="01_a: "):
        run_lesson(path, tmp_path, given)
    assert not (tmp_path / "out").exists()


def test_a_profile_is_given_once(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    with pytest.raises(KnobError, match="given twice: 'full' and 'smoke'"):
        run([path], tmp_path / "out", {"profile": "full"}, profile="smoke")


def test_nobodys_notebook_is_written_over(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1")
    before = path.read_bytes()
    with pytest.raises(LessonError, match="is not a run's and would be lost"):
        run([path], tmp_path)
    work = write(tmp_path_made(tmp_path / "work") / "01_a.ipynb", "mine")
    with pytest.raises(LessonError, match="is not a run's and would be lost"):
        run_lesson(path, work.parent)
    assert path.read_bytes() == before
    assert "mine" in work.read_text()
    executed = tmp_path_made(tmp_path / "out") / "01_a.ipynb"
    execute(path, executed)  # a run's own, but here it is what is to be run
    with pytest.raises(LessonError, match="is not a run's and would be lost"):
        run([executed], executed.parent)


def test_an_earlier_run_gives_way_to_a_new_one(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "import os; 1 / int(os.environ.get('OF', 0))")
    out = tmp_path_made(tmp_path / "out")
    assert not run_lesson(path, out).ok
    os.environ["OF"] = "1"
    try:
        assert run_lesson(path, out).ok
    finally:
        del os.environ["OF"]
    assert Record.load(out / "01_a.json").ok


def test_lessons_of_one_name_and_a_file_for_a_folder_are_refused(tmp_path):
    a, b = (write(tmp_path_made(tmp_path / name) / "01_a.ipynb", "1") for name in "ab")
    with pytest.raises(LessonError, match="two lessons are called 01_a"):
        run([a, b], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(LessonError, match="is a file"):
        run([a], tmp_path / "file")


def test_ctrl_c_leaves_a_record_and_no_kernel(tmp_path):
    pid = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    path = write(tmp_path / "01_a.ipynb", source, "2")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nbkit.course.cli", "run", str(path), "--out", str(out)]
    root = str(Path(nbkit.__file__).parents[1])
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    )
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)

    process.communicate(timeout=200)
    assert process.returncode == 130
    record = Record.load(out / "01_a.json")
    assert (record.status, record.reason) == ("failed", "stopped by Ctrl-C")
    saved = nbformat.read(out / "01_a.ipynb", as_version=4)
    assert [c.metadata.papermill.status for c in saved.cells[1:]] == ["failed", "pending"]
    assert saved.cells[1].outputs[0].ename == "KeyboardInterrupt"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
