"""What is to be run is known, checked and named before anything starts."""

from dataclasses import replace

import nbformat
import pytest
from course_notebooks import write

from nbkit.course.companions import list_companions
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.run import checksums, grid, leftovers, tasks
from nbkit.course.run.grid import read_grid
from nbkit.course.run.tasks import plan_tasks
from nbkit.lab.knobs import KnobError


@pytest.fixture
def lesson(tmp_path):
    return write(tmp_path / "01_a.ipynb", "1", parameters=True)


def test_a_grid_is_all_combinations_in_order(lesson, tmp_path):
    grid = {"lr": ["0.1", "1e-3"], "profile": ["smoke", "full"]}
    found = plan_tasks([lesson], tmp_path / "out", {"quick": "true"}, grid)
    assert [(task.name, task.values) for task in found] == [
        (f"01_a--lr={lr}--profile={p}", {"quick": True, "lr": float(lr), "profile": p})
        for lr in ("0.1", "0.001")
        for p in ("smoke", "full")
    ]


def test_one_value_is_one_point(lesson, tmp_path):
    assert len(plan_tasks([lesson], tmp_path / "out", {}, {"lr": ["1", "1.0", 1]})) == 1


def test_values_that_look_alike_have_names_of_their_own(lesson, tmp_path):
    found = plan_tasks([lesson], tmp_path / "out", {}, {"lr": ["0.10000001", "0.1"]})
    assert [task.name for task in found] == ["01_a--lr=0.10000001", "01_a--lr=0.1"]


def test_no_point_hides_behind_another_s_name(tmp_path):
    nb = nbformat.read(write(tmp_path / "01_a.ipynb", "1", parameters=True), as_version=4)
    modes = ["a b", "a/b", "a_b", "a--lr=1", "a%20b"]
    nb.cells[1].source += '\nmode: str = "a b"  # which'
    ranges = f"mode=choice({', '.join(map(repr, modes))}), quick="
    nb.cells[2].source = nb.cells[2].source.replace("quick=", ranges)
    nbformat.write(nb, tmp_path / "01_a.ipynb")
    found = plan_tasks([tmp_path / "01_a.ipynb"], tmp_path / "out", {}, {"mode": modes})
    assert [task.values["mode"] for task in found] == modes
    assert found[0].name == "01_a--mode=a%20b"
    assert all(task.notebook_path.parent == tmp_path / "out" for task in found)


@pytest.mark.parametrize(
    "given, grid, message",
    [
        ({}, {"lrr": ["1"]}, "01_a: unknown parameter 'lrr'. Did you mean 'lr'"),
        ({}, {"lr": ["0.1", "100"]}, "01_a: lr must be a float from 0.0001 to 10, got '100'"),
        ({"lr": "1"}, {"lr": ["1"]}, "lr is given as a parameter and in the grid"),
    ],
)
def test_every_point_is_checked(lesson, tmp_path, given, grid, message):
    with pytest.raises(KnobError, match=message):
        plan_tasks([lesson], tmp_path / "out", given, grid)


def test_a_lesson_without_the_knob_is_refused_by_name(lesson, tmp_path):
    other = write(tmp_path / "02_b.ipynb", "1")
    with pytest.raises(KnobError, match="02_b: unknown parameter 'lr'"):
        plan_tasks([lesson, other], tmp_path / "out", {}, {"lr": ["1"]})


@pytest.mark.parametrize("text", ["lr", "lr=", "=1", "lr=1,,2", "l r=1"])
def test_what_is_no_grid(text):
    with pytest.raises(KnobError, match="a grid is NAME=V1,V2,..., got"):
        read_grid([text])


def test_a_grid_names_a_parameter_once():
    with pytest.raises(KnobError, match="the grid has lr twice"):
        read_grid(["lr=1", "lr=2"])


def finished(task):
    """The files of a task that has run well."""
    task.out.mkdir(exist_ok=True)
    for file in (task.notebook_path, task.page_path):
        file.write_text("{}")
    task.make_record(status="ok").save(task.record_path)


def test_what_was_done_is_done(lesson, tmp_path):
    (task,) = plan_tasks([lesson], tmp_path / "out", {"lr": "1"})
    assert task.find_finished_record() is None
    finished(task)
    assert task.find_finished_record() == Record.load(task.record_path)


def other_parameters(task, monkeypatch):
    return plan_tasks([task.path], task.out, {"lr": "2"})[0]


def other_lesson(task, monkeypatch):
    write(task.path, "2", parameters=True)
    return task


def other_claims_beside_it(task, monkeypatch):
    (task.path.parent / "claims.toml").write_text("[c]\nmargin = 2\n")
    return task


def other_module_beside_it(task, monkeypatch):
    (task.path.parent / "helper.py").write_text("x = 2")
    return task


def other_module_in_a_folder_that_it_names(task, monkeypatch):
    folder = task.path.parent / "profile" / "deep"  # a word of the parameters cell
    folder.mkdir(parents=True)
    (folder / "helper.py").write_text("x = 2")
    return task


def empty_notebook(task, monkeypatch):
    task.notebook_path.write_bytes(bytes(100))
    return task


def empty_page(task, monkeypatch):
    task.page_path.write_text("")
    return task


def other_version(task, monkeypatch):
    monkeypatch.setattr("nbkit.__version__", "99")
    return task


def other_code(task, monkeypatch):
    monkeypatch.setattr(tasks, "hash_package", lambda: "other")
    return task


def no_page(task, monkeypatch):
    task.page_path.unlink()
    return task


def no_notebook(task, monkeypatch):
    task.notebook_path.unlink()
    return task


def half_a_record(task, monkeypatch):
    task.record_path.write_text(task.record_path.read_text()[:100])
    return task


def still_running(task, monkeypatch):
    task.make_record(status="running").save(task.record_path)
    return task


def failed(task, monkeypatch):
    task.make_record(status="failed").save(task.record_path)
    return task


@pytest.mark.parametrize(
    "change",
    [other_parameters, other_lesson, other_claims_beside_it, other_module_beside_it,
     other_module_in_a_folder_that_it_names, empty_notebook, empty_page, other_version, other_code,
     no_page, no_notebook, half_a_record, still_running, failed],
)  # fmt: skip
def test_what_was_done_otherwise_is_not(lesson, tmp_path, monkeypatch, change):
    (task,) = plan_tasks([lesson], tmp_path / "out", {"lr": "1"})
    finished(task)
    monkeypatch.setattr(leftovers, "read_notebook", lambda path: pytest.fail("not needed"))
    monkeypatch.setattr(tasks, "check_output_files", lambda task: None)
    assert change(task, monkeypatch).find_finished_record() is None


def test_modules_are_found_through_modules(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "import first")
    (tmp_path / "first.py").write_text("from second.part import x")
    for name in ("second", "unnamed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.py").write_text("x = 1")
    found = [str(file.relative_to(tmp_path)) for file in list_companions(path)]
    assert found == ["first.py", "second/part.py"]


def executed(task):
    """The three files of a run, the notebook as papermill marks it."""
    finished(task)
    nb = nbformat.v4.new_notebook(metadata={"papermill": {}})
    nbformat.write(nb, task.notebook_path)


NOTHING, HALF, NO_JSON = b"", b'{\n "lesson": "01_', b"\x07\x80"


@pytest.mark.parametrize(
    "damage",
    [
        {"record_path": NOTHING},
        {"record_path": bytes(9)},
        {"record_path": HALF},
        {"record_path": NO_JSON},
        {"record_path": b"{}"},
        {"notebook_path": HALF},
        {"notebook_path": NOTHING, "record_path": NOTHING, "page_path": NOTHING},
        {"notebook_path": NOTHING, "record_path": NOTHING},
    ],
)
def test_what_a_power_cut_has_damaged_is_run_again(lesson, tmp_path, damage):
    (task,) = plan_tasks([lesson], tmp_path / "out", {})
    executed(task)
    for name, data in damage.items():
        getattr(task, name).write_bytes(data)
    (again,) = plan_tasks([lesson], tmp_path / "out", {})
    assert again.find_finished_record() is None


@pytest.mark.parametrize(
    "damage",
    [
        {"record_path": b'{"name": "somebody"}', "page_path": None},
        {"record_path": NO_JSON, "notebook_path": None},
        {"notebook_path": NO_JSON, "record_path": NO_JSON},
        {"notebook_path": b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'},
        {"notebook_path": None, "record_path": None},
    ],
)
def test_what_may_be_somebodys_is_refused(lesson, tmp_path, damage):
    (task,) = plan_tasks([lesson], tmp_path / "out", {})
    executed(task)
    for name, data in damage.items():
        getattr(task, name).unlink() if data is None else getattr(task, name).write_bytes(data)
    with pytest.raises(LessonError, match="was not written by a run and would be lost"):
        plan_tasks([lesson], tmp_path / "out", {})


def test_a_long_name_is_cut_and_stays_its_own():
    long = ["q" * 300, "q" * 299 + "r", "ü" * 150]
    short = [grid.shorten_name(name) for name in long]
    assert len(set(short)) == 3
    assert all(len(name.encode()) <= 200 for name in short)
    assert grid.shorten_name("01_a--lr=1") == "01_a--lr=1"


@pytest.mark.parametrize("name", ["lessons/x/claims.toml", "x.py", "digits.npz"])
def test_what_nbkit_is_counts_its_claims_and_its_data(tmp_path, monkeypatch, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"as they were")
    monkeypatch.setattr("nbkit.lab.shipped.data_dir", lambda: tmp_path)
    monkeypatch.setattr("nbkit.__file__", str(tmp_path / "__init__.py"))
    before = checksums.hash_package.__wrapped__()
    (tmp_path / name).write_bytes(b"with another margin")
    assert checksums.hash_package.__wrapped__() != before


def test_an_attempt_at_something_else_is_not_counted(lesson, tmp_path):
    (task,) = plan_tasks([lesson], tmp_path / "out", {"lr": "1"})
    task.out.mkdir()
    task.make_record(status="running", cell=3).save(task.record_path)
    assert [attempt["cell"] for attempt in task.make_record().attempts] == [3]
    write(task.path, "2", parameters=True)
    assert task.make_record().attempts == []


def test_a_task_stops_when_its_run_has(lesson, tmp_path):
    (task,) = plan_tasks([lesson], tmp_path / "out", {})
    task = replace(task, token=(tmp_path / "token", "mine"))
    (tmp_path / "token").write_text("mine")
    assert not task.is_stopped()
    (tmp_path / "token").write_text("another run's")
    assert task.is_stopped()
    (tmp_path / "token").unlink()
    assert task.is_stopped()


def test_two_tasks_of_one_name_are_refused(lesson, tmp_path):
    (tmp_path / "b").mkdir()
    other = write(tmp_path / "b" / "01_a.ipynb", "1")
    with pytest.raises(LessonError, match="two lessons are called 01_a"):
        plan_tasks([lesson, other], tmp_path / "out", {})
