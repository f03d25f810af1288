"""The lessons run headless: whole, with other parameters, and refused before anything trains."""

import subprocess
import sys

import nbformat
import pytest

from nbkit.course.record import Record
from nbkit.course.run.course_run import run_lessons
from nbkit.lab.shipped import lessons_dir

LESSON = lessons_dir() / "01_lr_finder.ipynb"


@pytest.mark.parametrize("path", sorted(lessons_dir().glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_smoke_run_of_every_lesson_succeeds(tmp_path, path):
    (record,) = run_lessons([path], tmp_path, {}, "smoke")
    assert (record.status, record.reason) == ("ok", None)
    assert record.verdicts
    # Three seeds judge nothing; what is exact may be quick enough to have all of its pairs.
    judged = [verdict for verdict in record.verdicts if verdict["bound"] != "exact"]
    assert {verdict["verdict"] for verdict in judged} == {"SKIPPED"}
    saved = Record.load(tmp_path / f"{record.name}.json")
    assert saved.parameters["profile"] == "smoke"


def stop_plain_papermill(path, out, name, value):
    """What papermill says of a parameter at which the guard stops it."""
    words = ["papermill", str(path), str(out), "-p", name, value, "--no-progress-bar"]
    ended = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert ended.returncode != 0
    ran = [c for c in nbformat.read(out, 4).cells if c.get("execution_count")]
    assert "lesson.knobs(" in ran[-1].source  # the guard is the last cell that ran
    assert len(ran) == 4  # opened, declared, injected, refused
    return ended.stderr


@pytest.mark.parametrize("path", sorted(lessons_dir().glob("*.ipynb")), ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("profil", "smoke", ["unknown parameter 'profil'. Did you mean 'profile'?"]),
        ("profile", "banana", ["profile must be one of 'smoke', ", ", got 'banana'."]),
        ("profile", "-1", ["profile must be one of 'smoke', ", ", got -1."]),
    ],
)
def test_the_guard_of_every_lesson_stops_plain_papermill(tmp_path, path, name, value, said):
    stderr = stop_plain_papermill(path, tmp_path / "out.ipynb", name, value)
    assert all(words in stderr for words in said)


def test_a_name_that_the_lesson_has_imported_is_no_parameter(tmp_path):
    stderr = stop_plain_papermill(LESSON, tmp_path / "out.ipynb", "mlp", "1")
    assert "unknown parameter 'mlp'." in stderr


PLANTED = """
def fit(fig, *, lr):
    fig.add_subplot().plot([1, 2])
    yield
    raise KeyError("planted")


lesson.explore(fit)
"""


def test_an_error_under_a_slider_turns_the_run_red(tmp_path):
    """The stops are run through the function that the sliders call."""
    lesson = nbformat.read(LESSON, 4)
    (lab,) = [cell for cell in lesson.cells if "lesson.explore(" in cell.source]
    lab.source = PLANTED
    planted = tmp_path / LESSON.name
    nbformat.write(lesson, planted)
    (record,) = run_lessons([planted], tmp_path / "out", {}, "smoke")
    assert record.status == "failed"
    assert "planted" in record.reason
    done = nbformat.read(tmp_path / "out" / LESSON.name, 4)
    (stopped,) = [cell for cell in done.cells if "lesson.explore(" in cell.source]
    assert stopped.execution_count == record.cell
