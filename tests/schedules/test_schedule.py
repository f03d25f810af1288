"""Every kind of schedule against its closed form, written here again, and against torch's."""

import json
import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from nbkit import Schedule, lr_schedule
from nbkit.schedules.shapes import KINDS

N = 12


def make_sgd(lr=1.0, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **options)


def list_factors(schedule, count=N):
    return [schedule(update) for update in range(count)]


def list_torch_lrs(make, count=N):
    """The lr of each update by one of torch's schedulers, in the order that torch asks for."""
    optimizer = make_sgd()
    scheduler = make(optimizer)
    lrs = []
    for update in range(count):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if update < count - 1:
            scheduler.step()
    return lrs


# ---- closed forms, each written as a list in another way than in the module ----


def test_constant_is_one():
    assert list_factors(lr_schedule("constant", N)) == [1.0] * N


def test_linear_takes_equal_steps_down_to_one_above_the_end():
    factors = list_factors(lr_schedule("linear", 5, end=0.5), 5)
    assert factors == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])


def test_cosine_is_halfway_in_the_middle():
    schedule = lr_schedule("cosine", 4, end=0.2)
    # cos 0, 45, 90 and 135 degrees
    heights = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert list_factors(schedule, 4) == pytest.approx([0.2 + 0.8 * height for height in heights])


def test_wsd_stays_and_then_falls():
    factors = list_factors(lr_schedule("wsd", 10, decay=0.3, end=0.1), 10)
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 1, 1, 0.7, 0.4])
    # The next one would be `end`.
    assert lr_schedule("wsd", 10, decay=0.3, end=0.1)(10) == pytest.approx(0.1)


def test_step_drops_after_every_so_many():
    factors = list_factors(lr_schedule("step", 7, gamma=0.5, every=3), 7)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert list_factors(lr_schedule("step", 6), 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_exponential_multiplies_by_the_same_factor():
    factors = list_factors(lr_schedule("exponential", 8, end=1 / 256), 8)
    assert factors == pytest.approx([1 / 2**k for k in range(8)])


def test_cyclical_goes_up_and_down():
    factors = list_factors(lr_schedule("cyclical", 9, start=0.2, every=4), 9)
    assert factors == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2, 0.6, 1.0, 0.6, 0.2])


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd", "step", "exponential"])
def test_a_warm_up_rises_to_the_first_full_update_and_the_rest_follows(kind):
    schedule = lr_schedule(kind, 13, warmup=3)
    assert list_factors(schedule, 4) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    # Behind it stands the same kind with the updates that are left; wsd's share is of all.
    options = {"decay": 3 / 10} if kind == "wsd" else {}
    rest = lr_schedule(kind, 10, **options)
    assert [schedule(3 + k) for k in range(10)] == pytest.approx(list_factors(rest, 10))


# ---- torch's own, update by update ----

TORCHS = {
    "linear": (
        {"end": 0.1},
        partial(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=N),
    ),
    "cosine": ({"end": 0.1}, partial(lr_scheduler.CosineAnnealingLR, T_max=N, eta_min=0.1)),
    "step": ({"every": 5, "gamma": 0.3}, partial(lr_scheduler.StepLR, step_size=5, gamma=0.3)),
    "exponential": ({"end": 0.5}, partial(lr_scheduler.ExponentialLR, gamma=0.5 ** (1 / N))),
    "one_cycle": (
        {"rise": 0.4},
        partial(
            lr_scheduler.OneCycleLR,
            max_lr=1.0,
            total_steps=N,
            pct_start=0.4,
            cycle_momentum=False,
        ),
    ),
    "cyclical": (
        {"start": 0.2, "every": 6},
        partial(
            lr_scheduler.CyclicLR, base_lr=0.2, max_lr=1.0, step_size_up=3, cycle_momentum=False
        ),
    ),
}


@pytest.mark.parametrize("kind", TORCHS)
def test_a_kind_is_the_one_that_torch_has(kind):
    options, make = TORCHS[kind]
    ours = list_factors(lr_schedule(kind, N, **options))
    assert ours == pytest.approx(list_torch_lrs(make), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_lambda_lr_takes_a_schedule_for_all_of_its_updates(kind):
    schedule = lr_schedule(kind, N)
    optimizer = make_sgd(0.5)
    scheduler = lr_scheduler.LambdaLR(optimizer, schedule)
    lrs = []
    for _ in range(N):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # after the last update, too, as everybody does
    assert lrs == [0.5 * factor for factor in list_factors(schedule)]


# ---- what every schedule keeps ----


@st.composite
def schedules(draw):
    updates = draw(st.integers(4, 200))
    kind = draw(st.sampled_from(sorted(KINDS)))
    options = {"past_end": draw(st.sampled_from(["raise", "hold"]))}
    if not KINDS[kind].rises:
        options["warmup"] = draw(st.integers(0, updates // 2))
    if kind == "wsd":
        options["decay"] = draw(st.floats(0.01, 0.5))
    if kind in ("linear", "cosine", "wsd"):
        options["end"] = draw(st.floats(0, 1))
    return lr_schedule(kind, updates, **options)


@given(schedules())
def test_a_factor_lies_between_0_and_1_and_the_first_is_not_0(schedule):
    factors = list_factors(schedule, schedule.updates)
    assert all(factor <= 1 + 1e-12 for factor in factors)
    # And no update is wasted: even the last one has an lr.
    assert min(factors) > 0


@given(schedules())
def test_a_warm_up_rises_to_1(schedule):
    part = schedule.parts[0]
    if KINDS[part.kind].rises:
        return
    assert schedule(part.warmup) == pytest.approx(1.0) and schedule.warmup == part.warmup
    for update in range(schedule.warmup):
        assert schedule(update) < schedule(update + 1)


@given(schedules(), schedules(), st.data())
def test_a_product_is_the_product(first, second, data):
    both = first * second
    update = data.draw(st.integers(0, min(first.updates, second.updates)))
    assert both(update) == pytest.approx(first(update) * second(update), rel=1e-12, abs=1e-300)
    assert both.warmup == max(first.warmup, second.warmup)


@given(schedules())
def test_it_survives_pickle_and_json(schedule):
    schedule(0), schedule.updates  # what is computed once is there, too
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule and hash(again) == hash(schedule)
    assert list_factors(again, 4) == list_factors(schedule, 4)
    told = schedule.to_dict()
    assert json.loads(json.dumps(told)) == told


def test_another_setting_is_another_schedule():
    made = [
        lr_schedule("cosine", 10),
        lr_schedule("cosine", 11),
        lr_schedule("cosine", 10, end=0.1),
        lr_schedule("cosine", 10, warmup=1),
        lr_schedule("cosine", 10, past_end="hold"),
        lr_schedule("linear", 10),
    ]
    assert len(set(made)) == len(made)
    assert len({json.dumps(schedule.to_dict()) for schedule in made}) == len(made)


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        lr_schedule("cosine", 10).parts = ()


# ---- its ends ----


@pytest.mark.parametrize("kind", KINDS)
def test_past_its_end_it_raises_or_holds(kind):
    raising = lr_schedule(kind, 6)
    raising(6)  # what is left after the last update
    with pytest.raises(ValueError, match=r"has ended: update 7 was asked for"):
        raising(7)
    holding = lr_schedule(kind, 6, past_end="hold")
    assert holding(7) == holding(1000) == holding(6)
    assert (raising.limit, holding.limit) == (6, math.inf)


def test_a_product_ends_with_its_shortest_part_that_raises():
    short, long = lr_schedule("linear", 4), lr_schedule("cosine", 9)
    held = lr_schedule("linear", 4, past_end="hold")
    assert (short * long).updates == (short * long).limit == 4
    assert (held * long).updates == 9


def test_updates_are_counted_from_0():
    with pytest.raises(ValueError, match="counted from 0, got update -1"):
        lr_schedule("linear", 4)(-1)


def test_only_schedules_are_multiplied():
    with pytest.raises(TypeError, match="unsupported operand"):
        lr_schedule("linear", 4) * 0.5


# ---- refusals ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "cosin"}, "kind must be one of constant, linear, cosine"),
        ({"updates": 0}, "updates must be a whole number of at least 1, got 0"),
        ({"updates": 2.5}, "updates must be a whole number"),
        ({"warmup": 10}, "from 0 to 9, got 10"),
        ({"warmup": -1}, "from 0 to 9, got -1"),
        ({"warmup": 0.2}, "a share of 0.2 is 2 of them"),
        ({"end": -0.1}, "end must be from 0 up to 1, got -0.1"),
        ({"end": math.nan}, "end must be from 0 up to 1, got nan"),
        ({"end": "low"}, "end must be from 0 up to 1, got 'low'"),
        ({"gamma": 0.5}, "cosine has no setting 'gamma', got gamma=0.5: it would change nothing"),
        ({"past_end": "stop"}, 'past_end must be "raise" or "hold"'),
        ({"kind": "wsd", "decay": 0.0}, "decay must be above 0 up to 1"),
        ({"kind": "wsd", "decay": 0.6, "warmup": 5}, "5 of warm-up and 6 of decay"),
        ({"kind": "one_cycle", "warmup": 2}, "one_cycle rises by itself"),
        ({"kind": "one_cycle", "start": 0.0}, "start must be above 0"),
        ({"kind": "one_cycle", "rise": 0.1}, "more than one update of the cycle"),
        ({"kind": "cyclical", "every": 0}, "every must be a whole number of updates"),
        ({"kind": "exponential", "end": 0.0}, "which never reaches 0"),
        ({"kind": "step", "gamma": 1.5}, "gamma must be above 0 up to 1"),
    ],
)
def test_a_wrong_argument_is_refused_in_words(words, message):
    with pytest.raises(ValueError, match=message):
        lr_schedule(**{"kind": "cosine", "updates": 10} | words)


# ---- how it prints ----


def test_its_table_names_the_settings_and_has_the_ends():
    schedule = lr_schedule("wsd", 100, warmup=10)
    summary, columns, rows = schedule.table()
    assert summary == "wsd, 100 updates, warmup=10, end=0, decay_updates=20"
    assert columns == ("update", "factor on the lr")
    assert rows[0] == (0, 1 / 11) and rows[-1] == (99, pytest.approx(0.05))
    assert (10, 1.0) in rows and str(schedule).startswith(summary)


def test_the_kind_of_a_product_names_its_parts():
    both = lr_schedule("cosine", 10) * lr_schedule("step", 10, past_end="hold")
    assert isinstance(both, Schedule) and both.kind == "cosine * step"


def test_its_picture_is_every_factor():
    schedule = lr_schedule("linear", 5)
    (line,) = schedule.plot().lines
    assert list(line.get_ydata()) == list_factors(schedule, 5)
