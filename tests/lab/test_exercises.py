"""A check passes the reference, fails the stub, and fails every plausible wrong version."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbkit import lessons
from nbkit.lab.exercise import Exercise, load_exercise


def raises(*_, **__):
    raise TypeError("planted")


def every_exercise():
    files = sorted(Path(lessons.__file__).parent.glob("*/exercise.py"))
    names = [f"nbkit.lessons.{path.parent.name}.exercise" for path in files]
    modules = [importlib.import_module(name) for name in names]
    return [exercise for module in modules for exercise in module.EXERCISES]


@pytest.mark.parametrize("exercise", every_exercise(), ids=lambda exercise: exercise.name)
def test_one_that_raises_is_told_on_which_input_and_what_each_check_expected(exercise):
    for check in exercise.checks:
        told = replace(exercise, checks=[check]).check(raises)
        given, _, expected = told.partition(" it raised TypeError: planted; expected: ")
        assert given.startswith(f"for {exercise.name}(") and given.endswith(")")
        assert expected == check.__doc__ and expected.endswith(".")


def test_an_input_is_told_in_short_and_as_it_came():
    def the_list_stays(attempt):
        """The list stays."""
        attempt([1, None], torch.zeros(9), range(5), gain=torch.ones(1))

    def empties(values, *_, gain):
        values.clear()
        raise ZeroDivisionError("lost.")

    assert Exercise("it", raises, raises, [the_list_stays]).check(empties) == (
        "for it([1, None], <tensor of shape (9,)>, <range>, gain=tensor([1.0])) it raised "
        "ZeroDivisionError: lost; expected: The list stays."
    )
    unsaid = Exercise("it", raises, raises, [lambda attempt: attempt(1)])
    assert unsaid.check(raises) == "for it(1) it raised TypeError: planted."


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match="no exercise 'other', only range_test"):
        load_exercise("lr_finder", "other")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "two words"}, "name must be that of a function, got 'two words'"),
        ({"checks": []}, "read_verdict must have at least one check"),
        ({"checks": ["no"]}, "each check of read_verdict must be functions, got 'no'"),
        ({"reference": None}, "each check of read_verdict must be functions, got None"),
    ],
)
def test_an_exercise_that_could_not_be_checked_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(load_exercise("start_here", "read_verdict"), **changed)
