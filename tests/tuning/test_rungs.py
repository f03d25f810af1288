"""plan_rungs: against the definition, for many sizes."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit.tuning import plan_rungs


@pytest.mark.parametrize(
    "arguments, expected",
    [
        # Hyperband's example of eta 3: 27 configurations, each rung three times as long.
        ((27, 90), [(27, 10), (9, 30), (3, 90)]),
        ((9, 150), [(9, 50), (3, 150)]),
        ((10, 150), [(10, 16), (4, 50), (2, 150)]),
        ((3, 150), [(3, 150)]),
        ((1, 150), [(1, 150)]),
        # There is no room for three rungs below 2 updates.
        ((27, 2), [(27, 2)]),
        ((27, 3), [(27, 1), (9, 3)]),
    ],
)
def test_the_rungs_are(arguments, expected):
    assert [(rung.configs, rung.updates) for rung in plan_rungs(*arguments)] == expected


def test_a_longer_shortest_rung_lets_more_configurations_reach_the_end():
    plan = plan_rungs(27, 90, min_updates=11)
    assert [(rung.configs, rung.updates) for rung in plan] == [(27, 30), (9, 90)]
    assert [rung.steps for rung in plan] == [27 * 30, 9 * 60]


@given(st.integers(1, 300), st.integers(1, 500), st.integers(2, 5), st.integers(1, 50))
def test_every_plan(n, updates, eta, min_updates):
    min_updates = min(min_updates, updates)
    plan = plan_rungs(n, updates, eta=eta, min_updates=min_updates)
    sizes, lengths = [rung.configs for rung in plan], [rung.updates for rung in plan]
    assert sizes[0] == n and lengths[-1] == updates and lengths[0] >= min_updates
    for earlier, later in itertools.pairwise(plan):
        assert later.configs == math.ceil(earlier.configs / eta) < earlier.configs
        assert earlier.updates == later.updates // eta
    # At least two are compared at the full length, if there are two.
    assert sizes[-1] >= min(2, n)
    # It never costs more than to train all of them to the end.
    assert sum(rung.steps for rung in plan) <= n * updates
    # No rung is missing that would have been long enough.
    assert sizes[-1] <= eta or updates // eta ** len(plan) < min_updates
