"""Storing a lesson executes it anew and keeps what a reader sees, and nothing else."""

import re

import nbformat
import pytest
from course_notebooks import write

from nbkit.course import store as course_store
from nbkit.course.lessons import LessonError
from nbkit.course.store import store_lessons, store_outputs


def test_what_is_stored_is_executed_and_clean(tmp_path):
    path = write(
        tmp_path / "01_a.ipynb", "print(lr)", "", "import ipywidgets; ipywidgets.IntSlider()",
        parameters=True,
    )  # fmt: skip
    nb = nbformat.read(path, as_version=4)
    nb.metadata["widgets"] = {"stale": {}}
    nb.cells[3].execution_count = 17
    nbformat.write(nb, path)

    store_outputs(path)

    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    counts = [cell.execution_count for cell in nb.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, None, 4]
    assert nb.cells[3].outputs[0].text == "0.1\n"
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert "version" not in nb.metadata.language_info
    assert [dict(cell.metadata) for cell in nb.cells] == [{}, {"tags": ["parameters"]}, *[{}] * 4]
    assert path.read_text().endswith("}\n")


def test_storing_twice_changes_nothing_more(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "print(1)", "1 + 1")
    store_outputs(path)
    once = path.read_bytes()
    store_outputs(path)
    assert path.read_bytes() == once


def test_a_lesson_that_fails_is_left_as_it_was(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "print(1)", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(LessonError, match="01_a.ipynb is left as it was: cell 2, ZeroDivision"):
        store_outputs(path)
    assert path.read_bytes() == before


def test_the_command_stores_what_it_is_told_and_says_what_failed(tmp_path, monkeypatch, capsys):
    write(tmp_path / "01_a.ipynb", "1 / 0")
    write(tmp_path / "02_b.ipynb", "print('stored')")
    monkeypatch.setattr(course_store, "lessons_dir", lambda: tmp_path)
    assert store_lessons(["2"]) == 0
    assert store_lessons(["9"]) == 2
    assert store_lessons([]) == 1
    printed = capsys.readouterr()
    assert len(re.findall(r"stored .*02_b.ipynb", printed.out)) == 2
    assert "no lesson '9'" in printed.err
    assert "cell 1, ZeroDivisionError" in printed.err
