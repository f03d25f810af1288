"""The range test: what it records, when it stops, what it leaves alone, what it suggests."""

import copy
import json
import math
import subprocess
import sys
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from nbkit.base.state import digest
from nbkit.lr_finder import StopReason, lr_range_test
from nbkit.lr_finder.curve import LRCurve
from nbkit.lr_finder.range_test import MAX_SKIPS
from nbkit.lr_finder.suggest import METHODS

MSE = nn.MSELoss()


def pairs(count=4, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, generator=generator), torch.randn(size, 1, generator=generator))
        for _ in range(count)
    ]


def linear(lr=0.1, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, torch.optim.SGD(model.parameters(), lr=lr, **options)


class Scripted(nn.Module):
    """A model whose losses are given in advance: `step(batch)` returns the next one."""

    def __init__(self, losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = iter(losses)

    def step(self, batch):
        return next(self.losses) + 0.0 * self.weight


def scripted(losses, **options):
    model = Scripted(losses)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return lr_range_test(
        model, optimizer, [None], step=model.step, num_steps=len(losses), **options
    )


def curve_of(losses, low=1e-7, high=10.0, stop_reason="finished"):
    """The curve of a run with these losses on a ladder from low to high."""
    curve = LRCurve(stop_reason=stop_reason)
    for i, loss in enumerate(losses):
        curve.record([low * (high / low) ** (i / (len(losses) - 1))], loss)
    return curve


def valley(i, fall=50, rise=75, depth=2.0):
    """A loss that falls around one rung and explodes after another."""
    return 2.3 - depth / (1 + math.exp((fall - i) / 3)) + math.exp(min((i - rise) / 2, 30))


STILL_FALLING = [3 - 2 * math.exp((i - 99) / 8) for i in range(100)]  # and ever faster


# What is recorded


def test_the_ladder_has_exactly_its_rungs_and_the_update_uses_what_is_recorded():
    model, optimizer = linear()
    used = []
    optimizer.register_step_pre_hook(lambda opt, *_: used.append(opt.param_groups[0]["lr"]))
    curve = lr_range_test(model, optimizer, pairs(), MSE, min_lr=1e-5, max_lr=1e-3, num_steps=21)
    assert curve.lrs == used
    assert curve.lrs == pytest.approx([1e-5 * 100 ** (i / 20) for i in range(21)], rel=1e-12)
    assert (curve.lrs[0], curve.lrs[-1]) == pytest.approx((1e-5, 1e-3), rel=1e-12)
    assert (curve.stop_reason, len(curve.losses)) == ("finished", 21)


def test_the_losses_are_those_of_the_same_loop_by_hand():
    model, optimizer = linear(momentum=0.9)
    curve = lr_range_test(model, optimizer, pairs(), MSE, min_lr=1e-4, max_lr=0.1, num_steps=30)
    losses = []
    for i in range(30):
        x, y = pairs()[i % 4]
        optimizer.param_groups[0]["lr"] = 1e-4 * (0.1 / 1e-4) ** (i / 29)
        loss = MSE(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert curve.losses == losses


def test_groups_keep_their_ratios_and_each_lr_is_recorded():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 0.2},
        {"params": model[1].parameters(), "lr": 0.02},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    used = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: used.append([g["lr"] for g in opt.param_groups])
    )
    curve = lr_range_test(model, optimizer, pairs(), MSE, min_lr=1e-4, max_lr=1e-2, num_steps=5)
    assert curve.group_lrs == used
    assert [first for first, _ in curve.group_lrs] == curve.lrs
    assert [second / first for first, second in used] == pytest.approx([0.1] * 5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.02]


def test_a_first_lr_of_zero_has_no_ratios():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[1].parameters()}]
    with pytest.raises(ValueError, match=r"the first lr must not be 0.*got \[0\.0, 0\.1\]"):
        lr_range_test(model, torch.optim.SGD(groups, lr=0.1), pairs(), MSE)


def test_equal_lrs_of_zero_as_a_warmup_leaves_them_are_fine():
    model, optimizer = linear(lr=0.0)
    assert lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-3, num_steps=4).lrs[0] == 1e-7


def test_a_tensor_lr_is_filled_in_place():
    model = nn.Linear(3, 1)
    lr = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    seen = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append((opt.param_groups[0]["lr"] is lr, float(lr)))
    )
    curve = lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-2, num_steps=4)
    assert [same for same, _ in seen] == [True] * 4
    assert [value for _, value in seen] == pytest.approx(curve.lrs)
    assert optimizer.param_groups[0]["lr"] is lr and float(lr) == pytest.approx(0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
def test_a_constant_loss_gives_a_constant_curve_at_every_index(smoothing):
    curve = scripted([0.3] * 40, smoothing=smoothing)
    assert curve.smoothed == curve.losses


def test_the_smoothed_loss_is_the_debiased_moving_average():
    losses = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    curve = scripted(losses, smoothing=0.8)
    average, expected = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = 0.8 * average + 0.2 * loss
        expected.append(average / (1 - 0.8**count))
    assert curve.smoothed == pytest.approx(expected)


# When it stops


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_recorded(broken):
    curve = scripted([2.0] * 12 + [broken] + [2.0] * 20)
    assert curve.stop_reason == "nonfinite"
    assert curve.losses == [2.0] * 12 and len(curve.lrs) == len(curve.group_lrs) == 12


def falling_then_exploding():
    return [valley(i) for i in range(100)]


def test_divergence_stops_the_run_soon_after_the_valley():
    curve = scripted(falling_then_exploding())
    assert curve.stop_reason == "diverged"
    assert 76 < len(curve.losses) < 90


@pytest.mark.parametrize("shift", [-2.3, -100.0, 1000.0])
def test_a_loss_at_or_below_zero_diverges_at_the_same_rung(shift):
    usual = scripted(falling_then_exploding())
    shifted = scripted([loss + shift for loss in falling_then_exploding()])
    assert (shifted.stop_reason, len(shifted.lrs)) == ("diverged", len(usual.lrs))


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_divergence(seed):
    generator = torch.Generator().manual_seed(seed)
    losses = (2.3 + 0.1 * torch.randn(200, generator=generator)).tolist()
    assert scripted(losses).stop_reason == "finished"


def test_stop_factor_inf_climbs_to_the_end():
    curve = scripted(falling_then_exploding(), stop_factor=math.inf)
    assert (curve.stop_reason, len(curve.lrs)) == ("finished", 100)


def test_a_list_is_begun_again_and_a_generator_ends_the_run():
    model, optimizer = linear()
    options = {"max_lr": 1e-3, "num_steps": 9}
    assert len(lr_range_test(model, optimizer, pairs(4), MSE, **options).lrs) == 9
    curve = lr_range_test(model, optimizer, iter(pairs(4)), MSE, **options)
    assert (curve.stop_reason, len(curve.lrs)) == ("exhausted", 4)
    curve = lr_range_test(model, optimizer, (pair for pair in ()), MSE, **options)
    assert (curve.stop_reason, curve.lrs, curve.suggest()) == ("exhausted", [], None)


class Once:
    """Batches that can be iterated over once, and say so."""

    begun = False

    def __iter__(self):
        if self.begun:
            raise RuntimeError("a pipe is read once")
        self.begun = True
        return iter(pairs(4))


def test_batches_that_refuse_a_second_pass_end_the_run():
    model, optimizer = linear()
    with pytest.warns(UserWarning, match=r"cannot be begun again: RuntimeError\('a pipe is read"):
        curve = lr_range_test(model, optimizer, Once(), MSE, max_lr=1e-3, num_steps=9)
    assert (curve.stop_reason, len(curve.lrs)) == ("exhausted", 4)


def test_batches_that_refuse_the_first_pass_or_break_in_one_are_an_error():
    model, optimizer = linear()
    with pytest.raises(TypeError, match="not iterable"):
        lr_range_test(model, optimizer, 3, MSE)
    used = Once()
    iter(used)
    with pytest.raises(RuntimeError, match="a pipe is read once"):
        lr_range_test(model, optimizer, used, MSE)


def test_an_iterator_is_drawn_from_no_further_than_needed():
    model, optimizer = linear()
    stream = iter(pairs(20))
    lr_range_test(model, optimizer, stream, MSE, max_lr=1e-3, num_steps=3, accumulation_steps=2)
    assert len(list(stream)) == 14


# fp16: a step that the scaler skips


def overflow_in(model, updates):
    """Make the gradient infinite in these backward passes, counted from 0; not the loss."""
    calls = iter(range(10_000))
    model.weight.register_hook(lambda grad: grad * math.inf if next(calls) in updates else grad)


class FixedScale(torch.amp.GradScaler):
    """Its scale never moves, so a comparison of scales sees no skip."""

    def update(self, new_scale=None):
        super().update(new_scale=1024.0)


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, FixedScale])
def test_a_skipped_step_takes_no_rung_and_leaves_no_point(kind):
    model, optimizer = linear()
    plain = lr_range_test(model, optimizer, pairs(6), MSE, max_lr=1e-3, num_steps=6)
    overflow_in(model, {0, 3})
    two_more = [pairs(6)[0], *pairs(6)[:2], pairs(6)[0], *pairs(6)[2:]]
    scaler = kind("cpu", init_scale=1024.0)
    curve = lr_range_test(model, optimizer, two_more, MSE, max_lr=1e-3, num_steps=6, scaler=scaler)
    assert (curve.skipped, plain.skipped) == (2, 0)
    assert curve.lrs == plain.lrs
    assert curve.losses == pytest.approx(plain.losses, rel=1e-5)
    assert "2 fp16 steps skipped" in str(curve)


def test_gradients_that_no_scale_helps_end_the_run():
    model, optimizer = linear()
    overflow_in(model, range(10_000))
    scaler = torch.amp.GradScaler("cpu")
    curve = lr_range_test(model, optimizer, pairs(), MSE, scaler=scaler)
    assert (curve.stop_reason, curve.lrs, curve.skipped) == ("nonfinite", [], MAX_SKIPS)
    assert f"the loss or the gradients ({MAX_SKIPS} fp16 steps skipped) held" in curve.explain()
    assert scaler.get_scale() == 2.0**16


def test_skips_that_are_not_in_a_row_do_not_add_up():
    model, optimizer = linear()
    overflow_in(model, range(0, 200, 2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    curve = lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-3, num_steps=40, scaler=scaler)
    assert (curve.stop_reason, curve.skipped) == ("finished", 40)


def test_a_disabled_scaler_changes_nothing():
    model, optimizer = linear()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    options = {"max_lr": 1e-2, "num_steps": 8}
    assert lr_range_test(model, optimizer, pairs(), MSE, **options) == lr_range_test(
        model, optimizer, pairs(), MSE, scaler=scaler, **options
    )


# Accumulation


def test_a_window_has_the_loss_and_the_gradient_of_its_batches_joined():
    x, y = torch.randn(18, 3), torch.randn(18, 1)
    model, optimizer = linear()
    grads = []
    optimizer.register_step_pre_hook(lambda *_: grads.append(model.weight.grad.clone()))
    options = {"max_lr": 0.5, "min_lr": 0.1, "num_steps": 5}
    ragged = list(zip(x.split([8, 8, 2]), y.split([8, 8, 2]), strict=True))
    curve = lr_range_test(model, optimizer, ragged, MSE, accumulation_steps=3, **options)
    whole = lr_range_test(model, optimizer, [(x, y)], MSE, **options)
    assert curve.losses == pytest.approx(whole.losses, rel=1e-5)
    assert torch.allclose(torch.stack(grads[:5]), torch.stack(grads[5:]), rtol=1e-4, atol=1e-6)


@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor


class Items(Mapping):
    """A mapping that is neither a dict nor a UserDict."""

    def __init__(self, **items):
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


@pytest.mark.parametrize("kind", [dict, UserDict, Items, Batch])
def test_a_batch_counts_by_its_rows_and_not_by_its_keys(kind):
    """Of two and of six rows, with two keys each."""
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    model, optimizer = linear()

    def step(batch):
        x, y = (batch.x, batch.y) if kind is Batch else (batch["x"], batch["y"])
        return MSE(model(x), y)

    batches = [kind(x=x[:2], y=y[:2]), kind(x=x[2:], y=y[2:])]
    options = {"max_lr": 0.5, "min_lr": 0.1, "num_steps": 3}
    curve = lr_range_test(model, optimizer, batches, step=step, accumulation_steps=2, **options)
    whole = lr_range_test(model, optimizer, [(x, y)], MSE, **options)
    assert curve.losses == pytest.approx(whole.losses, rel=1e-5)


def test_the_last_window_of_a_generator_may_be_short():
    model, optimizer = linear()
    curve = lr_range_test(
        model, optimizer, iter(pairs(5)), MSE, max_lr=1e-5, num_steps=9, accumulation_steps=2
    )
    assert (curve.stop_reason, len(curve.lrs)) == ("exhausted", 3)
    x, y = pairs(5)[4]
    assert curve.losses[2] == pytest.approx(MSE(model(x), y).item(), rel=1e-3)


class OwnBatch:
    def __init__(self, pair):
        self.x, self.y = pair

    def __len__(self):
        return len(self.x)


def test_step_takes_dicts_and_own_batch_types():
    model, optimizer = linear()
    options = {"max_lr": 0.1, "num_steps": 6, "accumulation_steps": 2}
    expected = lr_range_test(model, optimizer, pairs(), MSE, **options)

    def dict_step(batch):
        return MSE(model(batch["x"]), batch["y"])

    dicts = [{"x": x, "y": y} for x, y in pairs()]
    assert lr_range_test(model, optimizer, dicts, step=dict_step, **options) == expected

    def own_step(batch):
        return MSE(model(batch.x), batch.y)

    own = [OwnBatch(pair) for pair in pairs()]
    assert lr_range_test(model, optimizer, own, None, step=own_step, **options) == expected


class NoLength:
    def __init__(self, pair):
        self.x, self.y = pair


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NoLength, "a NoLength does not tell.*len.. is that number.*has no len"),
        (lambda pair: {"x": pair[0], "ends": torch.tensor([3, 5])}, r"a dict of 2 does.*\[2, 8\]"),
        (lambda pair: pair[0].sum().item(), "a float does not tell"),
    ],
)
def test_batches_of_unknown_length_cannot_be_accumulated(kind, message):
    model, optimizer = linear()
    before = digest(model, optimizer)

    def step(batch):
        return model.weight.sum()

    batches = [kind(pair) for pair in pairs()]
    with pytest.raises(TypeError, match=f"(?s)accumulation_steps above 1.*{message}"):
        lr_range_test(model, optimizer, batches, step=step, accumulation_steps=2)
    assert digest(model, optimizer) == before
    curve = lr_range_test(model, optimizer, batches, step=step, max_lr=1e-3, num_steps=3)
    assert curve.stop_reason == "finished"  # each by itself needs no length


# What it refuses, before anything is touched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_lr": 0.0}, r"0 < min_lr < max_lr.*min_lr=0\.0"),
        ({"min_lr": 1.0, "max_lr": 1.0}, r"min_lr=1\.0, max_lr=1\.0"),
        ({"max_lr": math.inf}, "both finite"),
        ({"max_lr": math.nan}, "max_lr=nan"),
        ({"num_steps": 1}, "num_steps must be at least 2.*got 1"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, got 0"),
        ({"smoothing": 1.0}, r"smoothing must be .* below 1, got 1\.0"),
        ({"stop_factor": 0.0}, r"stop_factor must be above 0.*got 0\.0"),
        ({"stop_factor": math.nan}, "stop_factor .* got nan"),
    ],
)
def test_a_number_out_of_range_is_refused_before_a_batch_is_drawn(options, message):
    model, optimizer = linear()
    stream = iter(pairs())
    with pytest.raises(ValueError, match=message):
        lr_range_test(model, optimizer, stream, MSE, **options)
    assert len(list(stream)) == 4


def test_exactly_one_of_loss_fn_and_step():
    model, optimizer = linear()
    with pytest.raises(TypeError, match="give loss_fn.* or step.*got neither"):
        lr_range_test(model, optimizer, pairs())
    with pytest.raises(TypeError, match="got both"):
        lr_range_test(model, optimizer, pairs(), MSE, step=lambda batch: None)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (1.0, "got a float"),
        (torch.zeros(2, requires_grad=True), r"got a tensor of shape \(2,\), requires_grad=True"),
        (torch.zeros(()), r"got a tensor of shape \(\), requires_grad=False"),
        (None, "got a NoneType"),
    ],
)
def test_a_step_must_return_the_loss(result, message):
    model, optimizer = linear()
    with pytest.raises(TypeError, match=message):
        lr_range_test(model, optimizer, pairs(), step=lambda batch: result)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": 1}, "pairs .* got a dict of 1.*Give step"),
        (torch.zeros(2, 3), "got a tensor of shape"),
        ((1, 2, 3), "got a tuple of 3"),
    ],
)
def test_loss_fn_needs_pairs(batch, message):
    model, optimizer = linear()
    with pytest.raises(TypeError, match=message):
        lr_range_test(model, optimizer, [batch], MSE)


# What it leaves alone


class Everything:
    """A model with dropout, a frozen BatchNorm and gradients, an optimizer in the middle of a run
    with a scheduler, a scaler, and a shuffled loader."""

    def __init__(self):
        torch.manual_seed(1)
        self.model = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8), nn.BatchNorm1d(8),
            nn.Linear(8, 1),
        )  # fmt: skip
        self.model[1].eval()
        self.model[0].bias.requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        x = torch.cat([x for x, _ in pairs(4)])
        self.loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8, shuffle=True)
        self.train(3)

    def train(self, steps):
        """Ordinary training; returns its losses."""
        losses = []
        while len(losses) < steps:
            for x, y in self.loader:
                self.optimizer.zero_grad()
                loss = MSE(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                losses.append(loss.item())
        return losses

    def digest(self):
        return digest(self.model, self.optimizer, self.scheduler, self.scaler)

    def range_test(self, loss_fn=MSE, batches=None, **options):
        batches = self.loader if batches is None else batches
        options = {"max_lr": 0.1, "num_steps": 12, "scaler": self.scaler} | options
        return lr_range_test(self.model, self.optimizer, batches, loss_fn, **options)


def failing(error, after):
    calls = iter(range(1000))

    def loss_fn(output, target):
        if next(calls) == after:
            raise error
        return MSE(output, target)

    return loss_fn


def nan_after(count):
    calls = iter(range(1000))
    return lambda output, target: MSE(output, target) * (math.nan if next(calls) >= count else 1)


EXITS = {
    "finished": lambda run: run.range_test(),
    "diverged": lambda run: run.range_test(max_lr=1e4, num_steps=60, min_lr=1e-3),
    "nonfinite": lambda run: run.range_test(nan_after(5)),
    "exhausted": lambda run: run.range_test(batches=iter(pairs(4))),
    "error": lambda run: run.range_test(failing(RuntimeError("mine"), 5)),
    "interrupt": lambda run: run.range_test(failing(KeyboardInterrupt(), 5)),
    "error in the batches": lambda run: run.range_test(batches=[pairs(1)[0], None]),
}


@pytest.mark.parametrize("name", EXITS)
def test_every_way_out_restores_everything(name):
    run = Everything()
    before = run.digest()
    try:
        assert EXITS[name](run).stop_reason == name
    except (RuntimeError, KeyboardInterrupt, TypeError):
        assert name in ("error", "interrupt", "error in the batches")
    assert run.digest() == before


def test_the_training_after_it_is_the_training_without_it():
    plain, tested = Everything(), Everything()
    torch.manual_seed(7)
    expected = plain.train(12), digest(plain.model, plain.optimizer)
    torch.manual_seed(7)
    tested.range_test()
    assert (tested.train(12), digest(tested.model, tested.optimizer)) == expected


def test_a_second_call_gives_the_same_curve():
    run = Everything()
    assert run.range_test() == run.range_test()


def test_the_curve_does_not_depend_on_steps_taken_before():
    """Lightning counts the trainer's steps in its correction of the smoothing."""
    model, optimizer = linear()
    first = lr_range_test(model, optimizer, pairs(), MSE, num_steps=20)
    fresh = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(50):
        fresh.step()
    assert lr_range_test(model, fresh, pairs(), MSE, num_steps=20) == first


class Shuffled:
    """A batch sampler that draws by itself."""

    def __init__(self, generator):
        self.generator = generator

    def __iter__(self):
        return iter(torch.randperm(32, generator=self.generator).view(4, 8).tolist())


@pytest.mark.parametrize("where", ["loader", "sampler", "batch sampler", "in batch sampler"])
def test_a_loader_s_own_generator_is_given_back(where):
    x = torch.randn(32, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    generator = torch.Generator().manual_seed(3)
    if where == "loader":
        loader = DataLoader(data, 8, shuffle=True, generator=generator)
    elif where == "sampler":
        loader = DataLoader(data, 8, sampler=RandomSampler(data, generator=generator))
    elif where == "batch sampler":
        loader = DataLoader(data, batch_sampler=Shuffled(generator))
    else:
        sampler = RandomSampler(data, generator=generator)
        loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 8, False))
    model, optimizer = linear()
    before = generator.get_state()
    first = lr_range_test(model, optimizer, loader, MSE, num_steps=20)
    assert torch.equal(generator.get_state(), before)
    assert lr_range_test(model, optimizer, loader, MSE, num_steps=20) == first


class Noise(Dataset):
    """Samples that a worker draws from its own random state."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        x = torch.randn(3)
        return x, x.sum(0, keepdim=True)


@pytest.mark.parametrize("used", [False, True], ids=["no pass before", "in its second pass"])
@pytest.mark.parametrize("broken", [False, True], ids=["to the end", "an error"])
def test_persistent_workers_do_not_notice_the_run(used, broken):
    def losses(with_run):
        torch.manual_seed(0)
        model, optimizer = linear()
        loader = DataLoader(Noise(), 8, num_workers=1, persistent_workers=True)
        drawn = [len(list(loader))] if used else []
        stream = iter(loader) if used else None
        drawn += [next(stream)[0].sum().item()] if used else []
        if with_run:
            runs = []
            for _ in range(2):
                loss_fn = failing(RuntimeError("mine"), 5) if broken else MSE
                try:
                    runs.append(lr_range_test(model, optimizer, loader, loss_fn, num_steps=10))
                except RuntimeError:
                    runs.append("mine")
                assert loader._iterator is stream
                assert len(torch.multiprocessing.active_children()) == used
            assert runs[0] == runs[1] and (runs[0] == "mine") == broken
        drawn += [x.sum().item() for x, _ in stream or ()]
        drawn += [x.sum().item() for _ in range(2) for x, _ in loader]
        loader._iterator._shutdown_workers()
        return drawn

    assert losses(with_run=True) == losses(with_run=False)


def test_restore_names_what_else_the_run_changes():
    model, optimizer = linear()
    average = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)

    def step(batch):
        with torch.no_grad():
            average.weight.lerp_(model.weight, 0.5)
        x, y = batch
        return MSE(model(x + 0.1 * torch.randn(x.shape, generator=generator)), y)

    before = digest(average, generator)
    options = {"num_steps": 12, "step": step, "restore": (average, generator)}
    first = lr_range_test(model, optimizer, pairs(), **options)
    assert digest(average, generator) == before
    assert lr_range_test(model, optimizer, pairs(), **options) == first
    with pytest.raises(TypeError, match=r"argument \d \(int\)|argument \d, a int"):
        lr_range_test(model, optimizer, pairs(), MSE, restore=(1,))


class Counting(nn.Module):
    """A loss, or a step, that keeps state of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *given):
        self.calls += 1
        output, target = given if len(given) == 2 else (self.model[0](given[0][0]), given[0][1])
        return MSE(output, target)


@pytest.mark.parametrize("name", ["loss_fn", "step"])
def test_a_loss_or_a_step_that_is_a_module_is_restored(name):
    model, optimizer = linear()
    counting = Counting(model)
    lr_range_test(model, optimizer, pairs(), **{name: counting}, max_lr=0.1, num_steps=9)
    assert counting.calls == 0


def test_no_scheduler_no_wrapped_step_no_initial_lr():
    model, optimizer = linear()
    seen = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append(("initial_lr" in opt.param_groups[0], "step" in vars(opt)))
    )
    lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-3, num_steps=3)
    assert seen == [(False, False)] * 3
    assert "initial_lr" not in optimizer.param_groups[0] and "step" not in vars(optimizer)


def test_the_model_trains_in_the_mode_it_is_in():
    run = Everything()
    seen = []
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.append((run.model[1].training, run.model[1].num_batches_tracked.item()))
    )
    run.range_test()
    assert set(seen) == {(False, 0)}  # the frozen one stayed frozen
    live = []
    run.optimizer.register_step_pre_hook(
        lambda *_: live.append(run.model[4].num_batches_tracked.item())
    )
    run.range_test()
    assert live[-1] > live[0]


def test_a_training_that_clips_can_clip_here():
    model, optimizer = linear()
    norms = []

    def clip(*_):
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())

    optimizer.register_step_pre_hook(clip)
    scaler = torch.amp.GradScaler("cpu")
    lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-3, num_steps=5, scaler=scaler)
    assert norms == pytest.approx([1e-3] * 5, rel=1e-3)


# What it suggests


def test_the_steepest_point_is_steepest_in_log_lr_and_noise_at_the_bottom_does_not_win():
    """Lightning divides by differences of lr, tiny at the bottom, where noise then wins."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.005 * torch.randn(100, generator=generator)
    lrs = [1e-7 * 1e8 ** (i / 99) for i in range(100)]
    losses = [2 - 1 / (1 + (1e-2 / lr) ** 2) + e.item() for lr, e in zip(lrs, noise, strict=True)]
    curve = curve_of([*losses[:90], *[losses[89] + 1.2**i for i in range(10)]])
    assert 1e-2 < curve.suggest("steepest") < 1e-2 * 1.21**10  # the average lags, up to ten rungs


def test_floor_goes_four_rungs_back_from_the_middle_of_the_floor():
    losses = [valley(i) for i in range(90)]
    curve = curve_of(losses, high=1e-7 * 1e8 ** (89 / 99), stop_reason="diverged")
    # A decade is 12.4 rungs here: the mean over 6 to each side.
    averaged = [sum(losses[i - 6 : i + 7]) / 13 for i in range(6, 84)]
    level = min(averaged) + 0.2 * (2.3 - min(averaged))
    floor = [i for i, loss in enumerate(averaged, start=6) if loss <= level]
    middle = 1e-7 * 1e8 ** ((floor[0] + floor[-1]) / 2 / 99)
    assert curve.suggest() == pytest.approx(middle / 1e8 ** (4 / 99), rel=0.001)
    assert f"below the middle of the valley's floor, {middle:.3g}" in curve.explain()


def test_the_floor_does_not_hang_on_the_smoothing():
    suggested = set()
    for smoothing in (0.0, 0.5, 0.9):
        curve = LRCurve(stop_reason="diverged", smoothing=smoothing)
        for i in range(85):
            curve.record([1e-7 * 1e8 ** (i / 99)], valley(i))
        suggested.add(curve.suggest())
    assert len(suggested) == 1


def test_a_coarse_ladder_never_goes_back_further_than_the_usual_tenth():
    losses = [valley(4 * i) for i in range(22)]
    curve = curve_of(losses, high=1e-7 * 1e8 ** (21 * 4 / 99), stop_reason="diverged")
    middle = float(curve.explain().split()[-1].rstrip("."))
    assert curve.suggest() == pytest.approx(middle / 10, rel=0.01)


def test_minimum_is_a_tenth_of_the_lowest():
    curve = curve_of([valley(i) for i in range(85)], stop_reason="diverged")
    lowest = curve.lrs[curve.smoothed.index(min(curve.smoothed))]
    assert curve.suggest("minimum") == pytest.approx(lowest / 10)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=60),
    st.sampled_from(["finished", "diverged", "nonfinite", "exhausted"]),
    st.sampled_from(sorted(METHODS)),
)
@example(STILL_FALLING, "finished", "steepest")
def test_a_suggestion_is_on_the_ladder_not_after_the_minimum_or_none_with_a_reason(
    losses, reason, method
):
    curve = curve_of(losses, stop_reason=reason) if len(losses) > 1 else LRCurve(stop_reason=reason)
    lr = curve.suggest(method)
    if lr is None:
        assert curve.explain(method).startswith("No suggestion: ")
    else:
        lowest = curve.lrs[curve.smoothed.index(min(curve.smoothed))]
        cut_off = reason in ("finished", "exhausted")  # then the last rung must not be needed
        assert curve.lrs[0] < lr <= lowest * (1 + 1e-9) and lr < curve.lrs[-1 - cut_off]
        assert curve.explain(method).startswith(f"{lr:.3g}: ")


@pytest.mark.parametrize(
    ("losses", "stop_reason", "method", "why"),
    [
        ([2.0] * 5, "exhausted", "floor", "5 rungs are too few, it takes 10. The batches ended"),
        ([2.0] * 5, "finished", "floor", "5 rungs are too few, it takes 10. Give num_steps of at"),
        ([2.0] * 50, "finished", "floor", "less than twice its noise"),
        ([2.0 + 0.1 * (-1) ** i for i in range(50)], "finished", "steepest", "twice its noise"),
        ([2.0 + 0.01 * i for i in range(50)], "diverged", "minimum", "twice its noise"),
        ([valley(i, fall=80, rise=200) for i in range(100)], "finished", "floor", "Raise max_lr"),
        ([valley(i, fall=95, rise=200) for i in range(100)], "finished", "minimum", "Raise max_lr"),
        ([valley(i, fall=80, rise=200) for i in range(99)], "exhausted", "floor", "batches ended"),
        (STILL_FALLING, "finished", "steepest", "Raise max_lr"),
        (STILL_FALLING, "exhausted", "steepest", "batches ended"),
        ([valley(i, fall=3, rise=12) for i in range(100)], "diverged", "floor", "Lower min_lr"),
        ([valley(i, fall=3, rise=12) for i in range(100)], "diverged", "minimum", "Lower min_lr"),
        ([valley(i, fall=-1, rise=22) for i in range(100)], "diverged", "steepest", "Lower min_lr"),
    ],
)  # fmt: skip
def test_a_curve_that_carries_no_suggestion_says_why(losses, stop_reason, method, why):
    curve = curve_of(losses, stop_reason=stop_reason)
    assert curve.suggest(method) is None
    assert why in curve.explain(method)


@pytest.mark.parametrize("method", ["floor", "steepest", "minimum"])
@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ([], "before any update"),
        ([2.0], "after 1 rungs"),
        ([2.0] * 5, "after 5 rungs"),
        ([2.0] * 50, "after 50 rungs"),
        ([2.0 + 0.01 * i for i in range(50)], "after 50 rungs"),
    ],
)
def test_after_a_nan_no_ladder_is_advised(losses, what, method):
    curve = LRCurve(stop_reason="nonfinite")
    for i, loss in enumerate(losses):
        curve.record([1e-7 * 1.1**i], loss)
    assert curve.suggest(method) is None
    why = curve.explain(method)
    assert "NaN" in why and what in why and "find_nonfinite" in why
    assert not any(word in why for word in ("too few", "more rungs", "num_steps", "max_lr"))


def test_a_nan_in_the_data_is_explained():
    model, optimizer = linear()
    curve = lr_range_test(
        model, optimizer, [(torch.full((4, 3), math.nan), torch.zeros(4, 1))], MSE
    )
    assert curve.stop_reason is StopReason.NONFINITE
    assert curve.explain() == (
        "No suggestion: the loss held NaN or infinity before any update. Look for it in the "
        "batches, the weights and the loss; find_nonfinite names the place."
    )


def test_the_reason_is_a_code():
    for word in ("finished", "diverged", "nonfinite", "exhausted"):
        curve = LRCurve(stop_reason=word)
        assert curve.stop_reason is StopReason(word) and str(curve.stop_reason) == word
        assert type(curve.to_dict()["stop_reason"]) is str
    with pytest.raises(ValueError, match="'bored' is not a valid StopReason"):
        LRCurve(stop_reason="bored")
    assert LRCurve().stop_reason is None and str(LRCurve()).startswith("0 rungs, not ended")


def test_a_ladder_shorter_than_the_decade_it_is_averaged_over_carries_none():
    curve = curve_of([valley(i) for i in range(78)], low=0.1, high=0.3, stop_reason="diverged")
    assert curve.suggest() is None
    assert "not seen to fall. Lower min_lr" in curve.explain()


def test_nor_does_a_floor_whose_way_back_leads_off_the_ladder():
    losses = [*[3 - 0.2 * i for i in range(10)], *range(2, 8)]
    curve = curve_of(losses, high=1e-7 * 1e8 ** (15 / 99), stop_reason="diverged")
    assert curve.suggest() is None
    assert "too close to the first rung. Lower min_lr" in curve.explain()


def test_a_run_that_breaks_in_the_valley_does_carry_a_suggestion():
    curve = curve_of([valley(i, fall=50, rise=200) for i in range(70)], stop_reason="nonfinite")
    assert curve.lrs[0] < curve.suggest() < curve.lrs[-1]


def test_an_early_spike_does_not_take_the_suggestion():
    plain = [valley(i) for i in range(85)]
    spiked = [*plain[:5], 30.0, *plain[6:]]
    expected = curve_of(plain, stop_reason="diverged").suggest()
    assert curve_of(spiked, stop_reason="diverged").suggest() == pytest.approx(expected, rel=0.3)


def test_an_unknown_method_names_the_known():
    with pytest.raises(ValueError, match="one of floor, steepest, minimum, got 'valley'"):
        curve_of([1.0, 2.0]).suggest("valley")


# How it shows


def test_to_dict_is_json_without_nan():
    model, optimizer = linear()
    curve = lr_range_test(model, optimizer, pairs(), nan_after(3))
    read = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert read["stop_reason"] == "nonfinite" and read["lrs"] == curve.lrs
    assert read["suggestions"] == {"floor": None, "steepest": None, "minimum": None}


def test_it_prints_and_shows_as_a_table():
    curve = curve_of([valley(i) for i in range(85)], stop_reason="diverged")
    assert str(curve).startswith("85 rungs from 1e-07 to 10, diverged; lowest smoothed loss ")
    assert curve.explain() in str(curve)
    assert "<table>" in curve._repr_html_() and curve.stop_reason in curve._repr_html_()
    assert str(LRCurve(stop_reason="exhausted")).startswith("0 rungs, exhausted\n")


def test_the_plot_takes_axes_and_shows_the_curve_and_the_suggestion():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    curve = curve_of([valley(i) for i in range(100)], stop_reason="diverged")
    _, ax = plt.subplots()
    assert curve.plot(ax) is ax
    raw, smooth, suggested = ax.lines
    assert list(raw.get_xdata()) == curve.lrs and list(raw.get_ydata()) == curve.losses
    assert list(smooth.get_ydata()) == curve.smoothed
    assert suggested.get_xdata()[0] == curve.suggest()
    assert ax.get_xscale() == "log" and ax.get_ylim()[1] < 10 < max(curve.losses)
    for other in (curve_of([2.0] * 20), LRCurve(stop_reason="exhausted")):
        assert other.plot() is not ax
    plt.close("all")


def test_matplotlib_is_not_loaded_before_a_plot():
    code = (
        "import sys, torch; from nbkit.lr_finder import lr_range_test; m = torch.nn.Linear(1, 1);"
        "o = torch.optim.SGD(m.parameters(), 0.1); b = [(torch.ones(2, 1), torch.ones(2, 1))];"
        "print(lr_range_test(m, o, b, torch.nn.MSELoss())); assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# Two ranks


def ddp_rank(rank, world, folder):
    """One rank: its losses are scripted, its curves go to a file."""
    torch.set_num_threads(1)
    patience = timedelta(seconds=60)  # ranks that do not stop together fail, they do not hang
    dist.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=world, timeout=patience
    )
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = digest(model, optimizer)
    mine = pairs(5, seed=rank)
    options = {"max_lr": 0.1, "min_lr": 1e-3, "num_steps": 8}

    def nan_here(output, target):
        return MSE(output, target) * (math.nan if rank == 1 and calls.pop() == 0 else 1.0)

    curves = {"all": lr_range_test(model, optimizer, mine, MSE, **options)}
    calls = list(range(6))
    curves["nan"] = lr_range_test(model, optimizer, mine, nan_here, **options)
    short = iter(mine[: 5 - 2 * rank])
    curves["short"] = lr_range_test(model, optimizer, short, MSE, accumulation_steps=2, **options)
    record = {name: [c.stop_reason, c.losses, c.lrs] for name, c in curves.items()}
    record["same"] = digest(model, optimizer) == before
    record["first"] = MSE(copy.deepcopy(module)(mine[0][0]), mine[0][1]).item()
    (folder / f"{rank}.json").write_text(json.dumps(record))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ddp_rank, (2, folder), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_ranks_see_one_loss_and_stop_together(ranks):
    for name, reason, count in (
        ("all", "finished", 8),
        ("nan", "nonfinite", 5),
        ("short", "exhausted", 2),
    ):
        assert ranks[0][name] == ranks[1][name]
        stop_reason, losses, lrs = ranks[0][name]
        assert (stop_reason, len(losses), len(lrs)) == (reason, count, count)


def test_the_loss_is_the_mean_over_the_ranks(ranks):
    assert ranks[0]["first"] != ranks[1]["first"]
    mean = (ranks[0]["first"] + ranks[1]["first"]) / 2
    assert ranks[0]["all"][1][0] == pytest.approx(mean, rel=1e-5)


def test_every_rank_is_restored(ranks):
    assert [rank["same"] for rank in ranks] == [True, True]


# CUDA


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_fp16_on_cuda_with_a_tensor_lr(fused):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
    lr = torch.tensor(1e-3, device="cuda")
    kind = {"fused": True} if fused else {"capturable": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **kind)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)  # overflows at first

    def step(batch):
        x, y = (part.cuda() for part in batch)
        with torch.autocast("cuda", torch.float16):
            return MSE(model(x), y)

    before = digest(model, optimizer, scaler)
    curve = lr_range_test(model, optimizer, pairs(), step=step, num_steps=40, scaler=scaler)
    assert curve.skipped > 0 and len(curve.lrs) > 20
    assert curve.lrs == [1e-7 * 1e8 ** (i / 39) for i in range(len(curve.lrs))]
    assert optimizer.param_groups[0]["lr"] is lr and float(lr) == pytest.approx(1e-3)
    assert digest(model, optimizer, scaler) == before


@pytest.mark.gpu
def test_batches_are_moved_to_the_model_s_device():
    model, _ = linear()
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = lr_range_test(model, optimizer, pairs(), MSE, max_lr=1e-2, num_steps=5)
    assert curve.stop_reason == "finished"
