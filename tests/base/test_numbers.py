"""Numbers are read whoever made them; bools, fractions and arrays are not taken for integers."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from nbkit import Amp, accumulate, check_accumulation, launch, rescale_bn_momentum_
from nbkit.base.numbers import read_integer, read_real
from nbkit.base.report import convert_to_json
from nbkit.lab.evidence.proportions import accuracy_interval, barnard_p_value
from nbkit.lab.knobs import between, check_values
from nbkit.lab.runs.arms import read_arms

TWOS = [2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)]
NONE = [True, np.bool_(True), torch.tensor(True), "2", None, 2j, np.array([2]), torch.tensor([2])]


@pytest.mark.parametrize("two", TWOS, ids=repr)
def test_integers_of_all_kinds(two):
    assert read_integer(two) == 2 and type(read_integer(two)) is int
    assert read_real(two) == 2.0 and type(read_real(two)) is float


@pytest.mark.parametrize("half", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr)
def test_fractions_are_real_and_no_integers(half):
    assert read_integer(half) is None
    assert read_real(half) == 0.5 and type(read_real(half)) is float


@pytest.mark.parametrize("wrong", NONE, ids=repr)
def test_what_is_no_number(wrong):
    assert read_integer(wrong) is None and read_real(wrong) is None


@pytest.mark.parametrize("two", TWOS, ids=repr)
def test_the_functions_take_them(two):
    assert [len(window) for window in accumulate([torch.zeros(2)] * 4, two)] == [2, 2]
    batch = torch.randn(4, 3), torch.randn(4, 1)
    assert check_accumulation(nn.Linear(3, 1), nn.functional.mse_loss, batch, two).equivalent
    assert rescale_bn_momentum_(nn.BatchNorm1d(1), two).after
    amp = Amp("fp16", "cpu", init_scale=two, growth_interval=two, max_skips=two)
    assert type(amp.max_skips) is int and amp.scaler.get_scale() == 2.0
    assert accuracy_interval(two, two).estimate == 1.0
    json.dumps(amp.state_dict())


@pytest.mark.parametrize("wrong", [True, np.bool_(True), torch.tensor(True), np.float64(2.0), 1.5])
def test_the_functions_refuse_bools_and_fractions(wrong):
    calls = [
        lambda: accumulate([], wrong),
        lambda: rescale_bn_momentum_(nn.BatchNorm1d(1), wrong),
        lambda: Amp("fp16", "cpu", growth_interval=wrong),
        lambda: launch(print, nproc=wrong),
        lambda: launch(print, max_restarts=wrong),
        lambda: accuracy_interval(wrong, 3),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()


def test_small_unsigned_counts_do_not_wrap_around():
    """9 - 250 is 15 in uint8."""
    counts = [np.uint8(n) for n in (7, 250, 12, 250)]
    assert barnard_p_value(*counts) == barnard_p_value(7, 250, 12, 250)


def test_an_arm_takes_them_and_keeps_python_numbers():
    (rule,) = read_arms({"arm": {"lr": np.float32(0.5), "momentum": torch.tensor(0.25)}}, 1, 3)
    assert (type(rule["lr"]), rule["lr"], type(rule["momentum"]), rule["momentum"]) == (
        float,
        0.5,
        float,
        0.25,
    )
    with pytest.raises(ValueError, match="lr must be a number, got True"):
        read_arms({"arm": {"lr": True}}, 1, 3)


def test_reports_write_them_as_numbers():
    values = {"count": np.int64(3), "share": np.float32(0.5), "bad": np.float64("nan")}
    assert convert_to_json(values | {"all": np.arange(2), "yes": np.bool_(True)}) == {
        "count": 3,
        "share": 0.5,
        "bad": None,
        "all": [0, 1],
        "yes": True,
    }


def test_a_knob_takes_them_and_keeps_python_numbers():
    known = {"n": between(1, 9).with_name("n", int), "lr": between(0.0, 1.0).with_name("lr", float)}
    values = check_values({"n": np.int64(3), "lr": np.float64(0.5)}, known)
    assert (type(values["n"]), type(values["lr"])) == (int, float)
    for wrong in ({"n": True}, {"n": np.float64(3.0)}, {"lr": np.bool_(True)}):
        with pytest.raises(ValueError):
            check_values(wrong, known)
