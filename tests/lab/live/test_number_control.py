import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit.lab.knobs import between, log
from nbkit.lab.live.number_control import MOST_POSITIONS, list_positions

GAIN = log(0.25, 4).with_name("gain", float)


@pytest.mark.parametrize("knob", [GAIN, log(0.1, 10).with_name("lr", float)])
@pytest.mark.parametrize("value", [0.25, 0.5, 1, 2, 4])
def test_a_logarithmic_slider_reaches_round_values(knob, value):
    assert value in list_positions(knob)


@given(low=st.floats(1e-9, 1.0), factor=st.floats(2, 1e9))
@settings(max_examples=100, deadline=None)
def test_every_stop_between_the_ends_has_two_digits_and_is_one_that_the_knob_allows(low, factor):
    knob = log(low, low * factor).with_name("lr", float)
    positions = list_positions(knob)
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (low, low * factor)
    for position in positions:
        assert knob.read_value(position) == position
    for position in positions[1:-1]:
        assert float(f"{position:.1e}") == position
    # Twenty to a decade: no two neighbours are further apart than two of these steps.
    for a, b in pairwise(positions):
        assert b / a < 10 ** (2.2 / 20)


@given(low=st.floats(-5, 5), span=st.floats(0.2, 100), step=st.floats(0.01, 0.1))
@settings(max_examples=100, deadline=None)
def test_a_linear_slider_goes_by_its_step_to_both_ends(low, span, step):
    high = low + span
    positions = list_positions(between(low, high, step=step).with_name("x", float))
    assert (positions[0], positions[-1]) == (low, high)
    assert len(positions) <= MOST_POSITIONS + 3
    wide = math.ceil((high - low) / step / MOST_POSITIONS) * step
    for k, position in enumerate(positions[:-1]):
        assert position == pytest.approx(low + k * wide, abs=1e-6)


def test_ints_stop_at_ints():
    assert list_positions(between(1, 5).with_name("depth", int)) == [1, 2, 3, 4, 5]
    stops = list_positions(log(1, 30).with_name("size", int))
    assert stops[:6] == [1, 2, 3, 4, 5, 6] and all(stop == round(stop) for stop in stops)


def test_a_step_of_a_knob_is_kept():
    knob = between(0.0, 0.3, step=0.1).with_name("momentum", float)
    assert list_positions(knob) == [0.0, 0.1, 0.2, 0.3]


def test_a_wide_range_of_ints_has_fewer_stops_and_keeps_its_ends():
    positions = list_positions(between(10, 50_000).with_name("steps", int))
    assert (positions[0], positions[-1]) == (10, 50_000)
    assert len(positions) <= MOST_POSITIONS + 2
