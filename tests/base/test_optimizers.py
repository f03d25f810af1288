"""What needs an argument for its `step()` is refused before anything changes."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from nbkit import Amp, lr_range_test
from nbkit.base.optimizers import check_plain_scheduler, check_plain_step
from nbkit.base.state import digest
from nbkit.lab.cost.memory import memory_report
from nbkit.lab.runs.training import train


class Asserting(torch.optim.SGD):
    """As SAM often comes: the closure looks optional, and is not."""

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "requires closure"


class Raising(torch.optim.SGD):
    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("no closure")


class Halves(torch.optim.SGD):
    def first_step(self):
        pass

    def second_step(self):
        pass


class Optional(torch.optim.SGD):
    """It needs no closure, and says what it does with one."""

    def step(self, closure=None):
        if closure is None:
            closure = float
        return super().step(closure)


def scheduled(optimizer):
    lr_scheduler.ConstantLR(optimizer)  # it wraps the optimizer's step
    return optimizer


WEIGHT = nn.Parameter(torch.ones(1))
CLOSURE = {
    "LBFGS": torch.optim.LBFGS([WEIGHT]),
    "scheduled": scheduled(torch.optim.LBFGS([WEIGHT])),
    "asserts": Asserting([WEIGHT]),
    "raises": Raising([WEIGHT]),
    "halves": Halves([WEIGHT]),
}
PLAIN = [
    torch.optim.SGD([WEIGHT]),
    torch.optim.AdamW([WEIGHT], fused=True),
    scheduled(torch.optim.SGD([WEIGHT])),
    Optional([WEIGHT]),
]


@pytest.mark.parametrize("optimizer", CLOSURE.values(), ids=CLOSURE)
def test_an_optimizer_with_a_closure_is_refused_by_name(optimizer):
    told = f"my_loop calls .* but {type(optimizer).__name__} needs one: .* call .*step.closure."
    with pytest.raises(TypeError, match=told):
        check_plain_step(optimizer, "my_loop")


@pytest.mark.parametrize("optimizer", PLAIN)
def test_an_optimizer_without_one_passes(optimizer):
    check_plain_step(optimizer, "my_loop")


@pytest.mark.parametrize("thing", [None, nn.Linear(1, 1), WEIGHT])
def test_what_is_no_optimizer_is_refused(thing):
    with pytest.raises(TypeError, match=f"my_loop .*, got a {type(thing).__name__}\\. Pass"):
        check_plain_step(thing, "my_loop")


def at_work(precision="fp32", kind=torch.optim.LBFGS):
    model = nn.Linear(3, 1)
    amp = Amp(precision, "cpu", **({"init_scale": 8.0} if precision == "fp16" else {}))
    optimizer = kind(model.parameters(), lr=0.1)
    amp.backward(model(torch.ones(2, 3)).sum())
    return model, optimizer, amp


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", [torch.optim.LBFGS, Asserting])
def test_a_step_that_needs_a_closure_changes_nothing(precision, kind):
    model, optimizer, amp = at_work(precision, kind)
    before, account = digest(model, optimizer), amp.state_dict()
    with pytest.raises(TypeError, match="Amp.step calls optimizer.step.. without a closure"):
        amp.step(optimizer, clip={"max_norm": 0.1})
    assert (digest(model, optimizer), amp.state_dict()) == (before, account)
    amp.backward(model(torch.ones(2, 3)).sum())  # and it is not stuck


class Epochs:
    def step(self, epoch, metric=None):
        raise AssertionError


def finished(optimizer):
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=2)
    scheduler.last_epoch = 2
    return scheduler


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda optimizer: Epochs(), TypeError, "that of Epochs: missing .* 'epoch'. Leave it out"),
        (finished, ValueError, "OneCycleLR has made all of its total_steps=2"),
        (lambda optimizer: 3, TypeError, r"a scheduler, with a step\(\), got int"),
    ],
)
def test_a_scheduler_that_could_not_step_changes_nothing(precision, make, error, message):
    model, optimizer, amp = at_work(precision, torch.optim.SGD)
    scheduler, before = make(optimizer), digest(model)
    with pytest.raises(error, match=message):
        amp.step(optimizer, scheduler=scheduler)
    assert digest(model) == before and amp.skipped.per_optimizer == {}
    assert amp.step(optimizer).stepped


def test_a_scheduler_makes_the_steps_that_it_was_made_for():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=3)
    for _ in range(3):  # torch refuses the fourth
        check_plain_scheduler(scheduler)
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="all of its total_steps=3"):
        check_plain_scheduler(scheduler)


def test_a_step_in_the_wrong_order_opens_no_account():
    model, amp = nn.Linear(2, 1), Amp("fp16", "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for act in (amp.step, amp.unscale_):
        with pytest.raises(RuntimeError, match="SGD has no gradients to step with"):
            act(optimizer)
    assert amp.skipped.per_optimizer == {}


def test_gradients_in_float16_open_no_account():
    model, amp = nn.Linear(2, 1).half(), Amp("fp16", "cpu", init_scale=8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    amp.backward(model(torch.ones(1, 2).half()).sum())
    before = digest(model)
    with pytest.raises(ValueError, match="FP16 gradients. Keep the parameters in float32"):
        amp.step(optimizer)
    assert digest(model) == before and amp.skipped.per_optimizer == {}


BATCH = (torch.ones(4, 3), torch.ones(4, 1))
LOOPS = {
    "lr_range_test": lambda model, it: lr_range_test(model, it, [BATCH], nn.MSELoss()),
    "memory_report": lambda model, it: memory_report(model, BATCH, nn.MSELoss(), it),
    "train": lambda model, it: list(train(model, [BATCH], it, nn.MSELoss())),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_of_ours_says_so_before_it_begins(loop):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(TypeError, match=f"{loop} calls .* but LBFGS needs one"):
        LOOPS[loop](model, optimizer)
    assert digest(model, optimizer) == before
