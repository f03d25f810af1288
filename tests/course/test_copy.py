"""Copies of the lessons: nothing is overwritten, and nbgrader grades the students'."""

import ast
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbkit.course.cli import main
from nbkit.course.copy import (
    copy_lessons,
    make_learner_version,
    make_student_version,
    remove_solutions,
)
from nbkit.course.lessons import read_notebook
from nbkit.lab.curriculum import read_course
from nbkit.lab.lesson import Lesson
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


def test_a_copy_with_outputs_is_the_lesson_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"the lesson")
    (tmp_path / "in" / "02_b.ipynb").write_bytes(b"another")
    out = tmp_path / "new" / "folder"
    copied = copy_lessons(tmp_path / "in", out, outputs=True)
    assert copied == (["01_a.ipynb", "02_b.ipynb"], [])
    (out / "01_a.ipynb").write_bytes(b"my work")
    (out / "02_b.ipynb").unlink()
    again = copy_lessons(tmp_path / "in", out, outputs=True)
    assert again == (["02_b.ipynb"], ["01_a.ipynb"])
    assert (out / "01_a.ipynb").read_bytes() == b"my work"
    assert (out / "02_b.ipynb").read_bytes() == b"another"


LIMITED = """\
import resource, sys
from pathlib import Path
from nbkit.course.copy import copy_lessons
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
copy_lessons(Path("in"), Path("out"), outputs=True)"""


def test_a_copy_that_breaks_off_leaves_no_stump(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"short")
    (tmp_path / "in" / "02_b.ipynb").write_bytes(b"long" * 10_000)
    words = [sys.executable, "-c", LIMITED]
    environment = {**os.environ, "PYTHONPATH": str(lessons_dir().parent)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path / "out") == ["01_a.ipynb"]
    again = copy_lessons(tmp_path / "in", tmp_path / "out", outputs=True)
    assert again == (["02_b.ipynb"], ["01_a.ipynb"])


def test_where_there_are_no_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "01_a.ipynb").write_bytes(b"the lesson")
    copied = copy_lessons(tmp_path / "in", tmp_path / "out", outputs=True)
    assert copied == (["01_a.ipynb"], [])
    (tmp_path / "out" / "01_a.ipynb").write_bytes(b"my work")
    kept = copy_lessons(tmp_path / "in", tmp_path / "out", outputs=True)
    assert kept == ([], ["01_a.ipynb"])
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


def test_a_learner_s_version_has_run_nothing_and_answers_nothing(lesson):
    stored = [(c.cell_type, c.get("attachments"), deepcopy(c.metadata)) for c in lesson.cells]
    texts = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
    learner = make_learner_version(lesson)
    nbformat.validate(learner)
    assert "widgets" not in learner.metadata
    kept = [(cell.cell_type, cell.get("attachments"), cell.metadata) for cell in learner.cells]
    assert kept == stored
    assert [cell.source for cell in learner.cells if cell.cell_type == "markdown"] == texts
    for cell in learner.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            ast.parse(cell.source)
    code = "\n".join(cell.source for cell in learner.cells if cell.cell_type == "code")
    assert "lesson.predict(" in code and "guess=" not in code and "confidence=" not in code
    assert not re.search(r"lesson\.answer\([^)]*, (?!\.\.\.\))", code)


@pytest.mark.parametrize("entry", read_course(), ids=lambda entry: entry.word)
def test_the_solution_of_a_learner_s_copy_is_accepted_and_in_use_below(entry):
    nb = read_notebook(lessons_dir() / f"{entry.stem}.ipynb")
    text = "\n".join(cell.source for cell in make_learner_version(nb).cells)
    names = set(re.findall(r'@lesson\.exercise\("(\w+)"\)', text))
    assert names
    for name in names:
        decorator = rf'@lesson\.exercise\("{name}"\)'
        solution = re.findall(rf"```python\n({decorator}\n.*?)```", text, re.DOTALL)[-1]
        variables = {"lesson": Lesson(entry.word, {})}
        exec("import math, torch\n" + solution, variables)
        assert variables["lesson"].whose(name) == f"your {name}"
        assert variables[name].__module__ != f"nbkit.lessons.{entry.word}.exercise"


def test_what_has_run_and_was_answered_is_gone_and_the_picture_stays():
    title = new_markdown_cell("![](attachment:a.png)", attachments={"a.png": {"image/png": "eA=="}})
    answer = new_code_cell(
        'lesson.predict("c", guess=0.5, confidence=70)\nlesson.answer("bug", "b")',
        outputs=[new_output("stream", text="right: because\n")],
        execution_count=3,
    )
    nb = new_notebook(cells=[title, answer], metadata={"widgets": {"state": {}}})
    learner = make_learner_version(nb)
    assert learner.cells[0].attachments == {"a.png": {"image/png": "eA=="}}
    assert learner.cells[1].source == 'lesson.predict("c")\nlesson.answer("bug", ...)'
    assert learner.cells[1].outputs == [] and learner.cells[1].execution_count is None
    assert learner.metadata == {}


@pytest.mark.parametrize("words", [[], ["--without-solutions"]])
def test_copies_to_work_in_have_no_outputs(tmp_path, words):
    assert main(["copy", str(tmp_path), "start_here", *words]) == 0
    text = (tmp_path / LESSON.name).read_text()
    assert "image/png" not in text and "guess=" not in text and "start-momentum" in text


def test_the_executed_lessons_can_be_had_too(tmp_path, capsys):
    assert main(["copy", str(tmp_path), "start_here", "--with-outputs"]) == 0
    assert (tmp_path / LESSON.name).read_bytes() == LESSON.read_bytes()


def test_outputs_and_no_solutions_do_not_go_together(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["copy", str(tmp_path / "out"), "--with-outputs", "--without-solutions"])
    assert "not allowed with argument" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected outputs or no solutions, got both"):
        copy_lessons(lessons_dir(), tmp_path / "out", solutions=False, outputs=True)
    assert not (tmp_path / "out").exists()


def test_a_student_s_version_gives_nothing_away(lesson):
    solved = [nb.source for nb in lesson.cells if "<summary>Solution</summary>" in nb.source]
    assert solved
    student = make_student_version(lesson)
    text = "\n".join(cell.source for cell in student.cells)
    assert "<summary>Solution" not in text and "```python\n@lesson.exercise" not in text
    assert "<summary>Hint" in text
    code = [cell for cell in student.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_each_exercise_is_followed_by_the_cell_that_grades_it(lesson):
    student = make_student_version(lesson)
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
    _, cell, _ = make_student_version(new_notebook(cells=cells)).cells
    lines = ["    ### BEGIN SOLUTION", "    y = x", "    return y", "    ### END SOLUTION"]
    assert cell.source.splitlines() == head + lines


def test_a_stub_without_a_docstring_keeps_its_first_line():
    cells = [new_code_cell('@lesson.exercise("f")\ndef f(x):\n    return x')]
    cell, _ = make_student_version(new_notebook(cells=cells)).cells
    assert cell.source.splitlines()[1:] == [
        "def f(x):",
        "    ### BEGIN SOLUTION",
        "    return x",
        "    ### END SOLUTION",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (  # a signature of several lines, a comment that tells the solution, one after it too
            "@lesson.exercise('f')\ndef f(\n    x,\n):\n    # double\n    return 2\n    # so",
            "@lesson.exercise('f')\ndef f(\n    x,\n):\nB    # double\n    return 2\n    # so\nE",
        ),
        (
            "@lesson.exercise(double)\ndef f(x): return 2 * x",
            "@lesson.exercise(double)\ndef f(x):\nB    return 2 * x\nE",
        ),
        (  # imports and a helper beside it
            "def g():\n    return 1\n\n@a.exercise('f')\ndef f(x):\n    return 1\n\ng()",
            "def g():\n    return 1\n\n@a.exercise('f')\ndef f(x):\nB    return 1\nE\ng()",
        ),
        (  # the body begins with a decorated function
            "@lesson.exercise('f')\ndef f(x):\n    @once\n    def g(): pass\n    return g",
            "@lesson.exercise('f')\ndef f(x):\nB    @once\n    def g(): pass\n    return g\nE",
        ),
        (
            "%matplotlib inline\n@lesson.exercise('f')\nasync def f(x):\n    return 1",
            "%matplotlib inline\n@lesson.exercise('f')\nasync def f(x):\nB    return 1\nE",
        ),
    ],
)
def test_exercises_of_all_shapes_are_marked(source, expected):
    begin, end = "    ### BEGIN SOLUTION\n", "    ### END SOLUTION"
    cell, _ = make_student_version(new_notebook(cells=[new_code_cell(source)])).cells
    wanted = re.sub("^B", begin, re.sub("^E$", end, expected, flags=re.M), flags=re.M)
    assert [line for line in cell.source.splitlines() if line] == [
        line for line in wanted.splitlines() if line
    ]


@pytest.mark.parametrize(
    ("given", "points", "identifier"),
    [
        ('"double"', 'lesson.points("double")', "double"),
        ("exercise='double'", 'lesson.points("double")', "double"),
        ("doubling", "lesson.points(doubling)", "f"),
        ("my.doubling", "lesson.points(my.doubling)", "f"),
        ('Exercise("double", stub, right, [])', 'lesson.points("double")', "double"),
        ("Exercise(stub=a, name='double')", 'lesson.points("double")', "double"),
    ],
)
def test_the_grading_cell_asks_for_the_exercise_that_was_named(given, points, identifier):
    source = f"@lesson.exercise({given})\ndef f(x):\n    return x"
    cell, grade = make_student_version(new_notebook(cells=[new_code_cell(source)])).cells
    assert grade.source == points
    assert cell.metadata["nbgrader"]["grade_id"] == identifier
    assert grade.metadata["nbgrader"]["grade_id"] == f"{identifier}-check"


def test_two_exercises_of_one_cell_and_one_name_twice_have_ids_of_their_own():
    two = "\n".join(f"@lesson.exercise('{n}')\ndef {n}(x):\n    return x" for n in "fg")
    nb = make_student_version(new_notebook(cells=[new_code_cell(two), new_code_cell(two)]))
    nbformat.validate(nb)
    names = [cell.metadata["nbgrader"]["grade_id"] for cell in nb.cells]
    assert names == ["f", "f-check", "g-check", "f-2", "f-2-check", "g-2-check"]
    assert nb.cells[0].source.count("### BEGIN SOLUTION") == 2


def test_what_its_author_has_marked_for_nbgrader_stays():
    marked = new_code_cell("@lesson.exercise('f')\ndef f(x):\n    return x")
    marked.metadata["nbgrader"] = {"grade_id": "mine"}
    by_hand = (
        "@lesson.exercise('g')\ndef g(x):\n    ### BEGIN SOLUTION\n    y\n    ### END SOLUTION"
    )
    cells = [marked, new_code_cell(by_hand)]
    nb = make_student_version(new_notebook(cells=cells))
    assert [cell.source for cell in nb.cells[:2]] == [marked.source, by_hand]
    assert nb.cells[0].metadata["nbgrader"] == {"grade_id": "mine"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a <details><summary>Solution</summary>x</details> b", "a b"),
        ("<details open>\n<summary><b>solutions</b></summary>x\n</details>\nb", "b"),
        ("<details><summary>A solution</summary><details>y</details>x</details>b", "b"),
        ("a<details><summary>Solution</summary>never closed", "a"),
        ("<details><summary>Hint</summary>x</details>", None),
        (
            "<details><summary>Solution</summary>1</details><details><summary>Solution</summary>2",
            "",
        ),
    ],
)
def test_a_fold_out_with_a_solution_goes_whole(text, left):
    assert remove_solutions(text) == (text if left is None else left)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A lesson of somebody's own: its claims, a module and a package that the module imports."""
    folder = tmp_path / "own"
    (folder / "tools").mkdir(parents=True)
    (folder / "tools" / "__init__.py").write_text("WIDTH = 3")
    (folder / "helper.py").write_text("import json, tools.deep")
    (folder / "unused.py").write_text("")
    (folder / "mine.toml").write_text("[c]")
    (folder / "pyproject.toml").write_text("")
    cells = [
        new_code_cell('from helper import x\nlesson = Lesson("mine", claims="mine.toml")'),
        new_code_cell("%%bash\nls"),
        new_code_cell('lesson.answer("bug", "b", answer=x)'),
        new_code_cell("@lesson.exercise(x)\ndef f(x):\n    return 2 * x", outputs=[]),
        new_markdown_cell("<details><summary>Solution</summary>2 * x</details>"),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "mine.ipynb")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_lesson_of_one_s_own_is_copied_with_what_it_needs(own, capsys):
    assert main(["copy", "out", "own/mine.ipynb", "--without-solutions"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "out: lessons copied: 1",
        "out: with the files that they need: helper.py, mine.toml, tools/__init__.py",
    ]
    found = sorted(path.as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert found == [
        f"out/{n}" for n in ("helper.py", "mine.ipynb", "mine.toml", "tools/__init__.py")
    ]
    student = read_notebook(Path("out/mine.ipynb"))
    text = "\n".join(cell.source for cell in student.cells)
    assert "### BEGIN SOLUTION" in text and "lesson.points(x)" in text and "<summary>" not in text
    assert 'lesson.answer("bug", ..., answer=x)' in text

    (own.parent / "out" / "mine.toml").write_text("my work")
    assert main(["copy", "out", "own/mine.ipynb"]) == 0
    assert (own.parent / "out" / "mine.toml").read_text() == "my work"


def test_lessons_of_the_course_are_copied_by_name(own):
    assert main(["copy", "out", "start_here", "own/mine.ipynb"]) == 0
    assert {path.name for path in Path("out").glob("*.ipynb")} == {
        "00_start_here.ipynb",
        "mine.ipynb",
    }


@pytest.mark.parametrize("case", ["unknown", "twice", "no notebook", "no Python"])
def test_what_cannot_be_copied_is_said_and_nothing_is(own, case, capsys):
    (own / "b").mkdir()
    (own / "b" / "mine.ipynb").write_bytes((own / "mine.ipynb").read_bytes())
    nb = new_notebook(cells=[new_code_cell("@lesson.exercise('f')\ndef f(x:\n    return 1")])
    nbformat.write(nb, own / "broken.ipynb")
    (own / "odd.ipynb").write_text("{")
    words, message = {
        "unknown": (["own/yours.ipynb"], "no lesson 'own/yours.ipynb'"),
        "twice": (["own/mine.ipynb", "own/b/mine.ipynb"], "two lessons are called mine.ipynb"),
        "no notebook": (["own/mine.ipynb", "own/odd.ipynb"], "odd.ipynb is not a notebook"),
        "no Python": (
            ["own/broken.ipynb"],
            "broken.ipynb: a cell with an exercise or an answer cannot be read, line 2",
        ),
    }[case]
    assert main(["copy", "out", *words, "--without-solutions"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of nbgrader's with the beginning of one lesson, up to its graded cell."""
    # nbgrader calls alembic by name, as it finds it in an environment that is activated.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    student = make_student_version(read_notebook(LESSON))
    (last,) = exercises(student)
    student.cells = student.cells[: last + 2]
    wanted = ("open", "parameters", "guard", "build", "grade-read_verdict")
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
        (cell,) = (cell for cell in nb.cells if cell.id == "build")
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
    (stub,) = (cell.source for cell in released.cells if cell.id == "build")
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
