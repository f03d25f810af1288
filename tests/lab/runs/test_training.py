"""The one loop: the same numbers as by hand, one yield a step, and nothing left changed."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread, train


def make(lr=0.1, **options):
    torch.manual_seed(0)
    model = mlp(depth=1, width=8)
    return model, torch.optim.SGD(model.parameters(), lr=lr, **options)


def batches(steps=None):
    return digits().batches(32, seed=0, steps=steps)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def halving(step: int) -> float:
    return 0.5**step


def test_train_is_the_loop_written_by_hand():
    model, optimizer = make(momentum=0.9)
    by_hand = []
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, halving)
    for x, y in batches(8):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        by_hand.append((loss.item(), optimizer.param_groups[0]["lr"]))
        scheduler.step()
    expected = weights(model)

    model, optimizer = make(momentum=0.9)
    steps = list(train(model, batches(8), optimizer, cross_entropy, schedule=halving))
    assert [(step.loss.item(), step.lr) for step in steps] == by_hand
    assert [step.index for step in steps] == list(range(8))
    assert torch.equal(weights(model), expected)


def test_each_yield_comes_after_one_update_and_none_before_the_first_is_asked_for():
    model, optimizer = make()
    before = weights(model)
    training = train(model, batches(), optimizer, cross_entropy)
    assert torch.equal(weights(model), before)
    next(training)
    assert not torch.equal(weights(model), before)


def test_a_loss_is_a_detached_tensor():
    model, optimizer = make()
    step = next(train(model, batches(), optimizer, cross_entropy))
    assert isinstance(step.loss, torch.Tensor) and not step.loss.requires_grad


def test_gradients_do_not_add_up_from_step_to_step():
    model, optimizer = make(lr=0.0)
    for _ in train(model, [next(iter(batches()))], optimizer, cross_entropy, steps=3):
        pass
    added = model[0].weight.grad.clone()
    model.zero_grad()
    x, y = next(iter(batches()))
    cross_entropy(model(x), y).backward()
    assert torch.equal(model[0].weight.grad, added)


@pytest.mark.parametrize(("steps", "expected"), [(None, 3), (0, 0), (2, 2), (7, 7)])
def test_batches_are_started_again_as_often_as_the_steps_need(steps, expected):
    model, optimizer = make(lr=0.0)
    some = list(batches(3))
    losses = [
        step.loss.item() for step in train(model, some, optimizer, cross_entropy, steps=steps)
    ]
    assert len(losses) == expected
    assert losses == (losses[:3] * 3)[:expected]


def test_no_batch_is_taken_that_is_not_trained_on():
    model, optimizer = make()
    source = iter(batches(5))
    assert len(list(train(model, source, optimizer, cross_entropy, steps=3))) == 3
    assert len(list(source)) == 2


def test_batches_that_cannot_be_started_again_end_the_training_with_the_reason():
    model, optimizer = make()
    training = train(model, iter(batches(3)), optimizer, cross_entropy, steps=5)
    with pytest.raises(ValueError, match="the batches ended after 3 of 5 steps and cannot be"):
        list(training)


def test_negative_steps_are_refused_at_the_call():
    model, optimizer = make()
    with pytest.raises(ValueError, match="steps must be at least 0, or None for one pass, got -1"):
        train(model, batches(), optimizer, cross_entropy, steps=-1)


def end_normally(training):
    list(training)


def abandon(training):
    next(training)
    next(training)
    training.close()


def stop_in_the_step(error):
    def stop(training):
        next(training)
        with pytest.raises(error):
            training.throw(error())

    return stop


@pytest.mark.parametrize(
    "leave",
    [end_normally, abandon, stop_in_the_step(RuntimeError), stop_in_the_step(KeyboardInterrupt)],
    ids=["normal", "abandoned", "exception", "interrupt"],
)
def test_a_schedule_gives_the_lrs_back_on_every_way_out(leave):
    model, _ = make()
    groups = [
        {"params": [p], "lr": lr} for p, lr in zip(model.parameters(), (1, 2, 3), strict=False)
    ]
    optimizer = torch.optim.SGD(groups)
    leave(train(model, batches(4), optimizer, cross_entropy, schedule=halving))
    assert [group["lr"] for group in optimizer.param_groups] == [1, 2, 3]


def test_a_schedule_scales_the_lr_of_every_group():
    model, _ = make()
    groups = [
        {"params": [p], "lr": lr} for p, lr in zip(model.parameters(), (1, 2, 3), strict=False)
    ]
    optimizer = torch.optim.SGD(groups)
    training = train(model, batches(4), optimizer, cross_entropy, schedule=halving)
    for step in training:
        lrs = [group["lr"] for group in optimizer.param_groups]
        assert lrs == [lr * 0.5**step.index for lr in (1, 2, 3)]


def test_without_a_schedule_the_lr_is_the_callers_to_change():
    model, optimizer = make()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, halving)
    lrs = []
    for step in train(model, batches(3), optimizer, cross_entropy):
        lrs.append(step.lr)
        scheduler.step()
    assert lrs == [0.1, 0.05, 0.025] and optimizer.param_groups[0]["lr"] == 0.0125


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_one_thread_gives_the_setting_back_on_every_way_out(error):
    outer = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    finally:
        after = torch.get_num_threads()
        torch.set_num_threads(outer)
    assert after == 2


@pytest.mark.gpu
def test_on_a_gpu_the_loss_stays_there_and_is_the_same():
    data = digits("cuda")
    here, there = make(), make()
    there[0].cuda()
    cpu = [s.loss.item() for s in train(here[0], batches(20), here[1], cross_entropy)]
    steps = list(train(there[0], data.batches(32, seed=0, steps=20), there[1], cross_entropy))
    assert all(step.loss.is_cuda for step in steps)
    assert [step.loss.item() for step in steps] == pytest.approx(cpu, rel=1e-4)


def test_any_model_and_any_loss_are_trained():
    layer = nn.Linear(1, 1)
    data = [(torch.ones(2, 1), torch.zeros(2, 1))]
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = [s.loss.item() for s in train(layer, data, sgd, nn.functional.mse_loss, steps=20)]
    assert losses[-1] < 0.1 * losses[0]
