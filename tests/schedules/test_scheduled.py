"""The lr follows the updates that were really made: accumulated, skipped, resumed, past the end."""

import copy
import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbkit import (
    Amp,
    Plateau,
    PlateauVerdict,
    Scheduled,
    accumulate,
    lr_groups,
    lr_schedule,
    make_optimizer,
    preserve_state,
)
from nbkit.schedules.shapes import KINDS

N = 9


def make_parameter():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return parameter


def make_sgd(*lrs, **options):
    """An optimizer with a group for each lr."""
    groups = [{"params": [make_parameter()], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, lr=7.0, **options)


def read_lrs(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


class LrLog:
    """The lrs with which each step of an optimizer was made."""

    def __init__(self, optimizer):
        self.lrs = []
        step = optimizer.step

        def logged(*arguments, **options):
            before = [parameter.detach().clone() for parameter in self.parameters]
            step(*arguments, **options)
            moves = []
            for old, parameter in zip(before, self.parameters, strict=True):
                moves.append((old - parameter.detach())[0].item())  # gradients are 1
            self.lrs.append(moves)

        optimizer.step = logged
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("kind", KINDS)
def test_each_update_moves_by_base_lr_times_factor(kind):
    optimizer, schedule = make_sgd(0.5, 0.25), lr_schedule(kind, N)
    log = LrLog(optimizer)
    scheduled = Scheduled(optimizer, schedule)
    for _ in range(N):
        optimizer.step()
    expected = [[0.5 * schedule(k), 0.25 * schedule(k)] for k in range(N)]
    for made, wanted in zip(log.lrs, expected, strict=True):
        assert made == pytest.approx(wanted, abs=1e-6)
    assert scheduled.count == N


def test_between_steps_the_group_has_the_lr_of_the_next_one():
    optimizer, schedule = make_sgd(2.0), lr_schedule("linear", 4, warmup=1)
    scheduled = Scheduled(optimizer, schedule)
    for update in range(4):
        assert read_lrs(optimizer) == scheduled.lrs == [2.0 * schedule(update)]
        optimizer.step()


def test_accumulated_micro_batches_are_not_counted():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduled = Scheduled(optimizer, lr_schedule("cosine", 3))
    for window in accumulate(torch.randn(10, 4, 3), 4):  # 4, 4 and 2 batches
        optimizer.zero_grad()
        for micro in window:
            (model(micro.batch).mean() * micro.weight).backward()
        optimizer.step()
    assert scheduled.count == 3
    assert scheduled.factor == 0.0  # a cosine made for micro-batches would be at 0.79


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_skipped_steps_of_a_loss_scale_are_not_counted(kind, fused):
    weight = nn.Parameter(torch.ones(2))
    optimizer = kind([weight], lr=0.1, fused=fused)
    schedule = lr_schedule("linear", 10)
    scheduled = Scheduled(optimizer, schedule)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    made = 0
    for size in (1.0, 1e37, 1.0, 1e37, 1e37, 1.0):
        optimizer.zero_grad()
        before = weight.detach().clone()
        scaler.scale((weight * size).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        made += not torch.equal(before, weight.detach())
        assert scheduled.count == made
        assert read_lrs(optimizer) == [0.1 * schedule(made)]
    assert made == 3


def test_skipped_steps_of_amp_are_not_counted():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduled, amp = Scheduled(optimizer, lr_schedule("linear", 10)), Amp("fp16", "cpu")
    stepped = 0
    for size in (1e37, 1.0, 1e37, 1.0):
        optimizer.zero_grad()
        amp.backward((weight * size).sum())
        stepped += amp.step(optimizer).stepped
    assert scheduled.count == stepped == 2


def test_a_step_that_raises_is_not_counted():
    optimizer = make_sgd(0.1)
    scheduled = Scheduled(optimizer, lr_schedule("linear", 4))

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fail)
    assert scheduled.count == 0 and read_lrs(optimizer) == [0.1]


# ---- past the end ----


def test_a_step_past_the_end_raises_before_it_changes_anything():
    optimizer = make_sgd(0.1)
    scheduled = Scheduled(optimizer, lr_schedule("constant", 2))
    optimizer.step()
    optimizer.step()
    weight = optimizer.param_groups[0]["params"][0]
    before = weight.detach().clone()
    with pytest.raises(ValueError, match=r"has ended after 2 updates.*nothing was changed"):
        optimizer.step()
    assert torch.equal(weight.detach(), before) and scheduled.count == 2


def test_or_it_holds_the_last_factor():
    optimizer = make_sgd(1.0)
    scheduled = Scheduled(optimizer, lr_schedule("linear", 2, end=0.25, past_end="hold"))
    for _ in range(5):
        optimizer.step()
    assert scheduled.count == 5 and read_lrs(optimizer) == [0.25]


# ---- groups, betas, other hands ----


def test_a_group_that_is_added_later_follows_from_its_next_step_on():
    optimizer, schedule = make_sgd(1.0), lr_schedule("linear", 4)
    scheduled = Scheduled(optimizer, schedule)
    optimizer.step()
    late = make_parameter()
    optimizer.add_param_group({"params": [late], "lr": 0.5})
    assert scheduled.lrs == [0.75, 0.375]
    optimizer.step()
    assert late.tolist() == pytest.approx([1 - 0.5 * 0.75] * 2)
    assert read_lrs(optimizer) == [0.5, 0.25]


def test_momentum_and_betas_stay():
    for kind in KINDS:
        adam = torch.optim.Adam([make_parameter()], lr=0.1, betas=(0.8, 0.99))
        sgd = make_sgd(0.1, momentum=0.99)
        Scheduled(adam, lr_schedule(kind, 4))
        Scheduled(sgd, lr_schedule(kind, 4))
        adam.step()
        sgd.step()
        assert adam.param_groups[0]["betas"] == (0.8, 0.99)
        assert sgd.param_groups[0]["momentum"] == 0.99


def test_an_lr_that_somebody_else_sets_is_overwritten():
    optimizer = make_sgd(1.0)
    Scheduled(optimizer, lr_schedule("constant", 4))
    optimizer.param_groups[0]["lr"] = 100.0
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0].tolist() == [0.0, 0.0]


def test_an_lr_that_is_a_tensor_is_filled_in_place():
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam([make_parameter()], lr=lr)
    scheduled = Scheduled(optimizer, lr_schedule("linear", 4))
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is lr and lr.item() == 0.375
    scheduled.close()
    assert lr.item() == 0.5


# ---- a resumed training ----


def take_steps(optimizer, log, count):
    for _ in range(count):
        optimizer.step()
    return log.lrs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", range(N + 1))
def test_a_training_is_resumed_exactly_after_every_update(kind, stop):
    schedule = lr_schedule(kind, N)
    optimizer = make_sgd(0.5, 0.25)
    log = LrLog(optimizer)
    scheduled = Scheduled(optimizer, schedule)
    take_steps(optimizer, log, stop)
    saved = pickle.loads(pickle.dumps(scheduled.state_dict()))
    weights = [parameter.detach().clone() for parameter in log.parameters]
    whole = take_steps(optimizer, log, N - stop)

    # A new process: the optimizer is fresh, and only the schedule's state is loaded.
    fresh = make_sgd(0.5, 0.25)
    fresh_log = LrLog(fresh)
    for parameter, weight in zip(fresh_log.parameters, weights, strict=True):
        parameter.data.copy_(weight)
    again = Scheduled(fresh, lr_schedule(kind, N))
    again.load_state_dict(saved)
    assert read_lrs(fresh) == [0.5 * schedule(stop), 0.25 * schedule(stop)]
    assert take_steps(fresh, fresh_log, N - stop) == whole[stop:]


@pytest.mark.parametrize("order", ["optimizer first", "schedule first", "made after"])
def test_the_order_of_loading_does_not_matter(order):
    optimizer, schedule = make_sgd(0.5), lr_schedule("linear", N)
    scheduled = Scheduled(optimizer, schedule)
    take_steps(optimizer, LrLog(optimizer), 3)
    saved, state = copy.deepcopy(optimizer.state_dict()), scheduled.state_dict()

    fresh = make_sgd(0.5)
    if order == "made after":  # its groups then have the lr of update 3
        fresh.load_state_dict(saved)
    again = Scheduled(fresh, schedule)
    if order == "optimizer first":
        fresh.load_state_dict(saved)
    again.load_state_dict(state)
    if order == "schedule first":
        fresh.load_state_dict(saved)
    lrs = []
    for _ in range(3):
        lrs.append(read_lrs(fresh)[0])
        fresh.step()
    assert lrs == [0.5 * schedule(k) for k in (3, 4, 5)]


def test_a_state_is_json_and_refuses_another_schedule():
    optimizer = make_sgd(0.5)
    scheduled = Scheduled(optimizer, lr_schedule("cosine", 10))
    optimizer.step()
    state = json.loads(json.dumps(scheduled.state_dict()))
    other = Scheduled(make_sgd(0.5), lr_schedule("cosine", 20))
    with pytest.raises(ValueError, match="state of the same schedule"):
        other.load_state_dict(state)
    assert other.count == 0
    with pytest.raises(ValueError, match="state of the same plateau"):
        Scheduled(make_sgd(0.5), lr_schedule("cosine", 10), plateau=Plateau()).load_state_dict(
            state
        )
    same = Scheduled(make_sgd(0.5), lr_schedule("cosine", 10))
    same.load_state_dict(state)
    assert same.count == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 99}, "count must be from 0 to the 10 updates"),
        ({"count": -1}, "count must be from 0"),
        ({"base_lrs": [0.1, 0.2]}, "base lrs of at most 1 parameter groups"),
        ({"base_lrs": ["x"]}, "base lrs of at most"),
        ({"count": None}, "count must be"),
    ],
)
def test_a_broken_state_changes_nothing(change, message):
    scheduled = Scheduled(make_sgd(0.5), lr_schedule("cosine", 10))
    before = scheduled.state_dict()
    with pytest.raises(ValueError, match=message):
        scheduled.load_state_dict(before | change)
    assert scheduled.state_dict() == before
    del before["schedule"]
    with pytest.raises(ValueError, match="it has no schedule"):
        scheduled.load_state_dict(before)


# ---- the plateau ----


def test_a_plateau_waits_for_the_warm_up_and_then_multiplies():
    optimizer = make_sgd(1.0)
    schedule = lr_schedule("constant", 20, warmup=4, past_end="hold")
    scheduled = Scheduled(optimizer, schedule, plateau=Plateau(0.1, patience=1))
    lrs, verdicts = [], []
    for _ in range(9):
        lrs.append(read_lrs(optimizer)[0])
        optimizer.step()
        verdicts.append(scheduled.validate(1.0))
    # Updates 0 to 3 rise; torch's plateau beside a warm-up cuts in the middle of it.
    assert lrs[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert verdicts == ["warm-up"] * 3 + ["better", "waiting", "cut", "waiting", "cut", "waiting"]
    assert lrs[5:] == pytest.approx([1.0, 0.1, 0.1, 0.01][: len(lrs[5:])])
    assert scheduled.cuts == 2 and verdicts[0] is PlateauVerdict.WARMUP


def test_a_plateau_is_resumed_exactly():
    metrics = [1.0, 0.5, 0.5, math.nan, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2]
    plateau, schedule = Plateau(0.5, patience=1), lr_schedule("linear", 10)

    def drive(scheduled, values):
        lrs = []
        for value in values:
            scheduled.optimizer.step()
            scheduled.validate(value)
            lrs.append(scheduled.lrs[0])
        return lrs

    whole = drive(Scheduled(make_sgd(1.0), schedule, plateau=plateau), metrics)
    assert len(set(whole)) > 3
    for stop in range(len(metrics)):
        first = Scheduled(make_sgd(1.0), schedule, plateau=plateau)
        drive(first, metrics[:stop])
        second = Scheduled(make_sgd(1.0), schedule, plateau=plateau)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert drive(second, metrics[stop:]) == whole[stop:]


def test_validate_is_refused_without_a_plateau_and_after_close():
    with pytest.raises(ValueError, match="validate needs a plateau"):
        Scheduled(make_sgd(1.0), lr_schedule("constant", 5)).validate(1.0)
    scheduled = Scheduled(make_sgd(1.0), lr_schedule("constant", 5, warmup=2), plateau=Plateau())
    with pytest.raises(TypeError, match="one number"):
        scheduled.validate("low")  # during the warm-up, too
    scheduled.close()
    with pytest.raises(ValueError, match="it was closed"):
        scheduled.validate(1.0)
    with pytest.raises(ValueError, match="it was closed"):
        scheduled.load_state_dict(scheduled.state_dict())


# ---- leaving ----


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaving_restores_the_base_lrs_and_lets_go(error):
    optimizer = make_sgd(0.5, 0.25)
    try:
        with Scheduled(optimizer, lr_schedule("linear", 3)) as scheduled:
            optimizer.step()
            assert read_lrs(optimizer) != [0.5, 0.25]
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert read_lrs(optimizer) == [0.5, 0.25]
    for _ in range(5):  # more than the schedule has
        optimizer.step()
    assert scheduled.count == 1 and read_lrs(optimizer) == [0.5, 0.25]
    optimizer.param_groups[0]["lr"] = 0.1
    scheduled.close()  # a second time: nothing happens
    assert read_lrs(optimizer) == [0.1, 0.25]
    Scheduled(optimizer, lr_schedule("linear", 3))


def test_preserve_state_puts_the_count_back():
    optimizer = make_sgd(0.5)
    scheduled = Scheduled(optimizer, lr_schedule("linear", 10))
    optimizer.step()
    with preserve_state(optimizer, scheduled):
        optimizer.step()
        optimizer.step()
    assert scheduled.count == 1 and read_lrs(optimizer) == pytest.approx([0.45])
    optimizer.step()
    assert scheduled.count == 2


# ---- refusals, before anything is changed ----


def test_wrong_arguments_are_refused():
    optimizer, schedule = make_sgd(0.5), lr_schedule("linear", 3)
    with pytest.raises(TypeError, match="expected an optimizer of torch.optim, got a Linear"):
        Scheduled(nn.Linear(1, 1), schedule)
    with pytest.raises(TypeError, match=r"expected a Schedule from lr_schedule.*LambdaLR"):
        Scheduled(optimizer, lambda update: 1.0)
    with pytest.raises(TypeError, match="plateau must be a Plateau"):
        Scheduled(optimizer, schedule, plateau=0.1)
    assert read_lrs(optimizer) == [0.5]
    assert not optimizer._optimizer_step_pre_hooks


def test_a_second_one_on_the_same_optimizer_is_refused():
    optimizer = make_sgd(0.5)
    Scheduled(optimizer, lr_schedule("linear", 3))
    with pytest.raises(ValueError, match=r"has one already: close\(\) it first"):
        Scheduled(optimizer, lr_schedule("linear", 3))
    assert len(optimizer._optimizer_step_pre_hooks) == 1


# ---- how it prints ----


def test_its_table_says_where_the_training_stands():
    optimizer = make_sgd(0.5, 0.25)
    scheduled = Scheduled(optimizer, lr_schedule("linear", 4), plateau=Plateau())
    optimizer.step()
    summary, _, rows = scheduled.table()
    assert summary.startswith("1 of 4 updates made; the next lr is 0.75 of the base lr; linear, 4")
    assert summary.endswith("lowered 0 times by the plateau")
    assert rows == [(0, 0.5, 0.375), (1, 0.25, 0.1875)]
    assert json.dumps(scheduled.to_dict())
    ax = scheduled.plot()
    assert len(ax.lines) == 2 and list(ax.lines[1].get_xdata()) == [1, 1]


@given(st.lists(st.sampled_from(["step", "skip", "look"]), max_size=40))
def test_whatever_happens_the_count_is_the_number_of_steps(events):
    optimizer = make_sgd(1.0)
    schedule = lr_schedule("cyclical", 50)
    scheduled, made = Scheduled(optimizer, schedule), 0
    for event in events:
        if event == "step":
            optimizer.step()
            made += 1
        elif event == "look":
            assert scheduled.lrs == [schedule(made)]
    assert scheduled.count == made and read_lrs(optimizer) == [schedule(made)]


def test_muon_with_adamw_is_one_optimizer_and_counts_once_a_step():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = make_optimizer(model, "muon", 0.1, weight_decay=0.0, batch=torch.randn(2, 8))
    bases, schedule = read_lrs(optimizer), lr_schedule("linear", 4)
    scheduled = Scheduled(optimizer, schedule)
    for update in range(4):
        assert read_lrs(optimizer) == [base * schedule(update) for base in bases]
        before = model[0].weight.detach().clone()
        model(torch.randn(2, 8)).sum().backward()
        optimizer.step()
        assert not torch.equal(before, model[0].weight.detach())
    assert scheduled.count == 4


def test_layer_wise_lrs_keep_their_proportions():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    groups = lr_groups(model, 0.1, decay=0.5, batch=torch.randn(2, 8))
    optimizer = torch.optim.SGD(groups)
    bases = read_lrs(optimizer)
    Scheduled(optimizer, lr_schedule("linear", 4))
    optimizer.step()
    assert read_lrs(optimizer) == [0.75 * base for base in bases] and len(set(bases)) == 2
