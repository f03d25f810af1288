"""Lessons are found by what people type, and say what they take without a kernel."""

import nbformat
import pytest
from course_notebooks import write

from nbkit.course.lessons import (
    LessonError,
    check_parameters,
    find_lessons,
    read_knobs,
    read_notebook,
)
from nbkit.lab.knobs import KnobError


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stem in ("01_lr_finder", "02_initialization", "10_extra"):
        write(folder / f"{stem}.ipynb", "1", parameters=True)
    return folder


@pytest.mark.parametrize(
    "names, found",
    [
        ([], ["01_lr_finder", "02_initialization", "10_extra"]),
        (["2"], ["02_initialization"]),
        (["02"], ["02_initialization"]),
        (["1"], ["01_lr_finder"]),
        (["lr_finder"], ["01_lr_finder"]),
        (["01_lr_finder.ipynb"], ["01_lr_finder"]),
        (["0*"], ["01_lr_finder", "02_initialization"]),
        (["10", "1", "lr_finder"], ["10_extra", "01_lr_finder"]),
    ],
)
def test_a_lesson_is_found_by_number_name_or_glob(course, names, found):
    assert [path.stem for path in find_lessons(names, course)] == found


def test_a_notebook_is_found_by_its_path(course, tmp_path):
    own = write(tmp_path / "own.ipynb", "1")
    assert find_lessons([str(own), "1"], course) == [own, course / "01_lr_finder.ipynb"]


def test_a_name_that_means_nothing_is_answered_with_the_nearest(course):
    with pytest.raises(LessonError, match="Did you mean '01_lr_finder'?"):
        find_lessons(["01_lr_fnder"], course)
    with pytest.raises(LessonError, match=r"no lesson '7'. There are: 01_lr_finder, 02_"):
        find_lessons(["7"], course)


def test_an_empty_folder_is_no_course(tmp_path):
    with pytest.raises(LessonError, match="there is no lesson in"):
        find_lessons([], tmp_path)


@pytest.mark.parametrize(
    "given, read",
    [
        ({"lr": "1e-3", "quick": "true"}, {"lr": 1e-3, "quick": True}),
        ({"lr": "1", "quick": "False"}, {"lr": 1.0, "quick": False}),
        ({"profile": "smoke"}, {"profile": "smoke"}),
        ({"lr": 1}, {"lr": 1.0}),
    ],
)
def test_text_is_read_by_the_declared_type(course, given, read):
    checked = check_parameters(course / "01_lr_finder.ipynb", given)
    assert checked == read
    assert [type(value) for value in checked.values()] == [type(value) for value in read.values()]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"lrr": "1"}, "01_lr_finder: unknown parameter 'lrr'. Did you mean 'lr'?"),
        ({"lr": "banana"}, "lr must be a float from 0.0001 to 10, got 'banana'"),
        ({"lr": "-1"}, "lr must be a float from 0.0001 to 10, got '-1'"),
        ({"lr": "nan"}, "lr must be a float"),
        ({"lr": True}, "lr must be a float"),
        ({"quick": "yes"}, "quick must be"),
        ({"profile": "quick"}, "profile must be one of 'smoke', 'lesson', 'full'"),
        ({"x;import os;lr": "1"}, "unknown parameter"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(course, given, message):
    with pytest.raises(KnobError) as caught:
        check_parameters(course / "01_lr_finder.ipynb", given)
    assert message in str(caught.value)


def test_a_notebook_without_parameters_takes_none(tmp_path):
    path = write(tmp_path / "plain.ipynb", "1")
    assert check_parameters(path, {}) == {}
    with pytest.raises(KnobError, match="unknown parameter 'lr'"):
        check_parameters(path, {"lr": 1})


@pytest.mark.parametrize("odd", ["two", "last"])
def test_a_parameters_cell_is_one_and_has_a_guard(course, odd):
    nb = nbformat.read(course / "01_lr_finder.ipynb", as_version=4)
    nb.cells = nb.cells[:2] * 2 if odd == "two" else nb.cells[:2]
    with pytest.raises(KnobError, match="its guard is the next one"):
        read_knobs(nb)


@pytest.mark.parametrize("cell", ["parameters", "guard"])
def test_a_mistake_is_named_with_lesson_cell_and_line(course, cell):
    path = course / "01_lr_finder.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[1 if cell == "parameters" else 2].source = "\nthis is no Python"
    nbformat.write(nb, path)
    with pytest.raises(KnobError, match=rf"^01_lr_finder: the {cell} cell, line 2: expected Py"):
        check_parameters(path, {})


def test_a_tag_that_is_no_list_is_refused(course):
    nb = nbformat.read(course / "01_lr_finder.ipynb", as_version=4)
    nb.cells[1].metadata["tags"] = "parameters"
    with pytest.raises(KnobError, match="tags of a cell must be a list of words, got 'parameters'"):
        read_knobs(nb)


def test_what_is_no_notebook_is_said_to_be_none(tmp_path):
    with pytest.raises(LessonError, match="there is no notebook"):
        read_notebook(tmp_path / "missing.ipynb")
    (tmp_path / "odd.ipynb").write_text("{")
    with pytest.raises(LessonError, match=r"odd.ipynb is not a notebook"):
        read_notebook(tmp_path / "odd.ipynb")
