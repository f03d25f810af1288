"""A lesson of one's own, written from the README's blocks and run like any other."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nbkit.course.run.course_run import run_lessons
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.exercise import Exercise
from nbkit.lab.knobs import KnobError
from nbkit.lab.lesson import Lesson

README = (Path(__file__).parents[2] / "README.md").read_text()
OWN = README.partition("## Write a lesson of your own")[2].partition("\n## ")[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of somebody who has done what the README says."""
    monkeypatch.chdir(tmp_path)
    (claims,) = re.findall(r"```toml\n(.*?)```", OWN, re.DOTALL)
    (tmp_path / "weight_decay.toml").write_text(claims)
    cells = [new_code_cell(text) for text in re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)]
    assert len(cells) == 5
    cells[1].metadata["tags"] = ["parameters"]
    nb = new_notebook(cells=cells)
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    nbformat.write(nb, tmp_path / "weight_decay.ipynb")
    return tmp_path


def test_it_runs_headless_with_its_claims_and_its_knobs(folder):
    lesson = [folder / "weight_decay.ipynb"]
    (record,) = run_lessons(lesson, folder / "runs", {"lr": "0.05"}, "smoke")
    assert (record.status, record.reason) == ("ok", None)
    (verdict,) = record.verdicts
    assert (verdict["claim"], verdict["verdict"]) == ("decay-narrows-the-gap", "SKIPPED")
    assert verdict["reason"] == "3 of the 8 seeds it needs"
    assert record.parameters == {"lr": 0.05, "profile": "smoke"}


def test_its_parameters_are_checked_before_a_kernel_starts(folder):
    with pytest.raises(KnobError, match=r"weight_decay must be a float from 0.0001 to 1, got '7'"):
        run_lessons([folder / "weight_decay.ipynb"], folder / "runs", {"weight_decay": "7"})
    assert not (folder / "runs").exists()


def test_its_claims_come_from_its_own_file(folder, capsys):
    assert set(load_claims("weight_decay", folder / "weight_decay.toml")) == {
        "decay-narrows-the-gap"
    }
    shared = (
        (folder / "weight_decay.toml").read_text().replace("]", ']\nlesson = "weight_decay"', 1)
    )
    (folder / "shared.toml").write_text(shared)
    assert set(load_claims("weight_decay", folder / "shared.toml")) == {"decay-narrows-the-gap"}
    with pytest.raises(ValueError, match=r"shared.toml has no claim of lesson 'other'"):
        Lesson("other", {}, claims="shared.toml")
    with pytest.raises(FileNotFoundError):
        Lesson("weight_decay", {}, claims="nowhere.toml")
    with pytest.raises(ValueError, match=r"^nbkit has no claims of lesson 'weight_decay'"):
        Lesson("weight_decay", {})
    (claim,) = Lesson("weight_decay", {}, claims="weight_decay.toml").claims.values()
    assert isinstance(claim, Claim) and claim.decide(Interval(0.8, 0.7, 0.9, 8)) == "SUPPORTED"


def test_a_wrong_entry_is_named_with_its_file(folder):
    with (folder / "weight_decay.toml").open("a") as file:
        file.write("marign = 0.9\n")
    with pytest.raises(ValueError, match=r"weight_decay.toml, \[decay-narrows-the-gap\].*marign"):
        Lesson("weight_decay", {}, claims="weight_decay.toml")


def test_an_exercise_of_its_own_is_handed_over_itself(folder, capsys):
    lesson = Lesson("weight_decay", {}, claims="weight_decay.toml")
    right = Exercise(
        "double", lambda x: x, lambda x: 2 * x, [lambda f: None if f(3) == 6 else "3?"]
    )
    assert lesson.exercise(right)(lambda x: x) is right.reference
    assert lesson.points("double") == 0
    attempt = lesson.exercise(right)(lambda x: x + x)
    assert attempt(5) == 10 and lesson.points("double") == 1
    assert lesson.points("never run") == 0
    assert "double: not yet. 3?" in capsys.readouterr().out
