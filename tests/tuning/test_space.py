"""The space: draws stay inside, are spread as asked, differ, and can be extended; and its edges."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbkit import SearchRange, digest, sample_configs
from nbkit.tuning import find_edges

SPACE = {
    "lr": SearchRange(1e-4, 10, log=True),
    "momentum": SearchRange(0, 0.99),
    "norm": ["batch", "layer", None],
}


def test_each_decade_is_drawn_as_often_and_so_is_each_value():
    n = 3000
    configs = sample_configs(SPACE, n, seed=3)
    decades = [math.floor(math.log10(config["lr"])) for config in configs]
    tenths = [int(config["momentum"] / 0.099) for config in configs]
    norms = [config["norm"] for config in configs]
    for drawn, values in ((decades, range(-4, 1)), (tenths, range(10)), (norms, SPACE["norm"])):
        share = 1 / len(values)
        # Five standard deviations of a count of n draws.
        room = 5 * math.sqrt(n * share * (1 - share))
        for value in values:
            assert drawn.count(value) == pytest.approx(n * share, abs=room)


def test_the_settings_are_drawn_independently():
    configs = sample_configs(SPACE, 2000, seed=1)
    x = torch.tensor([[math.log(config["lr"]), config["momentum"]] for config in configs])
    assert abs(torch.corrcoef(x.T)[0, 1]) < 0.11  # five standard deviations, 5 / sqrt(n)


@given(
    st.floats(1e-6, 1e3),
    st.floats(1.001, 1e6),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
def test_a_value_lies_in_its_range_and_is_found_there(low, factor, log, share):
    setting = SearchRange(low, low * factor, log)
    value = setting.pick_value(share)
    assert setting.low <= value <= setting.high
    assert setting.locate_value(value) == pytest.approx(share, abs=1e-6)


def test_a_search_can_be_extended():
    assert sample_configs(SPACE, 40, seed=5)[:9] == sample_configs(SPACE, 9, seed=5)
    assert sample_configs(SPACE, 9, seed=5) != sample_configs(SPACE, 9, seed=6)


def test_no_configuration_is_drawn_twice():
    space = {"a": [1, 2, 3], "b": [False, True]}
    configs = sample_configs(space, 6, seed=0)
    assert sorted((config["a"], config["b"]) for config in configs) == [
        (a, b) for a in (1, 2, 3) for b in (False, True)
    ]
    with pytest.raises(ValueError, match="no more than 6 different configurations, n=7"):
        sample_configs(space, 7, seed=0)


def test_no_other_random_state_is_touched():
    before = digest()
    sample_configs(SPACE, 5, seed=0)
    assert digest() == before
    random.seed(9), torch.manual_seed(9)
    assert sample_configs(SPACE, 5, seed=0) == sample_configs(SPACE, 5, seed=0)


@pytest.mark.parametrize(
    "low, high, log, message",
    [
        (1, 1, False, "two finite numbers, low < high, got 1 and 1"),
        (2, 1, False, "low < high, got 2 and 1"),
        (0, math.inf, False, "two finite numbers"),
        (math.nan, 1, False, "two finite numbers"),
        ("0", 1, False, "got '0' and 1"),
        (0, 1, True, "a range with log=True must start above 0, got low=0"),
    ],
)
def test_a_range_that_is_none(low, high, log, message):
    with pytest.raises(ValueError, match=message):
        SearchRange(low, high, log)


@pytest.mark.parametrize(
    "space, n, seed, error, message",
    [
        ({}, 1, 0, ValueError, "space must name at least one setting"),
        ({"lr": 0.1}, 1, 0, TypeError, r"space\['lr'\] must be a SearchRange or a list.* got 0.1"),
        ({"lr": "log"}, 1, 0, TypeError, r"must be a SearchRange or a list of values, got 'log'"),
        ({"lr": []}, 1, 0, TypeError, r"must be a SearchRange or a list of values, got \[\]"),
        (SPACE, 0, 0, ValueError, "expected n, an integer of at least 1"),
        (SPACE, 1.0, 0, ValueError, "got n=1.0"),
        (SPACE, 1, None, ValueError, "an integer seed, got n=1, seed=None"),
    ],
)
def test_arguments(space, n, seed, error, message):
    with pytest.raises(error, match=message):
        sample_configs(space, n, seed)


@pytest.mark.parametrize(
    "value, edge",
    [
        (1e-4, "lowest"),
        (1.7e-4, "lowest"),  # 5 % of five decades is a quarter of one: up to 1.78e-4
        (1.9e-4, None),
        (0.03, None),
        (5.5, None),
        (6.0, "highest"),  # from 5.62 on
        (10, "highest"),
        (20, "highest"),
        (0.0, "lowest"),
    ],
)
def test_the_edges_of_a_range_are_its_outer_twentieths_on_its_scale(value, edge):
    found = find_edges({"lr": value}, [], {"lr": SPACE["lr"]})
    assert found == ({} if edge is None else {"lr": edge})


def test_without_a_space_the_edges_are_those_of_what_was_tried():
    configs = [{"lr": lr, "width": 8, "name": "a", "on": True} for lr in (0.1, 0.3, 1.0)]
    assert find_edges(configs[0], configs) == {"lr": "lowest"}
    assert find_edges(configs[1], configs) == {}
    assert find_edges(configs[2], configs) == {"lr": "highest"}
    # Of two values, each would be at an edge.
    assert find_edges(configs[0], configs[:2]) == {}


def test_a_list_of_numbers_has_edges_and_one_of_words_has_none():
    space = {"width": [16, 8, 32], "norm": ["a", "b", "c"]}
    assert find_edges({"width": 8, "norm": "a"}, [], space) == {"width": "lowest"}
    assert find_edges({"width": 16, "norm": "a"}, [], space) == {}
