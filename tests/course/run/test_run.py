"""A run leaves a notebook, a page and a record of each lesson; no failure passes for success."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from course_notebooks import write

import nbkit
from nbkit.course.cli import main
from nbkit.course.kernel.execute import execute_notebook, find_fault
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.run import course_run
from nbkit.course.run import one_lesson as lesson_run
from nbkit.course.run.course_run import run_lesson, run_lessons
from nbkit.course.run.folder_lock import hold_folder
from nbkit.course.run.options import RunOptions
from nbkit.lab.knobs import KnobError

VERDICT = """\
from IPython.display import display
numbers = {"kind": "verdict", "claim": "c", "verdict": "SUPPORTED", "effect": 0.5, "n": 8}
display({"text/plain": "c  SUPPORTED"}, raw=True, metadata={"nbkit": numbers})
display({"text/plain": "else"}, raw=True, metadata={"nbkit": {"kind": "table"}})"""


PREDICTION = """\
from IPython.display import display
made = {"kind": "prediction", "claim": "c", "guess": %s, "confidence": 80, "settings": {}}
display({"text/plain": "committed"}, raw=True, metadata={"nbkit": made})"""


def test_a_record_says_which_predictions_were_made(tmp_path):
    path, out = write(tmp_path / "01_a.ipynb", PREDICTION % 0.5, VERDICT), tmp_path / "out"
    out.mkdir()
    record = run_lesson(path, out)
    (made,) = record.predictions
    assert (made["claim"], made["guess"], made["confidence"]) == ("c", 0.5, 80)
    assert Record.load(out / "01_a.json").predictions == record.predictions
    write(path, VERDICT)
    assert run_lesson(path, out).predictions == []
    write(path, PREDICTION % "'x'")
    assert run_lesson(path, out).reason == (
        "a prediction that the lesson has shown cannot be read: "
        "one of its predictions: guess is 'x'"
    )


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
    assert record.worker == {"host": platform.node(), "pid": os.getpid()}
    assert record.attempts == [] and record.cell_count == 5
    assert record.peak_bytes is None or 10e6 < record.peak_bytes < 10e9
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
    nb = execute_notebook(write(tmp_path / "01_a.ipynb", "1", "2", ""), tmp_path / "out.ipynb")
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

    records = run_lessons(lessons, tmp_path / "new" / "out")

    assert [record.status for record in records] == ["failed", "ok"]
    printed = capsys.readouterr()
    assert "01_a failed in cell 1: DeadKernelError: the kernel died of signal 9" in printed.out
    assert "SUPPORTED" in printed.out
    assert "1 of 2 done  01_a" in printed.err
    assert "2 of 2 done  02_b" in printed.err
    page = (tmp_path / "new" / "out" / "index.html").read_text()
    assert "01_a" in page and "02_b" in page


@pytest.mark.parametrize("given", [{"lrr": "1"}, {"lr": "banana"}, {"lr": "100"}])
def test_no_kernel_starts_when_a_parameter_does_not_fit(tmp_path, monkeypatch, given):
    monkeypatch.setattr(
        lesson_run, "execute_notebook", lambda *a, **k: pytest.fail("a kernel started")
    )
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    with pytest.raises(KnobError, match="01_a: "):
        run_lessons([path], tmp_path / "out", given)
    with pytest.raises(KnobError, match="01_a: "):
        run_lesson(path, tmp_path, given)
    assert not (tmp_path / "out").exists()


def test_a_profile_is_given_once(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    with pytest.raises(KnobError, match="given twice: 'full' and 'smoke'"):
        run_lessons([path], tmp_path / "out", {"profile": "full"}, profile="smoke")


def test_nobodys_notebook_is_written_over(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1")
    before = path.read_bytes()
    with pytest.raises(LessonError, match="was not written by a run and would be lost"):
        run_lessons([path], tmp_path)
    work = write(tmp_path_made(tmp_path / "work") / "01_a.ipynb", "mine")
    with pytest.raises(LessonError, match="was not written by a run and would be lost"):
        run_lesson(path, work.parent)
    assert path.read_bytes() == before
    assert "mine" in work.read_text()
    executed = tmp_path_made(tmp_path / "out") / "01_a.ipynb"
    execute_notebook(path, executed)  # a run's own, but here it is what is to be run
    with pytest.raises(LessonError, match="was not written by a run and would be lost"):
        run_lessons([executed], executed.parent)


@pytest.mark.parametrize("name", ["index.html", "report.md", "01_a.html", "01_a.json"])
def test_nobodys_page_or_json_is_written_over(tmp_path, name):
    path = write(tmp_path / "01_a.ipynb", "1")
    site = tmp_path_made(tmp_path / "site")
    (site / name).write_text('{"name": "somebody"}')
    with pytest.raises(LessonError, match=f"{name} (is|was) not .* and would be lost"):
        run_lessons([path], site)
    assert [file.name for file in site.iterdir()] == [name]
    assert (site / name).read_text() == '{"name": "somebody"}'


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
        run_lessons([a, b], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(LessonError, match="is a file"):
        run_lessons([a], tmp_path / "file")


def test_each_point_of_a_grid_has_its_own_files_and_lessons_run_beside_each_other(tmp_path, capsys):
    path = write(tmp_path / "01_a.ipynb", "print(lr, quick)", parameters=True)
    grid = {"lr": ["0.1", "1"], "quick": ["false", "true"]}
    records = run_lessons(
        [path], tmp_path / "out", profile="smoke", grid=grid, options=RunOptions(jobs=2)
    )
    assert [record.name for record in records] == [
        "01_a--lr=0.1--quick=False",
        "01_a--lr=0.1--quick=True",
        "01_a--lr=1--quick=False",
        "01_a--lr=1--quick=True",
    ]
    for record in records:
        assert record.ok and record.lesson == "a" and record.parameters["profile"] == "smoke"
        nb = nbformat.read(tmp_path / "out" / f"{record.name}.ipynb", as_version=4)
        said = f"{record.parameters['lr']} {record.parameters['quick']}\n"
        assert nb.cells[4].outputs[0].text == said
    files = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert files == {".ipynb", ".html", ".json", ".md"}  # nothing half made, nothing hidden


def test_a_grid_is_not_for_the_ledger(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    with pytest.raises(LessonError, match="record without a grid"):
        run_lessons([path], tmp_path / "out", grid={"lr": [1]}, options=RunOptions(to_ledger=True))


def test_resume_runs_only_what_is_not_done(tmp_path, capsys):
    good = write(tmp_path / "01_a.ipynb", "1", parameters=True)
    bad = write(tmp_path / "02_b.ipynb", "1 / 0", parameters=True)
    first = run_lessons([good, bad], tmp_path / "out")
    assert [record.ok for record in first] == [True, False]
    write(bad, "1", parameters=True)
    capsys.readouterr()

    again = run_lessons([good, bad], tmp_path / "out", options=RunOptions(resume=True))

    assert [record.ok for record in again] == [True, True]
    assert again[0] == first[0]
    assert "done before, and kept: 01_a\n" in capsys.readouterr().out
    assert "02_b" in (tmp_path / "out" / "index.html").read_text()
    third = run_lessons([good, bad], tmp_path / "out", {"lr": 1}, options=RunOptions(resume=True))
    assert all(new.started and new != old for new, old in zip(third, again, strict=True))


def test_a_part_that_is_run_again_keeps_the_others_on_the_page(tmp_path, capsys):
    lessons = [write(tmp_path / f"{name}.ipynb", "1") for name in ("01_a", "02_b", "03_c")]
    run_lessons(lessons, tmp_path / "out")
    (tmp_path / "out" / "03_c.json").write_text("{}")
    before = (tmp_path / "out" / "index.html").read_text()
    capsys.readouterr()
    run_lessons(lessons[1:2], tmp_path / "out", options=RunOptions(resume=True))
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [lesson["title"] for lesson in told["lessons"]] == ["01_a", "02_b"]
    assert [each["file"] for each in told["damaged"]] == [str(tmp_path / "out" / "03_c.json")]
    assert "3 of 3 lessons ran" in before
    assert "2 of 2 lessons ran" in (tmp_path / "out" / "index.html").read_text()
    assert "01_a" not in capsys.readouterr().out  # the table is of what was asked for


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(course_run, "ledger_dir", lambda: tmp_path / "ledger")
    return tmp_path / "ledger"


def test_a_ledger_that_cannot_be_written_stops_no_lesson(ledger, tmp_path, capsys):
    ledger.write_text("a file where the folder should be")
    lessons = [write(tmp_path / f"{name}.ipynb", VERDICT) for name in ("01_a", "02_b")]
    words = ["run", *map(str, lessons), "--out", str(tmp_path / "out"), "--record"]
    assert main(words) == 1
    assert all(Record.load(tmp_path / "out" / f"{name}.json").ok for name in ("01_a", "02_b"))
    *_, first, second = capsys.readouterr().out.splitlines()
    for line in (first, second):
        assert line.startswith("ledger: [Errno 20] Not a directory") and str(ledger) in line
    ledger.unlink()
    assert main([*words, "--resume"]) == 0
    assert len(list(ledger.glob("*/*.json"))) == 2


def test_a_damaged_ledger_stops_no_lesson_and_is_recorded_anew(ledger, tmp_path, capsys):
    words = ["run", str(write(tmp_path / "01_a.ipynb", VERDICT)), "--out", str(tmp_path / "out")]
    assert main([*words, "--record"]) == 0
    (kept,) = ledger.glob("*/a.json")
    kept.write_text("{")
    for more in ([], ["--resume"]):
        assert main([*words, *more]) == 1
        assert Record.load(tmp_path / "out" / "01_a.json").ok
        assert (tmp_path / "out" / "01_a.html").exists()
        told = capsys.readouterr().out.splitlines()[-1]
        assert told == f"ledger: {kept} is not a record: take it back from git, or --record."
    assert main([*words, "--resume", "--record"]) == 0
    assert main(words) == 0


def test_two_runs_in_one_folder_are_refused(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1")
    busy = pytest.raises(LessonError, match="another run is at work in")
    with hold_folder(tmp_path / "out"), busy:
        run_lessons([path], tmp_path / "out")
    assert run_lessons([path], tmp_path / "out")[0].ok


FULL = """\
import resource, sys
from nbkit.course.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(["run", sys.argv[1], "--out", "out"]))"""


def test_a_disk_that_is_full_at_the_start_is_one_line_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "1")
    words = [sys.executable, "-c", FULL, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(nbkit.__file__).parents[1])}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    out = tmp_path / "out"
    assert done.stderr.splitlines() == ["nbkit run: out cannot be written: File too large."]
    assert list(out.iterdir()) == []


def test_plain_papermill_does_the_same(tmp_path):
    """With its own engine and kernel: the same outputs, so the same verdicts."""
    source = "import torch\ntorch.manual_seed(0)\nprint(torch.randn(3), profile, lr)"
    path = write(tmp_path / "01_a.ipynb", source, VERDICT, parameters=True)
    (record,) = run_lessons([path], tmp_path / "out", {"lr": "1e-3"}, "smoke")
    plain = tmp_path / "plain.ipynb"
    parameters = {"lr": 1e-3, "profile": "smoke"}
    papermill.execute_notebook(str(path), str(plain), parameters, progress_bar=False)
    ours, theirs = (
        nbformat.read(file, as_version=4) for file in (tmp_path / "out" / "01_a.ipynb", plain)
    )
    told = [[cell.get("outputs") for cell in nb.cells] for nb in (ours, theirs)]
    assert told[0] == told[1]
    assert "tensor" in str(told[0])
    assert [verdict["claim"] for verdict in record.verdicts] == ["c"]
