"""The lessons as they are stored: executed from top to bottom, readable, with nothing left over."""

import math
import re

import pytest
import torch

from nbkit.course.lessons import read_knobs, read_notebook
from nbkit.lab.curriculum import word_of
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.exercise import load_exercise
from nbkit.lab.shipped import lessons_dir

LESSONS = sorted(lessons_dir().glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def lesson(path):
    return read_notebook(path)


def code(lesson):
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def all_code(lesson):
    return "\n".join(cell.source for cell in code(lesson))


def outputs(lesson):
    return [output for cell in code(lesson) for output in cell.outputs]


def test_there_are_lessons():
    assert LESSONS


def test_every_cell_has_been_run_once_in_order(lesson):
    counts = [cell.execution_count for cell in code(lesson)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_error_and_nothing_of_a_run_is_stored(lesson):
    assert not [output for output in outputs(lesson) if output.output_type == "error"]
    assert not {"widgets", "papermill"} & set(lesson.metadata)
    assert not [cell for cell in code(lesson) if {"papermill", "execution"} & set(cell.metadata)]


def test_a_stored_widget_has_a_picture_beside_it(lesson):
    for cell in code(lesson):
        data = [output.get("data", {}) for output in cell.outputs]
        assert not any(WIDGET in d for d in data) or any("image/png" in d for d in data)


def test_the_knobs_can_be_read_without_a_kernel(lesson):
    knobs = read_knobs(lesson)
    assert knobs["profile"].options == ("smoke", "lesson", "full")
    assert all(knob.help for knob in knobs.values())


def test_cells_are_short_and_have_sentences_between_them(lesson):
    for cell in code(lesson):
        assert len(cell.source.splitlines()) <= 20, cell.source
        assert not cell.source.rstrip().endswith(";"), cell.source  # nbval compares it all the same
    kinds = "".join("c" if cell.cell_type == "code" else "t" for cell in lesson.cells)
    # Measure, cards, why, when not, your turn: so many may follow one another, and no more.
    assert "c" * 8 not in kinds


def test_a_prediction_is_committed_before_anything_of_it_is_shown(lesson):
    # The lab may come first: it shows no verdict, and is what the prediction is made from.
    calls = re.findall(r"lesson\.(predict|verdict|reveal)\(", all_code(lesson))
    assert calls[0] == "predict" and {"verdict", "reveal"} <= set(calls), calls
    assert "lesson.explore(" in all_code(lesson)


def test_no_formula_has_a_doubled_backslash(lesson):
    texts = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
    assert not [found for text in texts for found in re.findall(r"\\\\[a-z]\w*", text)]


def test_every_claim_of_the_lesson_has_a_stored_verdict(path, lesson):
    told = [output.get("metadata", {}).get("nbkit", {}) for output in outputs(lesson)]
    verdicts = {one["claim"]: one for one in told if one.get("kind") == "verdict"}
    assert set(verdicts) == set(load_claims(word_of(path.stem)))
    assert all(one["machine"]["hardware"] for one in verdicts.values())
    for claim, one in verdicts.items():  # skipped only for what a machine may lack, not for n
        lacks = one["verdict"] == "SKIPPED" and load_claims(word_of(path.stem))[claim].needs
        assert one["n"] >= 8 or lacks, one


def test_the_solution_that_folds_out_passes_its_check(path, lesson):
    """The last Python block beside each exercise cell, run with a decorator that only hands on."""
    cells = lesson.cells
    exercises = [n for n, cell in enumerate(cells) if "@lesson.exercise(" in cell.source]
    exercises = [n for n in exercises if cells[n].cell_type == "code"]
    assert exercises
    for n in exercises:
        (name,) = re.findall(r'@lesson\.exercise\("(\w+)"\)', cells[n].source)
        # It folds out above the cell, in its task, or below it.
        beside = cells[n - 1].source + cells[n + 1].source
        solution = re.findall(r"```python\n(.*?)```", beside, re.DOTALL)[-1]
        variables = {"math": math, "torch": torch}  # the notebook has imported them
        exec(solution.replace(f'@lesson.exercise("{name}")\n', ""), variables)
        exercise = load_exercise(word_of(path.stem), name)
        assert exercise.check(variables[name]) is None
        stub = {"lesson": type("Hand", (), {"exercise": staticmethod(lambda _: lambda f: f)})}
        exec(cells[n].source, stub)
        assert exercise.check(stub[name]) == exercise.check(exercise.stub)
