"""Copies of the lessons: nothing is overwritten, and nbgrader grades the students'."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbkit.course.cli import main
from nbkit.course.copy import copy_lessons, without_solutions
from nbkit.course.lessons import read_notebook
from nbkit.lab.shipped import lessons_dir

LESSON = lessons_dir() / "00_start_here.ipynb"
SOLVED = """@lesson.exercise("read_verdict")
def read_verdict(low, high, margin):
    if high < margin:
        return "SUPPORTED"
    return "REFUTED" if low > margin else "INCONCLUSIVE"
"""


@pytest.fixture(params=sorted(lessons_dir().glob("*.ipynb")), ids=lambda path: path.stem)
def lesson(request):
    return read_notebook(request.param)


def exercises(nb):
    return [n for n, cell in enumerate(nb.cells) if cell.source.startswith("@lesson.exercise(")]


def test_a_copy_is_the_lesson_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"the lesson")
    (tmp_path / "in" / "02_b.ipynb").write_bytes(b"another")
    out = tmp_path / "new" / "folder"
    assert copy_lessons(tmp_path / "in", out) == (["01_a.ipynb", "02_b.ipynb"], [])
    (out / "01_a.ipynb").write_bytes(b"my work")
    (out / "02_b.ipynb").unlink()
    assert copy_lessons(tmp_path / "in", out) == (["02_b.ipynb"], ["01_a.ipynb"])
    assert (out / "01_a.ipynb").read_bytes() == b"my work"
    assert (out / "02_b.ipynb").read_bytes() == b"another"


LIMITED = """\
import resource, sys
from pathlib import Path
from nbkit.course.copy import copy_lessons
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
copy_lessons(Path("in"), Path("out"))"""


def test_a_copy_that_breaks_off_leaves_no_stump(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"short")
    (tmp_path / "in" / "02_b.ipynb").write_bytes(b"long" * 10_000)
    words = [sys.executable, "-c", LIMITED]
    environment = {**os.environ, "PYTHONPATH": str(lessons_dir().parent)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path / "out") == ["01_a.ipynb"]
    again = copy_lessons(tmp_path / "in", tmp_path / "out")
    assert again == (["02_b.ipynb"], ["01_a.ipynb"])


def test_where_there_are_no_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"the lesson")
    assert copy_lessons(tmp_path / "in", tmp_path / "out") == (["01_a.ipynb"], [])
    (tmp_path / "out" / "01_a.ipynb").write_bytes(b"my work")
    assert copy_lessons(tmp_path / "in", tmp_path / "out") == ([], ["01_a.ipynb"])
    assert (tmp_path / "out" / "01_a.ipynb").read_bytes() == b"my work"
    assert os.listdir(tmp_path / "out") == ["01_a.ipynb"]


def test_solutions_that_stay_in_a_student_s_folder_are_said(tmp_path, capsys):
    assert main(["copy", str(tmp_path)]) == 0
    (tmp_path / LESSON.name).unlink()
    assert main(["copy", str(tmp_path), "--without-solutions"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    others = sorted(path.name for path in lessons_dir().glob("*.ipynb") if path != LESSON)
    assert told == f"{tmp_path}: SOLUTIONS are still in {', '.join(others)}: choose another folder."
    assert main(["copy", str(tmp_path)]) == 0
    assert "SOLUTIONS" not in capsys.readouterr().out


def test_existing_work_stays_in_a_student_s_folder_too(tmp_path):
    (tmp_path / LESSON.name).write_bytes(b"my work")
    _, kept = copy_lessons(lessons_dir(), tmp_path, solutions=False)
    assert kept == [LESSON.name]
    assert (tmp_path / LESSON.name).read_bytes() == b"my work"


def test_a_student_s_version_gives_nothing_away(lesson):
    solved = [nb.source for nb in lesson.cells if "<summary>Solution</summary>" in nb.source]
    assert solved
    student = without_solutions(lesson)
    text = "\n".join(cell.source for cell in student.cells)
    assert "<summary>Solution" not in text and "```python\n@lesson.exercise" not in text
    assert "<summary>Hint" in text
    code = [cell for cell in student.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_each_exercise_is_followed_by_the_cell_that_grades_it(lesson):
    student = without_solutions(lesson)
    nbformat.validate(student)
    assert exercises(student)
    for n in exercises(student):
        mine, grades = (student.cells[i].metadata["nbgrader"] for i in (n, n + 1))
        assert mine["solution"] and not mine["grade"] and not mine["locked"]
        assert grades["grade"] and grades["locked"] and grades["points"] == 1
        assert student.cells[n + 1].source == f'lesson.points("{mine["grade_id"]}")'


def test_only_the_body_below_the_docstring_is_the_student_s():
    head = ['@lesson.exercise("f")', "def f(", "    x,", "):", '    """Two', '    lines."""']
    source = "\n".join([*head, "    y = x", "    return y"])
    cells = [new_markdown_cell("before"), new_code_cell(source)]
    _, cell, _ = without_solutions(new_notebook(cells=cells)).cells
    lines = ["    ### BEGIN SOLUTION", "    y = x", "    return y", "    ### END SOLUTION"]
    assert cell.source.splitlines() == head + lines


def test_a_stub_without_a_docstring_keeps_its_first_line():
    cells = [new_code_cell('@lesson.exercise("f")\ndef f(x):\n    return x')]
    cell, _ = without_solutions(new_notebook(cells=cells)).cells
    assert cell.source.splitlines()[1:] == [
        "def f(x):",
        "    ### BEGIN SOLUTION",
        "    return x",
        "    ### END SOLUTION",
    ]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of nbgrader's with the beginning of one lesson, up to its graded cell."""
    # nbgrader calls alembic by name, as it finds it in an environment that is activated.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    student = without_solutions(read_notebook(LESSON))
    (last,) = exercises(student)
    student.cells = student.cells[: last + 2]
    wanted = ("open", "parameters", "guard", "exercise", "grade-read_verdict")
    student.cells = [cell for cell in student.cells if cell.id in wanted]
    (tmp_path / "source" / "verdicts").mkdir(parents=True)
    nbformat.write(student, tmp_path / "source" / "verdicts" / LESSON.name)
    (tmp_path / "nbgrader_config.py").write_text(
        'c = get_config()\nc.CourseDirectory.course_id = "x"'
    )
    return tmp_path


def nbgrader(course, *words):
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words], cwd=course, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def hand_in(course, student, source=None):
    nb = nbformat.read(course / "release" / "verdicts" / LESSON.name, 4)
    if source:
        (cell,) = (cell for cell in nb.cells if cell.id == "exercise")
        cell.source = source
    folder = course / "submitted" / student / "verdicts"
    folder.mkdir(parents=True)
    nbformat.write(nb, folder / LESSON.name)


@pytest.mark.slow
def test_nbgrader_hands_out_every_lesson_with_its_marks(course):
    shutil.rmtree(course / "source")
    copy_lessons(lessons_dir(), course / "source" / "week1", solutions=False)
    nbgrader(course, "generate_assignment", "week1")
    for path in sorted(lessons_dir().glob("*.ipynb")):
        released = read_notebook(course / "release" / "week1" / path.name)
        names = [cell.source.split('"')[1] for cell in exercise_cells(read_notebook(path))]
        stubs = exercise_cells(released)
        assert names and [cell.metadata["nbgrader"]["grade_id"] for cell in stubs] == names
        for stub in stubs:
            assert "raise NotImplementedError" in stub.source and "SOLUTION" not in stub.source
        marks = [cell.metadata.get("nbgrader", {}) for cell in released.cells]
        graded = [mark["grade_id"] for mark in marks if mark.get("grade")]
        assert graded == [f"{name}-check" for name in names]


def exercise_cells(nb):
    return [nb.cells[n] for n in exercises(nb)]


@pytest.mark.slow
def test_nbgrader_hands_out_collects_and_grades(course):
    from nbgrader.api import Gradebook

    nbgrader(course, "generate_assignment", "verdicts")
    released = nbformat.read(course / "release" / "verdicts" / LESSON.name, 4)
    (stub,) = (cell.source for cell in released.cells if cell.id == "exercise")
    assert "raise NotImplementedError" in stub and "your word" not in stub
    assert stub.startswith('@lesson.exercise("read_verdict")\ndef read_verdict(')

    hand_in(course, "ada", SOLVED)
    hand_in(course, "bob")  # has not touched it
    nbgrader(course, "autograde", "verdicts")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        given = {
            s.student.id: (s.score, s.max_score) for s in book.assignment_submissions("verdicts")
        }
    assert given == {"ada": (1.0, 1.0), "bob": (0.0, 1.0)}
