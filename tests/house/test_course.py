"""The order of the lessons stands in one file, and everything that follows from it agrees."""

import re
from pathlib import Path

import pytest

from nbkit.course import lists
from nbkit.course.lessons import find_lessons, read_notebook
from nbkit.lab.curriculum import read_course, word_of
from nbkit.lab.evidence.register import all_claims
from nbkit.lab.shipped import LESSONS, lessons_dir

ROOT = Path(__file__).parents[2]
COURSE = read_course()
FILES = ("__init__.py", "claims.toml", "exercise.py", "pictures.py", "task.py")


@pytest.mark.parametrize("entry", COURSE, ids=lambda entry: entry.word)
def test_a_lesson_has_its_files_its_notebook_and_its_tests(entry):
    assert [name for name in FILES if not (LESSONS / entry.word / name).is_file()] == []
    assert (lessons_dir() / f"{entry.stem}.ipynb").is_file()
    tests = ROOT / "tests/lessons"
    assert (tests / f"test_exercise_{entry.word}.py").is_file()
    assert (tests / f"test_lesson_{entry.word}.py").is_file()


def test_there_is_no_notebook_besides():
    stems = {path.stem for path in lessons_dir().glob("*.ipynb")}
    assert stems == {entry.stem for entry in COURSE} and len(stems) >= 8


def test_a_folder_that_is_no_lesson_yet_states_claims_and_has_no_code():
    words = {entry.word for entry in COURSE}
    folders = [path for path in LESSONS.iterdir() if path.is_dir() and path.name not in words]
    for folder in folders:
        if folder.name != "__pycache__":
            assert [path.name for path in folder.iterdir()] == ["claims.toml"], folder


@pytest.mark.parametrize("entry", COURSE, ids=lambda entry: entry.word)
def test_a_notebook_opens_its_lesson_by_the_word(entry):
    notebook = read_notebook(lessons_dir() / f"{entry.stem}.ipynb")
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert re.findall(r'Lesson\("(\w+)"', code) == [entry.word]
    title = notebook.cells[0].source
    assert title.startswith(f"# {entry.number} · ") and f"*{entry.minutes} minutes ·" in title


def test_the_lists_are_as_the_order_says():
    assert (ROOT / "README.md").read_text() == lists.format_readme(ROOT, COURSE)
    for entry in COURSE:
        path = lists.notebook_path(ROOT, entry)
        assert path.read_text() == lists.format_notebook(ROOT, entry, COURSE), entry.word


def test_a_list_that_is_out_of_date_is_seen_and_rewritten(tmp_path):
    for name in ("README.md", "nbkit/lessons/course.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(
            text.replace(f"minutes = {COURSE[1].minutes}\n", "minutes = 31\n")
        )
    (tmp_path / "notebooks").mkdir()
    for entry in COURSE:
        text = lists.notebook_path(ROOT, entry).read_text()
        lists.notebook_path(tmp_path, entry).write_text(text.replace("Next: **4 ·", "Next: **9 ·"))
    changed = {path.name for path in lists.write_lists(tmp_path)}
    assert changed == {"README.md", f"{COURSE[3].stem}.ipynb"}
    assert "| Which learning rate? | 31 |" in (tmp_path / "README.md").read_text()
    assert lists.write_lists(tmp_path) == []


def test_a_number_and_a_word_find_the_same_lesson():
    for entry in COURSE:
        by_number = find_lessons([str(entry.number)], lessons_dir())
        assert by_number == find_lessons([entry.word], lessons_dir())
        assert word_of(by_number[0].stem) == entry.word


def test_every_claim_has_an_id_of_its_own_and_a_lesson():
    claims = all_claims()  # refuses an id that stands twice
    assert len(claims) > 40
    assert {claim.lesson for claim in claims.values()} >= {entry.word for entry in COURSE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("minutes = 20\n", ""), "wrong or missing: minutes"),
        (("minutes = 20", "minutes = 20\nroom = 3"), "wrong or missing: room"),
        (('word = "lr_finder"', 'word = "start_here"'), "two lessons 'start_here': rename one"),
    ],
)
def test_a_mistake_in_the_order_is_a_sentence(tmp_path, change, message):
    text = (LESSONS / "course.toml").read_text()
    (tmp_path / "course.toml").write_text(text.replace(*change, 1))
    with pytest.raises(ValueError, match=message):
        read_course(tmp_path / "course.toml")
