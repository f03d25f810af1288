"""What goes wrong with torch's schedulers, shown here, and does not go wrong with ours.

The first half of each test is torch's behaviour: if a new torch mends it, the test says so.
"""

import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from nbkit import Scheduled, lr_schedule


def make_sgd(lr=1.0, **options):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([parameter], lr=lr, **options)


def read_lr(optimizer):
    return optimizer.param_groups[0]["lr"]


def list_lrs(optimizer, count, scheduler=None):
    """The lr of each of the next updates."""
    lrs = []
    for _ in range(count):
        lrs.append(read_lr(optimizer))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return lrs


@pytest.fixture(autouse=True)
def quiet_torch():
    # torch warns about the order of calls where a scheduler is made again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_sequential(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def test_a_fresh_optimizer_goes_on_where_it_was():
    optimizer = make_sgd()
    scheduler = make_sequential(optimizer)
    whole = list_lrs(optimizer, 8, scheduler)
    optimizer = make_sgd()
    scheduler = make_sequential(optimizer)
    list_lrs(optimizer, 4, scheduler)
    fresh = make_sgd()
    again = make_sequential(fresh)
    again.load_state_dict(scheduler.state_dict())
    assert list_lrs(fresh, 4, again) != pytest.approx(whole[4:])  # torch computes from lr to lr

    schedule = lr_schedule("cosine", 8, warmup=3)
    optimizer = make_sgd()
    scheduled = Scheduled(optimizer, schedule)
    list_lrs(optimizer, 4)
    fresh = make_sgd()
    Scheduled(fresh, schedule).load_state_dict(scheduled.state_dict())
    assert list_lrs(fresh, 4) == [schedule(k) for k in range(4, 8)]


def test_past_its_end_a_cosine_does_not_rise_again():
    optimizer = make_sgd()
    lrs = list_lrs(optimizer, 11, lr_scheduler.CosineAnnealingLR(optimizer, 5))
    assert lrs[10] == pytest.approx(1.0)  # torch's is back at the top

    optimizer = make_sgd()
    Scheduled(optimizer, lr_schedule("cosine", 5, past_end="hold"))
    assert list_lrs(optimizer, 11)[5:] == [0.0] * 6


def test_a_schedule_of_micro_batches_is_not_cut_short():
    optimizer = make_sgd()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=40, cycle_momentum=False)
    assert list_lrs(optimizer, 10, scheduler)[-1] > 0.9  # made for 40, stepped 10 times: at its top

    optimizer = make_sgd()
    Scheduled(optimizer, lr_schedule("one_cycle", 10))
    for micro in range(40):
        if micro % 4 == 3:
            optimizer.step()
    assert read_lr(optimizer) == pytest.approx(4e-6)


def test_a_warm_up_times_a_function_keeps_the_warm_up():
    optimizer = make_sgd()
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k),
    ]
    chained = lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)
    assert list_lrs(optimizer, 3, chained) == [1.0, 0.5, 0.25]  # pytorch#82859

    rise = lr_schedule("constant", 6, warmup=3)
    fall = lr_schedule("exponential", 6, end=1 / 64)
    optimizer = make_sgd()
    Scheduled(optimizer, rise * fall)
    expected = [0.25, 0.5 / 2, 0.75 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert list_lrs(optimizer, 6) == pytest.approx(expected)


def test_momentum_and_betas_are_left_alone():
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    lr_scheduler.OneCycleLR(adam, 1.0, total_steps=10)
    assert adam.param_groups[0]["betas"][0] == 0.95

    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    Scheduled(adam, lr_schedule("one_cycle", 10))
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_state_of_other_length_is_not_taken_over_in_silence():
    short, long = make_sgd(), make_sgd()
    first = lr_scheduler.OneCycleLR(short, 1.0, total_steps=10)
    second = lr_scheduler.OneCycleLR(long, 1.0, total_steps=20)
    second.load_state_dict(first.state_dict())
    assert second.total_steps == 10

    saved = Scheduled(make_sgd(), lr_schedule("one_cycle", 10)).state_dict()
    with pytest.raises(ValueError, match="the same schedule"):
        Scheduled(make_sgd(), lr_schedule("one_cycle", 20)).load_state_dict(saved)


def test_a_state_knows_its_function():
    first = lr_scheduler.LambdaLR(make_sgd(), lambda k: 0.5**k)
    second = lr_scheduler.LambdaLR(make_sgd(), lambda k: 0.9**k)
    second.load_state_dict(first.state_dict())  # torch cannot tell

    saved = Scheduled(make_sgd(), lr_schedule("step", 10, gamma=0.5)).state_dict()
    with pytest.raises(ValueError, match="the same schedule"):
        Scheduled(make_sgd(), lr_schedule("step", 10, gamma=0.9)).load_state_dict(saved)


def test_a_group_that_is_added_later_breaks_nothing():
    optimizer = make_sgd()
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0})
    optimizer.step()
    with pytest.raises(ValueError, match="zip"):
        scheduler.step()

    optimizer = make_sgd()
    Scheduled(optimizer, lr_schedule("linear", 4))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0})
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.75]


def test_a_plateau_stands_beside_a_warm_up():
    optimizer = make_sgd()
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        rise = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
        lr_scheduler.SequentialLR(optimizer, [rise, plateau], [3])
    # That ours waits for the warm-up is shown in test_scheduled.py.


# ---- timm 1.0.31 and transformers: the tests need neither, what they did is in the comments ----


def test_the_peak_is_reached_behind_a_warm_up():
    # timm's default (warmup_prefix=False) jumps from 0.67 to 0.79 and never reaches the peak.
    schedule = lr_schedule("cosine", 10, warmup=3)
    assert max(schedule(k) for k in range(10)) == 1.0
    rises = [schedule(k + 1) - schedule(k) for k in range(3)]
    assert rises == pytest.approx([0.25] * 3)


def test_the_first_lr_is_that_of_update_0_and_after_resuming_that_of_the_count():
    # timm trains the first batch at the full lr, and after resuming at the base lr.
    schedule = lr_schedule("linear", 10, warmup=4)
    optimizer = make_sgd()
    scheduled = Scheduled(optimizer, schedule)
    assert read_lr(optimizer) == pytest.approx(0.2)
    list_lrs(optimizer, 6)
    fresh = make_sgd()
    Scheduled(fresh, schedule).load_state_dict(scheduled.state_dict())
    assert read_lr(fresh) == schedule(6) < 1


def test_no_update_is_wasted_at_an_lr_of_0():
    # step / warmup gives 0 in the first update: verl#3674, torchtitan PR 1261.
    for warmup in (0, 1, 5):
        schedule = lr_schedule("wsd", 20, warmup=warmup)
        assert all(schedule(k) > 0 for k in range(20))


def test_wsd_needs_no_stable_updates_by_hand():
    # transformers' get_wsd_schedule asks for num_stable_steps (transformers#34905).
    schedule = lr_schedule("wsd", 100, warmup=10)
    assert sum(schedule(k) == 1.0 for k in range(100)) == 100 - 10 - 19
    assert math.isclose(schedule(99), 1 / 20)
