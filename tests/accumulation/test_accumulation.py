"""Gradient accumulation: whatever the sizes and weights, the gradient is the full batch's."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from micro_batches import IGNORED, by_label, data, net
from torch import nn

from nbkit.accumulation import accumulate


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def full(model, batch, loss_fn=nn.functional.cross_entropy):
    """The reference: one backward over everything, in plain torch."""
    model.zero_grad()
    loss_fn(model(batch[0]), batch[1]).backward()
    return grads(model)


def one_window(model, window, loss_fn=nn.functional.cross_entropy):
    model.zero_grad()
    for micro in window:
        with micro.sync():
            x, y = micro.batch
            (loss_fn(model(x), y) * micro.weight).backward()
    return grads(model)


def cut(batch, sizes):
    ends = [0, *itertools.accumulate(sizes)]
    return [tuple(t[a:b] for t in batch) for a, b in itertools.pairwise(ends)]


def worst(a, b):
    return float((a - b).abs().max() / b.abs().max())


# ---- the gradient is the full batch's ----


@given(st.integers(1, 60), st.integers(2, 8), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
@example(n=18, steps=3, size=8)  # 8, 8, 2: a mean of means is off by 64 %
@example(n=7, steps=4, size=1)  # timm steps too early here: windows of weight 1, 2/3, 1/3
@example(n=60, steps=2, size=60)
def test_every_window_has_the_gradient_of_its_samples(n, steps, size):
    model, (x, y) = net(), data(n)
    loader = list(zip(x.split(size), y.split(size), strict=True))
    seen = 0
    for window in accumulate(loader, steps):
        count = min(steps * size, n - seen)
        batch = (x[seen : seen + count], y[seen : seen + count])
        assert worst(one_window(model, window), full(model, batch)) < 1e-11
        seen += count
    assert seen == n


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(2, 8),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_random_sizes_and_weights(sizes, steps, random):
    """Labels are ignored at random: the terms of the loss are not the rows."""
    model, (x, y) = net(), data(sum(sizes))
    y = torch.where(torch.tensor([random.random() < 0.4 for _ in y]), y, IGNORED)
    batches = cut((x, y), sizes)
    windows = accumulate(iter(batches), steps, weight=by_label)
    for start in range(0, len(sizes), steps):
        whole = tuple(torch.cat(part) for part in zip(*batches[start : start + steps], strict=True))
        if by_label(whole):
            assert worst(one_window(model, next(windows)), full(model, whole)) < 1e-11
    assert next(windows, None) is None


def test_every_length_and_every_window_gives_all_micro_batches_once():
    """timm's index arithmetic stepped early for 874 of 2985 of these pairs."""
    for n, steps in itertools.product(range(61), range(2, 9)):
        windows = [list(w) for w in accumulate(torch.arange(n).view(n, 1), steps)]
        sizes = [len(w) for w in windows]
        assert sizes == [steps] * (n // steps) + [n % steps] * (n % steps > 0)
        assert [int(m.batch) for w in windows for m in w] == list(range(n))
        assert all([m.is_last for m in w] == [False] * (len(w) - 1) + [True] for w in windows)
        assert all(abs(sum(m.weight for m in w) - 1) < 1e-12 for w in windows)


def test_the_ragged_last_window_is_not_under_weighted():
    """Lightning, accelerate and TorchTNT divide by K even when fewer are left."""
    model, batch = net(), data(10)
    *_, tail = accumulate(cut(batch, [2] * 5), 4)
    assert worst(one_window(model, tail), full(model, tuple(t[8:] for t in batch))) < 1e-12


def test_the_weighted_losses_add_up_to_the_loss_of_the_window():
    model, batch = net(), data(18)
    (window,) = accumulate(cut(batch, [8, 8, 2]), 3)
    loss_fn = nn.functional.cross_entropy
    with torch.no_grad():
        total = sum(float(loss_fn(model(m.batch[0]), m.batch[1]) * m.weight) for m in window)
        whole = float(loss_fn(model(batch[0]), batch[1]))
    assert total == pytest.approx(whole)


# ---- windows ----


def test_drop_leaves_the_tail_out_and_nothing_else():
    def sizes(n):
        return [len(w) for w in accumulate(torch.zeros(n, 1), 4, last="drop")]

    assert [sizes(n) for n in (0, 3, 4, 5, 8)] == [[], [], [4], [4], [4, 4]]


def test_it_reads_a_window_at_a_time_of_an_endless_stream():
    read = itertools.count()
    windows = accumulate((torch.full((2,), float(next(read))) for _ in itertools.count()), 3)
    next(windows)
    assert next(read) == 3


def test_a_window_of_one_is_the_plain_loop():
    (micro,) = next(accumulate([torch.zeros(7, 2)], 1))
    assert (micro.weight, micro.is_last) == (1.0, True)


def test_rows_of_dicts_and_nested_batches_are_counted():
    batches = [{"x": torch.zeros(n, 2), "y": [torch.zeros(n), None]} for n in (3, 1)]
    assert [m.weight for m in next(accumulate(batches, 2))] == [0.75, 0.25]


# ---- weights of zero ----


def test_a_micro_batch_without_a_term_is_passed_over():
    x, y = data(6)
    y[2:4] = IGNORED
    window = next(accumulate(cut((x, y), [2, 2, 2]), 3, weight=by_label))
    assert [m.weight for m in window] == [0.5, 0.5]
    model = net()
    assert worst(one_window(model, window), full(model, (x, y))) < 1e-12


def test_the_last_micro_batch_without_a_term_leaves_the_one_before_as_the_last():
    x, y = data(4)
    y[2:] = IGNORED
    (micro,) = next(accumulate(cut((x, y), [2, 2]), 2, weight=by_label))
    assert micro.is_last and micro.weight == 1.0


def test_a_window_without_a_term_is_no_window():
    x, y = data(6)
    y[:4] = IGNORED
    windows = list(accumulate(cut((x, y), [2, 2, 2]), 2, weight=by_label))
    assert [len(w) for w in windows] == [1]


# ---- an exception in mid-window ----


def leave_early(model, windows, clear):
    try:
        for micro in next(windows):
            (model(micro.batch[0]).sum() * micro.weight).backward()
            raise OSError("a bad sample")
    except OSError:
        if clear:
            model.zero_grad()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_window_left_early_and_cleared_does_not_touch_the_next(set_to_none):
    model, batch = net(), data(8)
    windows = accumulate(cut(batch, [2] * 4), 2, model=model)
    leave_early(model, windows, clear=False)
    model.zero_grad(set_to_none=set_to_none)
    second = tuple(t[4:] for t in batch)
    assert worst(one_window(model, next(windows)), full(model, second)) < 1e-12


def test_a_window_left_early_and_not_cleared_is_refused():
    model, batch = net(), data(8)
    windows = accumulate(cut(batch, [2] * 4), 2, model=model)
    leave_early(model, windows, clear=False)
    with pytest.raises(RuntimeError, match=r"left early .* call optimizer.zero_grad\(\)"):
        list(next(windows))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_last_micro_batch_that_failed_is_no_finished_window(steps):
    model, batch = net(), data(8)
    windows = accumulate(cut(batch, [2] * 4), steps, model=model)
    with pytest.raises(OSError):
        for micro in next(windows):
            with micro.sync():
                (model(micro.batch[0]).sum() * micro.weight).backward()
                if micro.is_last:
                    raise OSError("out of memory")
    with pytest.raises(RuntimeError, match="left early"):
        list(next(windows))


def steps_taken(clear, leave):
    """The gradient at each step of a loop that zeroes somewhere, and may break after a step."""
    model, found = net(), []
    for window in accumulate(cut(data(10), [2] * 5), 2, model=model):
        if clear == "before":
            model.zero_grad()
        for i, micro in enumerate(window):
            if clear == "within" and i == 0:
                model.zero_grad()
            with micro.sync():
                x, y = micro.batch
                (nn.functional.cross_entropy(model(x), y) * micro.weight).backward()
            if micro.is_last:
                found.append(grads(model))
                if clear == "after":
                    model.zero_grad()
                if leave:
                    break
    return torch.stack(found)


@pytest.mark.parametrize("clear", ["before", "within", "after"])
def test_a_break_after_the_last_micro_batch_leaves_nothing_early(clear):
    assert torch.equal(steps_taken(clear, leave=True), steps_taken("before", leave=False))


def test_a_window_left_early_is_cleared_where_the_next_begins():
    model, batch, seen = net(), data(8), 0
    for window in accumulate(cut(batch, [2] * 4), 2, model=model):
        model.zero_grad()
        for micro in window:
            (model(micro.batch[0]).sum() * micro.weight).backward()
            seen += 1
            break
    assert seen == 2, "and nothing comes after the second: it is no error either"


def test_a_window_that_was_finished_may_leave_its_gradient():
    model, batch = net(), data(8)
    windows = accumulate(cut(batch, [2] * 4), 2, model=model)
    one_window(model, next(windows))
    assert len(list(next(windows))) == 2


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be a whole number of micro-batches, at least 1"),
        ({"steps": 2.5}, ValueError, "got 2.5"),
        ({"steps": 2, "last": "carry"}, ValueError, r'last must be "flush" .* got \'carry\''),
        ({"steps": 2, "weight": 3}, TypeError, "weight must be a function that .* got 3"),
        ({"steps": 2, "model": "net"}, TypeError, "model must be a module, got a str"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        accumulate([], **arguments)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_a_weight_that_is_no_count_is_refused(weight):
    windows = accumulate([torch.zeros(2)], 1, weight=lambda batch: weight)
    with pytest.raises(ValueError, match=f"finite and at least 0, got {float(weight)}"):
        next(windows)


def test_an_error_in_weight_is_the_users_own():
    with pytest.raises(ValueError, match="^invalid literal"):
        next(accumulate([torch.zeros(2)], 1, weight=lambda batch: int("many")))


@pytest.mark.parametrize("batch", ["text", 3.0, torch.tensor(1.0), (torch.ones(2), torch.ones(3))])
def test_a_batch_whose_rows_are_unclear_asks_for_weight(batch):
    with pytest.raises(ValueError, match="cannot count the loss terms .* weight=lambda batch"):
        next(accumulate([batch], 2))


@pytest.mark.gpu
def test_on_cuda():
    model, (x, y) = net().cuda(), data(18)
    batch = (x.cuda(), y.cuda())
    (window,) = accumulate(cut(batch, [8, 8, 2]), 3, weight=by_label)
    assert worst(one_window(model, window), full(model, batch)) < 1e-11
