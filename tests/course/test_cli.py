"""The command line: what it says, what it refuses, and its exit statuses."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from course_notebooks import write

import nbkit
from nbkit.course.arguments import build_parser
from nbkit.course.cli import main
from nbkit.course.console import print_line
from nbkit.course.copy import copy_lessons
from nbkit.course.lessons import read_notebook
from nbkit.course.output_folder import find_newest_run, make_folder
from nbkit.course.record import Record

ROOT = Path(nbkit.__file__).parents[1]


@pytest.fixture
def course(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "01_a.ipynb", "print(lr, quick)", parameters=True)
    write(folder / "02_b.ipynb", "1 / 0", parameters=True)
    monkeypatch.setattr("nbkit.lab.shipped.lessons_dir", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def python(*words, hidden=""):
    """Run python with these modules hidden, as where the lab is not installed."""
    hide = f"import sys\nfor name in {hidden.split()}: sys.modules[name] = None\n"
    call = f"from nbkit.course.cli import main\nsys.exit(main({list(words)}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", hide + call]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


LAB = "papermill nbformat nbclient jupyter_client nbconvert IPython matplotlib scipy"


def test_help_is_there_without_the_lab():
    answer = python("--help", hidden=f"{LAB} jupyterlab")
    assert answer.returncode == 0
    assert "run" in answer.stdout and "lab" in answer.stdout


def test_help_loads_nothing_of_the_lab():
    code = (
        "import sys\nfrom nbkit.course.cli import main\n"
        "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {LAB.split()} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words, missing", [(["run"], "nbformat"), (["lab"], "jupyterlab")])
def test_a_missing_extra_gets_one_line_that_installs_it(words, missing):
    answer = python(*words, hidden=missing)
    assert answer.returncode == 2
    expected = (
        f'nbkit {words[0]}: {missing} is not installed. Get it with: pip install "nbkit[lab]"'
    )
    assert answer.stderr.strip() == expected


def test_the_version_is_the_kits(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"nbkit {nbkit.__version__}\n"


def test_a_run_in_which_all_goes_well_exits_with_0(course, tmp_path, capsys):
    words = ["run", "1", "-p", "lr", "1e-3", "-p", "quick", "true", "--profile", "smoke"]
    assert main([*words, "--out", "out"]) == 0
    record = json.loads((tmp_path / "out" / "01_a.json").read_text())
    assert record["parameters"] == {"lr": 0.001, "quick": True, "profile": "smoke"}
    assert "Everything on one page: out/index.html" in capsys.readouterr().out


def test_a_lesson_that_fails_makes_the_exit_status_1(course, tmp_path, capsys):
    assert main(["run"]) == 1
    (out,) = (tmp_path / "runs").iterdir()
    assert json.loads((out / "01_a.json").read_text())["status"] == "ok"
    assert json.loads((out / "02_b.json").read_text())["status"] == "failed"
    assert "02_b failed in cell 3: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["7"], "no lesson '7'. There are: 01_a, 02_b"),
        (["1", "-p", "lrr", "1"], "unknown parameter 'lrr'. Did you mean 'lr'?"),
        (["1", "-p", "lr", "banana"], "lr must be a float from 0.0001 to 10, got 'banana'"),
        (["1", "-p", "lr", "-1"], "lr must be a float from 0.0001 to 10, got '-1'"),
        (["1", "-p", "lr", "1", "-p", "lr", "2"], "each parameter can be given once"),
        (["1", "-p", "profile", "full", "--profile", "smoke"], "the profile is given twice"),
        (["1", "--out", "notebooks"], "was not written by a run and would be lost"),
        (["1", "--grid", "lr=0.1,100"], "01_a: lr must be a float from 0.0001 to 10, got '100'"),
        (["--grid", "lrr=1"], "01_a: unknown parameter 'lrr'. Did you mean 'lr'?"),
        (["--grid", "lr"], "a grid is NAME=V1,V2,..., got 'lr'"),
        (["1", "--grid", "lr=1,2", "-p", "lr", "1"], "as a parameter and in the grid: choose one"),
        (["1", "--grid", "lr=1,2", "--record"], "record without a grid"),
        (["1", "--resume"], "there is nothing to resume under runs/: name the folder"),
        (["1", "--executor", "moon"], "dask:ADDRESS or module:callable, got 'moon'"),
        (["1", "--", "--port", "1"], "nothing is expected after `--`, got --port 1"),
    ],
)
def test_bad_usage_exits_with_2_before_anything_is_made(course, tmp_path, capsys, words, message):
    assert main(["run", *words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("nbkit run: ")
    assert message in printed
    assert sorted(os.listdir(tmp_path)) == ["notebooks"]


@pytest.mark.parametrize(
    "words", [[], ["dance"], ["run", "--timeout", "0"], ["run", "--timeout", "x"],
              ["run", "--jobs", "0"], ["run", "--per-gpu", "x"], ["run", "--profile", "long"],
              ["run", "-p", "lr"], ["lab", "--port", "1"]],
)  # fmt: skip
def test_what_cannot_be_read_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_the_path_of_a_notebook_without_its_ending_is_understood(course, capsys):
    (course / "own").mkdir()
    write(course / "own" / "06_x.ipynb", "1")
    assert main(["run", "notebooks/own/06_x"]) == 2
    message = "no lesson 'notebooks/own/06_x'. Did you mean 'notebooks/own/06_x.ipynb'?"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, text, message",
    [
        ("--jobs", "0", "expected a whole number from 1 on, got '0'"),
        ("--jobs", "two", "expected a whole number from 1 on, got 'two'"),
        ("--per-gpu", "-1", "expected a whole number from 0 on, got '-1'"),
        ("--timeout", "0", "expected seconds, more than 0, got '0'"),
        ("--timeout", "inf", "expected seconds, more than 0, got 'inf'"),
    ],
)
def test_a_number_that_does_not_fit_is_answered_with_what_does(option, text, message, capsys):
    with pytest.raises(SystemExit):
        main(["run", f"{option}={text}"])
    assert capsys.readouterr().err.endswith(f"argument {option}: {message}\n")


def test_the_gpus_can_be_left_to_all():
    assert build_parser().parse_args(["run", "--per-gpu", "0"]).per_gpu == 0


def test_the_time_limit_is_passed_on(course, capsys):
    write(course / "02_b.ipynb", "import time; time.sleep(60)")
    assert main(["run", "2", "--timeout", "1"]) == 1
    assert "more than its 1 s" in capsys.readouterr().out


def test_a_grid_over_jobs_and_what_is_left_of_it_again(course, tmp_path, capsys):
    words = ["run", "1", "--grid", "lr=0.1,1", "--grid", "quick=true,false", "--jobs", "2"]
    assert main(words) == 0
    (out,) = (tmp_path / "runs").iterdir()
    names = sorted(path.stem for path in out.glob("*.json"))
    assert names[:2] == ["01_a--lr=0.1--quick=False", "01_a--lr=0.1--quick=True"]
    (out / "01_a--lr=1--quick=True.json").unlink()
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    kept = "01_a--lr=0.1--quick=True, 01_a--lr=0.1--quick=False, 01_a--lr=1--quick=False"
    assert f"done before, and kept: {kept}\n" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make_folder() as first, make_folder() as second:
        assert first != second and first.is_dir() and second.is_dir()
        (first / "kept").touch()
    assert sorted(Path("runs").iterdir()) == [first]  # an empty one is not left behind


def test_a_folder_that_cannot_be_made_is_said(course, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert main(["run", "1"]) == 2
    assert "cannot be made: Not a directory. Name a folder with --out." in capsys.readouterr().err


@pytest.mark.parametrize("words", [["1", "--out", "q" * 300], ["q" * 300], ["q" * 300 + ".ipynb"]])
def test_a_name_that_no_disk_takes_is_bad_usage(course, capsys, words):
    assert main(["run", *words]) == 2
    assert capsys.readouterr().err.startswith("nbkit run: ")


class Gone(io.StringIO):
    """A reader that has gone: each write is refused."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_has_gone_ends_no_run(course, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, name, Gone())
    assert main(["run", "1", "--out", "out"]) == 0
    assert (tmp_path / "out" / "index.html").exists()


def test_a_closed_stdout_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    print_line("nobody hears it")


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="cp1252"))
    print_line("x → é")
    assert data.getvalue().decode("cp1252").splitlines() == [r"x \u2192 é"]


def test_a_full_disk_below_stdout_is_said_on_stderr(monkeypatch, capsys):
    def refuse(text):
        raise OSError(28, "No space left on device")

    full = io.StringIO()
    full.write = refuse
    monkeypatch.setattr(sys, "stdout", full)
    print_line("a table")
    assert "cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch):
    """The commands that would have been started."""
    commands = []
    monkeypatch.setattr(subprocess, "call", lambda command: commands.append(command) or 0)
    return commands


def test_lab_opens_jupyterlab_on_a_copy(course, tmp_path, started, capsys):
    assert main(["lab", "mine", "--", "--no-browser", "--port", "9"]) == 0
    root = f"--ServerApp.root_dir={tmp_path / 'mine'}"
    options = [root, "--no-browser", "--port", "9"]
    assert started == [[sys.executable, "-m", "jupyterlab", *options]]
    for name in ("01_a.ipynb", "02_b.ipynb"):
        copied, lesson = read_notebook(tmp_path / "mine" / name), read_notebook(course / name)
        assert [cell.source for cell in copied.cells] == [cell.source for cell in lesson.cells]
    assert capsys.readouterr().out == "mine: lessons copied: 2\n"


def test_lab_keeps_what_is_there(course, tmp_path, started, capsys):
    main(["lab"])
    work = tmp_path / "nbkit-lessons" / "01_a.ipynb"
    work.write_text("my work")
    (tmp_path / "nbkit-lessons" / "02_b.ipynb").unlink()
    capsys.readouterr()

    assert main(["lab"]) == 0

    assert work.read_text() == "my work"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "nbkit-lessons: lessons copied: 1"
    assert said[1] == "nbkit-lessons: kept as they were: 01_a.ipynb"


def test_only_notebooks_are_copied(course, tmp_path):
    (course / ".ipynb_checkpoints").mkdir()
    (course / "notes.txt").write_text("")
    assert copy_lessons(course, tmp_path / "new") == (["01_a.ipynb", "02_b.ipynb"], [])
    assert sorted(os.listdir(tmp_path / "new")) == ["01_a.ipynb", "02_b.ipynb"]


def test_a_file_where_the_folder_should_be_is_said(course, tmp_path, started, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["lab", "mine"]) == 2
    assert "nbkit lab: mine: File exists." in capsys.readouterr().err
    assert started == []


def test_copy_keeps_what_is_there(course, tmp_path, capsys):
    assert main(["copy", "mine"]) == 0
    (tmp_path / "mine" / "02_b.ipynb").unlink()
    assert main(["copy", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "mine: lessons copied: 1",
        "mine: kept as they were: 01_a.ipynb",
    ]


def test_doctor_says_what_the_machine_can_do(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "claims that are skipped on this machine: " in told and "nbkit[test]" in told


def test_report_puts_runs_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Record("01_x", {}, "0", "0", "2026", {}, status="ok").save(tmp_path / name / "01_x.json")
    assert main(["report", "one"]) == 0
    assert {"index.html", "report.md", "report.json"} <= set(os.listdir("one"))
    assert main(["report", "one", "two", "--out", "both"]) == 0
    assert "Everything on one page: both/index.html" in capsys.readouterr().out
    assert {"index.html", "report.md", "report.json"} == set(os.listdir("both"))
    assert main(["report", "nowhere"]) == 2
    assert "nbkit report:" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["report", "one", "--out", "file"]) == 2
    assert (
        capsys.readouterr().err == "nbkit report: file is a file: choose a folder for the report.\n"
    )
    assert main(["report", "one", "--out", "file/new"]) == 2
    assert capsys.readouterr().err == "nbkit report: file/new: Not a directory.\n"


def test_resume_takes_thefind_newest_run_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = Record("01_x", {}, "0", "0", "2026", {}, status="ok")
    for time, name in enumerate(("first", "second", "docs", "both")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if name in ("first", "second"):
            done.save(folder / "01_x.json")
        if name == "both":  # newer still, and of a report
            assert main(["report", "runs/first", "runs/second", "--out", "runs/both"]) == 0
        os.utime(folder, (time, time))
    assert find_newest_run() == Path("runs/second")
