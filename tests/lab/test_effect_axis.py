"""The axis of an effect: a position is an effect, and an effect is a place."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit.lab.effect_axis import POSITIONS, EffectAxis, make_axis
from nbkit.lab.evidence.claims import Claim


def claim(measure, margin, side="below", **more):
    return Claim("id", "x", "s.", "w", "m", measure, side, 8, margin=margin, **more)


@pytest.mark.parametrize(
    ("axis", "value", "place"),
    [
        (EffectAxis(-1, 1, False), 0.5, 0.75),
        (EffectAxis(0.1, 10, True), 1.0, 0.5),
        (EffectAxis(0.1, 10, True), 0.0, 0.0),  # a ratio of 0 has no logarithm
        (EffectAxis(0.1, 10, True), math.inf, 1.0),
        (EffectAxis(-1, 1, False), -7.0, 0.0),
    ],
)
def test_an_effect_has_a_place(axis, value, place):
    assert axis.find_place(value) == pytest.approx(place)


@given(low=st.floats(1e-3, 10), factor=st.floats(1.05, 1e4), is_log=st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_position_has_an_effect_of_its_own_near_its_place(low, factor, is_log):
    axis = EffectAxis(low, low * factor, is_log)
    values = axis.list_values()
    assert len(values) == POSITIONS + 1 and values == sorted(set(values))
    assert low <= values[0] and values[-1] <= low * factor
    for position, value in enumerate(values):
        assert abs(axis.find_place(value) * POSITIONS - position) <= 0.75


def test_values_are_read_as_people_write_them():
    assert EffectAxis(-1, 1, False).list_values()[97:100] == [-0.03, -0.02, -0.01]
    assert EffectAxis(0.1, 10, True).list_values()[100] == 1.0


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (EffectAxis(0.08, 4, True), [0.1, 0.3, 1.0, 3.0]),
        (EffectAxis(0.5, 3, True), [0.5, 1.0, 2.0]),
        (EffectAxis(-1, 1, False), [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (EffectAxis(0, 0.3, False), [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
    ],
)
def test_ticks_are_few_and_round(axis, ticks):
    assert axis.list_ticks() == ticks


@given(low=st.floats(1e-3, 10), factor=st.floats(1.05, 1e9), is_log=st.booleans())
@settings(max_examples=80, deadline=None)
def test_ticks_lie_on_the_axis(low, factor, is_log):
    axis = EffectAxis(low, low * factor, is_log)
    ticks = axis.list_ticks()
    assert 2 <= len(ticks) <= 8
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)


@pytest.mark.parametrize(
    ("stated", "axis"),
    [
        (claim("ratio", 1.25, axis=(0.5, 3)), EffectAxis(0.5, 3, True)),
        (claim("difference", -0.1, axis=(-1, 1)), EffectAxis(-1, 1, False)),
        (claim("ratio", 0.8), EffectAxis(0.2, 4.0, True)),
        (claim("proportion", 0.6), EffectAxis(0.0, 1.0, False)),
        (claim("proportion_difference", -0.3), EffectAxis(-1.0, 1.0, False)),
        (claim("difference", 0.05, "within"), EffectAxis(-0.2, 0.2, False)),
        (claim("difference", 0.0), EffectAxis(-1.0, 1.0, False)),
    ],
)
def test_the_axis_is_the_claims_or_the_usual_one(stated, axis):
    assert make_axis(stated) == axis


def test_only_an_axis_that_no_claim_states_grows():
    assert make_axis(claim("ratio", 1.25, axis=(0.5, 3)), [9.0]) == EffectAxis(0.5, 3, True)
    grown = make_axis(claim("ratio", 1.25), [9.0, math.inf, 0.0])
    assert grown.low == 0.25 and 9.0 < grown.high < 12
    assert make_axis(claim("difference", 0.1), [-2.0, math.inf]).low == -2.0
