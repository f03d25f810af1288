"""A new lesson: its files, what is refused, and that the skeleton passes the checks."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "house"))

import anatomy

import nbkit
from nbkit.course.cli import main
from nbkit.course.lessons import LessonError, read_knobs, read_notebook
from nbkit.course.new import create_lesson
from nbkit.lab.curriculum import read_course
from nbkit.lab.evidence.register import load_claims

ROOT = Path(nbkit.__file__).parents[1]
COPIED = ("pyproject.toml", "README.md", "nbkit/lessons", "notebooks", "data/ledger",
          "nbkit/__init__.py", "nbkit/lab")  # fmt: skip
# The last two are there for ruff alone, which sorts the imports of a package by its files.
LONG = "a_" + "b" * 28  # the longest name that is allowed


@pytest.fixture
def checkout(tmp_path):
    """A copy of the parts of this checkout that a new lesson touches."""
    for name in COPIED:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    return tmp_path


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_are_there_and_the_lists_name_the_lesson(checkout):
    before = snapshot(checkout)
    number = len(read_course(checkout / "nbkit/lessons/course.toml"))
    written = create_lesson("my_trick", checkout)
    after = snapshot(checkout)
    assert {path for path in after if before.get(path) != after[path]} == set(written)
    assert len(set(written)) == len(written)
    new = {path.relative_to(checkout).as_posix() for path in after.keys() - before.keys()}
    lesson = {"__init__.py", "claims.toml", "exercise.py", "task.py", "pictures.py"}
    assert new == {
        *(f"nbkit/lessons/my_trick/{name}" for name in lesson),
        "tests/lessons/test_exercise_my_trick.py",
        "tests/lessons/test_lesson_my_trick.py",
        f"notebooks/{number:02}_my_trick.ipynb",
    }
    assert f"[{number:02} my_trick]" in (checkout / "README.md").read_text()
    entry = read_course(checkout / "nbkit/lessons/course.toml")[-1]
    assert (entry.number, entry.word, entry.title) == (number, "my_trick", "My trick")
    notebooks = [path.read_text() for path in sorted((checkout / "notebooks").glob("*.ipynb"))]
    assert f"Next: **{number} · My trick**" in notebooks[-2]
    assert "This was the last lesson." in notebooks[-1]
    assert f"| {number} · My trick |" in notebooks[0]


def test_a_second_time_is_refused_and_nothing_changes(checkout):
    create_lesson("my_trick", checkout)
    before = snapshot(checkout)
    with pytest.raises(LessonError, match=r"lesson 'my_trick' already \(nbkit/lessons/my_trick/"):
        create_lesson("my_trick", checkout)
    with pytest.raises(LessonError, match="lesson 'clipping' already"):
        create_lesson("clipping", checkout)
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    "word",
    ["", "My_trick", "my trick", "my-trick", "1st", "_my", "my_", "my__trick", "class", "../up",
     "naïve", "trick\n", LONG + "b"],
)  # fmt: skip
def test_a_wrong_name_is_refused_and_nothing_is_written(checkout, word):
    before = snapshot(checkout)
    with pytest.raises(LessonError, match="expected a lesson's name of lower-case words"):
        create_lesson(word, checkout)
    assert snapshot(checkout) == before


def test_a_folder_that_is_no_whole_checkout_is_refused(checkout, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(LessonError, match="expected a checkout of nbkit, with pyproject.toml"):
        create_lesson("my_trick", empty)
    assert list(empty.iterdir()) == []
    (checkout / "README.md").write_text("no table")
    before = snapshot(checkout)
    with pytest.raises(LessonError, match="README.md: expected one place that matches"):
        create_lesson("my_trick", checkout)
    assert snapshot(checkout) == before


def test_claims_that_were_stated_before_are_kept(checkout):
    path = checkout / "nbkit/lessons/my_trick/claims.toml"
    path.parent.mkdir()
    stated = '# Stated early.\n\n[early]\nsentence = "It helps."\n'
    path.write_text(stated)
    create_lesson("my_trick", checkout)
    assert path.read_text().startswith(stated)
    assert list(tomllib.loads(path.read_text())) == ["early", "my-trick-helps"]


@pytest.mark.parametrize("word", ["x", "my_trick", "task", "print", LONG])
def test_what_it_writes_passes_the_linter_and_the_formatter(checkout, word):
    written = [path for path in create_lesson(word, checkout) if path.suffix in (".py", ".ipynb")]
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", *map(str, written)]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_knobs_of_the_notebook_are_read_without_a_kernel(checkout):
    create_lesson("my_trick", checkout)
    (path,) = (checkout / "notebooks").glob("*_my_trick.ipynb")
    knobs = read_knobs(read_notebook(path))
    assert list(knobs) == ["profile", "lr"]
    assert knobs["lr"].default == 0.1 and knobs["profile"].default == "lesson"


@pytest.mark.parametrize("rule", anatomy.RULES, ids=lambda rule: rule.__name__)
def test_the_skeleton_has_the_anatomy_of_a_lesson(checkout, rule):
    create_lesson("my_trick", checkout)
    (path,) = (checkout / "notebooks").glob("*_my_trick.ipynb")
    folder = checkout / "nbkit/lessons/my_trick"
    claims = load_claims("my_trick", folder / "claims.toml")
    modules = [(folder / "task.py").read_text()]
    assert rule(nb=read_notebook(path), claims=claims, modules=modules) == []


def test_the_command_lists_the_files_and_says_what_is_next(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    assert main(["new", "lesson", "my_trick"]) == 0
    *files, last = capsys.readouterr().out.splitlines()
    assert "nbkit/lessons/my_trick/task.py" in files and "nbkit/lessons/course.toml" in files
    assert len(files) == len(set(files)) and all(map(os.path.exists, files))
    assert last == "Fill in what says FILL IN; then make store, make test."
    assert main(["new", "lesson", "my_trick"]) == 2
    assert capsys.readouterr().err.startswith("nbkit new: there is a lesson 'my_trick' already")


@pytest.mark.parametrize("words", [["new"], ["new", "lesson"], ["new", "song", "la"]])
def test_what_cannot_be_started_is_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
