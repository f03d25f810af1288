"""Amp: the plain loop in another precision, every skipped step known, everything done once."""

import copy
import gc
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbkit.amp import Amp
from nbkit.base import dtypes
from nbkit.base.state import digest, preserve_state
from nbkit.clipping import clip_gradients_

OVERFLOW = 1e37  # 65536 times this is infinite in float32
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}
CLIPS = {"no clip": None, "norm": {"max_norm": 0.3}, "agc": {"agc": 0.05}}


def network(dtype=torch.float32, device="cpu"):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(device, dtype)


def batch(n=32, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)
    return x.to(device, dtype), y.to(device)


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x).float(), y)


def weight(value=1.0):
    return nn.Parameter(torch.full((2,), value))


def flat(model):
    return torch.cat([p.detach().flatten().double().cpu() for p in model.parameters()])


# Agreement


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_fp32_is_the_plain_loop_bit_for_bit(make):
    digests = []
    for amp in (None, Amp("fp32", "cpu")):
        model, (x, y) = network(), batch()
        optimizer = make(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
        for _ in range(5):
            optimizer.zero_grad()
            if amp is None:
                loss_of(model, x, y).backward()
                optimizer.step()
                scheduler.step()
            else:
                with amp.autocast():
                    loss = loss_of(model, x, y)
                amp.backward(loss)
                assert amp.step(optimizer, scheduler=scheduler).stepped
        digests.append(digest(model, optimizer, scheduler))
    assert digests[0] == digests[1]


def reference_update(clip, micro_batches=1):
    """One SGD step in float64, clipped by hand."""
    model, (x, y) = network(torch.float64), batch(dtype=torch.float64)
    nn.functional.cross_entropy(model(x), y).backward()
    for parameter in model.parameters():
        if clip and "agc" in clip:
            row = parameter.dim() == 2
            norm = parameter.grad.norm(dim=1, keepdim=True) if row else parameter.grad.norm()
            size = parameter.norm(dim=1, keepdim=True) if row else parameter.norm()
            limit = clip["agc"] * size.clamp(min=1e-3)
            parameter.grad *= (limit / norm).clamp(max=1.0)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    if clip and "max_norm" in clip:
        gradient *= min(1.0, clip["max_norm"] / gradient.norm().item())
    return -gradient


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_one_step_against_float64(precision, clip, micro_batches, device):
    model, (x, y) = network(device=device), batch(device=device)
    amp, optimizer = Amp(precision, device), torch.optim.SGD(model.parameters(), lr=1.0)
    before = flat(model)
    for part in range(micro_batches):
        with amp.autocast():
            loss = loss_of(model, x[part::micro_batches], y[part::micro_batches]) / micro_batches
        amp.backward(loss)
    keywords = CLIPS[clip] and {"parameters": model, **CLIPS[clip]}
    report = amp.step(optimizer, clip=keywords)
    expected = reference_update(CLIPS[clip])
    error = (flat(model) - before - expected).norm() / expected.norm()
    assert error < TOLERANCE[precision]
    assert report.stepped and report.scale == (65536.0 if precision == "fp16" else 1.0)
    assert (report.clip is None) == (clip == "no clip")
    assert clip == "no clip" or report.clip.clipped


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_reported_norm_is_that_of_the_unscaled_gradients(precision):
    model, (x, y) = network(), batch()
    loss_of(model, x, y).backward()
    expected = clip_gradients_(model, max_norm=math.inf).total_norm
    model.zero_grad()
    amp, optimizer = Amp(precision, "cpu"), torch.optim.SGD(model.parameters(), lr=1.0)
    with amp.autocast():
        loss = loss_of(model, x, y)
    amp.backward(loss)
    report = amp.step(optimizer, clip={"max_norm": math.inf})
    assert report.clip.total_norm == pytest.approx(expected, rel=TOLERANCE[precision])


def test_no_grad_inside_autocast_keeps_the_gradients():
    model, (x, y) = network(), batch()
    amp = Amp("bf16", "cpu")
    with amp.autocast():
        with torch.no_grad():
            model(x)
        amp.backward(loss_of(model, x, y))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


# Skipped steps


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [None, {"max_norm": 1.0}, {"max_value": 1.0}])
def test_a_skipped_step_changes_nothing(fused, clip):
    p = weight()
    optimizer = torch.optim.Adam([p], lr=0.1, fused=fused)
    amp = Amp("fp16", "cpu")
    amp.backward(p.sum())
    assert amp.step(optimizer, clip=clip).stepped
    optimizer.zero_grad()
    state = {name: value.clone() for name, value in optimizer.state[p].items()}, p.detach().clone()
    amp.backward(p.sum() * OVERFLOW)
    report = amp.step(optimizer, clip=clip)
    assert not report.stepped and report.scale == 65536.0
    assert clip is None or report.clip.nonfinite == ("group0.0",)
    assert torch.equal(p.detach(), state[1])
    assert all(torch.equal(optimizer.state[p][name], value) for name, value in state[0].items())
    assert amp.skipped.total == 1
    optimizer.zero_grad()
    amp.backward(p.sum())
    assert amp.step(optimizer).scale == 32768.0, "the scale fell"


def test_skips_are_counted_per_optimizer_by_what_was_found():
    p, q = weight(), weight()
    first, second = torch.optim.SGD([p], lr=1.0), torch.optim.SGD([q], lr=1.0)
    amp = Amp("fp16", "cpu")
    amp.backward(p.sum() * OVERFLOW + 3 * q.sum())
    reports = amp.step(first), amp.step(second)
    assert [report.stepped for report in reports] == [False, True]
    assert p.tolist() == [1.0, 1.0]
    assert q.tolist() == [-2.0, -2.0], "unscaled by the scale of its backward, not the next one"
    assert amp.skipped.total == 1
    assert amp.skipped.per_optimizer == {"SGD": 1, "SGD 2": 0}
    assert str(amp.skipped).splitlines()[0] == "1 optimizer steps skipped"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_counts_and_scale_for_every_sequence(overflows):
    p, q = weight(), weight()
    optimizers = torch.optim.SGD([p], lr=1.0), torch.optim.Adam([q], lr=1.0)
    amp = Amp("fp16", "cpu", growth_interval=3)
    scale, good = 65536.0, 0
    for overflow in overflows:
        p.grad = q.grad = None
        factors = [OVERFLOW if each else 1.0 for each in overflow]
        amp.backward(p.sum() * factors[0] + q.sum() * factors[1])
        reports = [amp.step(optimizer) for optimizer in optimizers]
        assert [report.stepped for report in reports] == [not each for each in overflow]
        assert [report.scale for report in reports] == [scale, scale]
        good = 0 if any(overflow) else good + 1
        scale *= 0.5 if any(overflow) else 2.0 if good == 3 else 1.0
        good %= 3
    first, second = (sum(each[i] for each in overflows) for i in (0, 1))
    assert amp.skipped.per_optimizer == {"SGD": first, "Adam": second}
    assert amp.skipped.total == first + second
    assert amp.state_dict()["scaler"]["scale"] == scale


def test_a_skip_is_counted_also_when_the_scale_does_not_fall():
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.scaler.set_backoff_factor(0.999999999)  # as good as a scale at its minimum
    for _ in range(3):
        optimizer.zero_grad()
        amp.backward(p.sum() * OVERFLOW)
        assert amp.step(optimizer).scale == 65536.0
    assert amp.skipped.per_optimizer == {"SGD": 3}


def test_an_old_optimizer_is_not_kept_alive():
    amp, p = Amp("fp16", "cpu"), weight()
    for _ in range(2):
        optimizer = torch.optim.SGD([p], lr=1.0)
        p.grad = None
        amp.backward(p.sum() * OVERFLOW)
        amp.step(optimizer)
        del optimizer
        gc.collect()
    assert amp._counts.find_optimizer(0) is None
    assert [owner() for owner in amp._counts._owners] == [None, None]
    assert amp.skipped.per_optimizer == {"SGD": 1, "SGD 2": 1}


def test_the_scheduler_waits_for_a_real_step():
    p = weight()
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    amp = Amp("fp16", "cpu")
    for factor in (OVERFLOW, OVERFLOW, 1.0, OVERFLOW):  # the first would warn of a wrong order
        optimizer.zero_grad()
        amp.backward(p.sum() * factor)
        amp.step(optimizer, scheduler=scheduler)
    assert scheduler.last_epoch == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_a_scaler_the_policy_of_the_clip_decides(precision):
    p = weight()
    amp, optimizer = Amp(precision, "cpu"), torch.optim.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    p.grad = torch.full((2,), math.nan)
    with pytest.raises(FloatingPointError, match="of 1 of 1 parameters are not finite: group0.0"):
        amp.step(optimizer, clip={"max_norm": 1.0})
    clip = {"max_norm": 1.0, "nonfinite": "skip"}
    report = amp.step(optimizer, clip=clip, scheduler=scheduler)
    assert not report.stepped and amp.skipped.total == 1 and scheduler.last_epoch == 0
    assert p.tolist() == [1.0, 1.0]
    amp.step(optimizer, clip={"max_norm": 1.0, "nonfinite": "ignore"})
    assert p.isnan().all()


def overflow(amp, optimizer, p, factor):
    optimizer.zero_grad()
    amp.backward(p.sum() * factor)
    return amp.step(optimizer)


@pytest.mark.parametrize("fused", [False, True])
def test_many_skips_in_a_row_are_an_error(fused):
    p = weight()
    amp = Amp("fp16", "cpu", max_skips=3)
    optimizer = torch.optim.SGD([p], lr=1e-3, fused=fused)
    steps = 0
    with pytest.raises(FloatingPointError, match=r"^[345] steps of SGD in a row were skipped, the"):
        for factor in (OVERFLOW, OVERFLOW, 1.0, *[OVERFLOW] * 6):
            overflow(amp, optimizer, p, factor)
            steps += 1
    assert steps == 5 if not fused else 5 <= steps < 8
    assert amp.skipped.total == steps


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        ("parameter", "the parameters group0.0 hold infinity or NaN. Go back to a checkpoint."),
        ("loss", r"the loss is nan, before any scaling. find_nonfinite\(model, batch, loss_fn\)"),
        ("gradient", "the loss is finite, the gradients of group0.0 are not. find_nonfinite"),
    ],
)
def test_the_error_names_the_cause(spoil, cause):
    p = weight(0.0)
    amp, optimizer = Amp("fp16", "cpu", max_skips=2), torch.optim.SGD([p], lr=1.0)
    if spoil == "parameter":
        p.data[0] = math.nan
    with pytest.raises(FloatingPointError, match=cause):
        for _ in range(2):
            optimizer.zero_grad()
            loss = p.sqrt().sum() if spoil == "gradient" else (p * p).sum()
            amp.backward(loss * math.nan if spoil == "loss" else loss)
            amp.step(optimizer)


# In order, and once


def by_amp(amp, optimizer):
    amp.unscale_(optimizer)
    amp.unscale_(optimizer)


def by_scaler(amp, optimizer):
    amp.scaler.unscale_(optimizer)


def by_hand(amp, optimizer):
    amp.unscale_(optimizer)
    clip_gradients_(optimizer, max_norm=1.0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("first", [None, by_amp, by_scaler, by_hand])
@pytest.mark.parametrize("clip", [None, {"max_norm": 1.0}])
def test_unscaled_once_whoever_calls_first(first, clip, fused):
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0, fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        p.data.fill_(1.0)
        amp.backward((p * torch.tensor([3.0, 4.0])).sum())
        if first:
            first(amp, optimizer)
        amp.step(optimizer, clip=clip)
        clipped = clip is not None or first is by_hand
        expected = [1 - 0.6, 1 - 0.8] if clipped else [-2.0, -3.0]
        assert p.tolist() == pytest.approx(expected, rel=1e-5)


def test_one_norm_over_two_optimizers():
    p, q = weight(), weight()
    first, second = torch.optim.SGD([p], lr=1.0), torch.optim.SGD([q], lr=1.0)
    amp = Amp("fp16", "cpu")
    amp.backward((p * torch.tensor([3.0, 0.0])).sum() + (q * torch.tensor([0.0, 4.0])).sum())
    amp.unscale_(first)
    amp.unscale_(second)
    clip_gradients_([p, q], max_norm=1.0)
    amp.step(first)
    amp.step(second)
    assert p.tolist() == pytest.approx([0.4, 1.0]) and q.tolist() == pytest.approx([1.0, 0.2])


def test_backward_between_unscale_and_step_is_refused():
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.backward(p.sum())
    amp.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscaled, but it has not stepped: backward would add"):
        amp.backward(p.sum())
    assert p.grad.tolist() == [1.0, 1.0]
    optimizer.zero_grad()  # drops them
    amp.backward(p.sum())
    amp.step(optimizer)
    assert p.tolist() == [0.0, 0.0]


def test_a_caught_error_does_not_spoil_the_next_step():
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.backward(p.sum() * OVERFLOW)
    with pytest.raises(FloatingPointError):
        amp.step(optimizer, clip={"max_norm": 10.0, "nonfinite": "raise"})
    optimizer.zero_grad()
    amp.backward(p.sum())
    report = amp.step(optimizer, clip={"max_norm": 10.0})
    assert p.tolist() == [0.0, 0.0] and report.scale == 32768.0


def test_steps_out_of_order_are_refused():
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    for call in (amp.unscale_, amp.step):
        with pytest.raises(RuntimeError, match="SGD has no gradients to step with: call amp.back"):
            call(optimizer)
    amp.backward(p.sum())
    amp.step(optimizer)
    for call in (amp.unscale_, amp.step):
        with pytest.raises(RuntimeError, match="SGD has already stepped since the last amp.backw"):
            call(optimizer)
    assert p.tolist() == [0.0, 0.0]


def test_parameters_in_half_precision_are_refused():
    p = nn.Parameter(torch.ones(2, dtype=torch.float16))
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.backward(p.float().sum())
    with pytest.raises(
        ValueError, match="FP16 gradients. Keep the parameters in float32: autocast"
    ):
        amp.step(optimizer)


# State


def trained(amp, model, optimizer, factors):
    x, y = batch()
    for factor in factors:
        optimizer.zero_grad()
        with amp.autocast():
            loss = loss_of(model, x, y)
        amp.backward(loss * factor)
        amp.step(optimizer, clip={"max_norm": 0.5})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("factors", [(), (1.0,), (1.0, OVERFLOW), (OVERFLOW, 1.0, 1.0)])
def test_state_dict_round_trip(precision, factors):
    factors = [factor if precision == "fp16" else 1.0 for factor in factors]
    later = [1.0, 1.0, OVERFLOW if precision == "fp16" else 1.0, 1.0]
    make = lambda: Amp(precision, "cpu", growth_interval=2)  # noqa: E731
    model = network()
    amp, optimizer = make(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trained(amp, model, optimizer, factors)

    saved = json.loads(json.dumps(amp.state_dict()))
    other_model = copy.deepcopy(model)
    other = torch.optim.SGD(other_model.parameters(), lr=0.1, momentum=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed = make()
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == saved
    assert resumed.skipped == amp.skipped

    trained(amp, model, optimizer, later)
    trained(resumed, other_model, other, later)
    assert torch.equal(flat(model), flat(other_model))
    assert resumed.state_dict() == amp.state_dict()


def test_preserve_state_takes_an_amp():
    model = network()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD(model.parameters(), lr=0.1)
    trained(amp, model, optimizer, [1.0, OVERFLOW])
    before = digest(model, optimizer, amp)
    with preserve_state(model, optimizer, amp):
        trained(amp, model, optimizer, [OVERFLOW, OVERFLOW, 1.0])
        assert amp.skipped.total == 3
    assert digest(model, optimizer, amp) == before
    assert amp.skipped.per_optimizer == {"SGD": 1}


def test_a_state_that_does_not_fit_is_refused():
    with pytest.raises(
        ValueError,
        match=r"of precision 'bf16', but it was saved with precision 'fp16'. Load it into Amp\('f",
    ):
        Amp("bf16", "cpu").load_state_dict(Amp("fp16", "cpu").state_dict())


SKIPS = {"name": "SGD", "skipped": 5, "streak": 0}


@pytest.mark.parametrize("part", ["precision", "skips", "scaler", "scale", "_growth_tracker"])
def test_a_state_that_is_not_whole_is_refused_and_nothing_is_loaded(part):
    saved = Amp("fp16", "cpu", init_scale=4.0).state_dict() | {"skips": [SKIPS]}
    del (saved if part in saved else saved["scaler"])[part]
    amp = Amp("fp16", "cpu")
    before = amp.state_dict()
    with pytest.raises(ValueError, match=rf"(the state|its scaler) has no {part}. Nothing was"):
        amp.load_state_dict(saved)
    assert amp.state_dict() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "expected a state from Amp.state_dict.., but the state has no precision, skips."),
        ({"model": {}}, "the state has no precision, skips."),
        ({"skips": [{"name": "SGD"}]}, "an item of its skips has no skipped, streak."),
        ({"scaler": None}, "its scaler has no scale, growth_factor,"),
    ],
)
def test_what_is_no_state_is_refused_and_nothing_is_loaded(wrong, message):
    amp = Amp("fp16", "cpu")
    before = amp.state_dict()
    if wrong and "model" not in wrong:
        wrong = Amp("fp16", "cpu", init_scale=4.0).state_dict() | wrong
    with pytest.raises(ValueError, match=message):
        amp.load_state_dict(wrong)
    assert amp.state_dict() == before


def test_no_state_between_unscale_and_step():
    p = weight()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.backward(p.sum())
    amp.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="called between amp.unscale_ and amp.step"):
        amp.state_dict()


def test_loaded_counts_go_to_optimizers_of_their_kind():
    p = weight()
    amp = Amp("fp16", "cpu")
    amp.load_state_dict(
        Amp("fp16", "cpu").state_dict()
        | {
            "skips": [
                {"name": name, "skipped": n, "streak": 0} for name, n in [("SGD", 5), ("Adam", 7)]
            ]
        }
    )
    overflow(amp, torch.optim.Adam([p]), p, OVERFLOW)
    assert amp.skipped.per_optimizer == {"SGD": 5, "Adam": 8}


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fp8", "cpu"), "precision must be one of fp32, tf32, bf16, fp16, got 'fp8'."),
        (("tf32", "cpu"), "tf32 is not supported on cpu, which has fp32, bf16, fp16."),
        (("bf16", "meta"), "bf16 is not supported on meta, which has fp32."),
    ],
)
def test_unsupported_precisions(arguments, message):
    with pytest.raises(ValueError, match=message):
        Amp(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none():
    with pytest.raises(
        ValueError, match="there is no CUDA device here for fp16 on cuda:1; try 'cpu'"
    ):
        Amp("fp16", "cuda:1")
    assert Amp().device.type == "cpu"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        *[
            (
                {"init_scale": wrong},
                r"init_scale must be a finite number > 0, such as 2.0\*\*16, got",
            )
            for wrong in (0, -1.0, math.nan, math.inf, 1e39, 1e-50, "1", None)
        ],
        *[
            ({name: wrong}, f"{name} must be a whole number of steps, at least 1, got {wrong}")
            for name in ("growth_interval", "max_skips")
            for wrong in (0, -1, 1.5)
        ],
    ],
)
def test_a_scaling_that_cannot_work_is_refused(precision, keywords, message):
    with pytest.raises(ValueError, match=message):
        Amp(precision, "cpu", **keywords)


class Plain:
    pass


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        (
            {"clip": 1.0},
            TypeError,
            r"dict of clip_gradients_'s keywords, such as dict\(max_norm=1.0",
        ),
        ({"clip": {"maxnorm": 1.0}}, TypeError, "has no 'maxnorm'; the nearest is 'max_norm'."),
        ({"clip": {"max_norm": 0.0}}, ValueError, "max_norm must be a number > 0"),
        ({"clip": {}}, ValueError, "give exactly one of max_norm, max_value, agc; got none."),
        ({"clip": {"agc": 0.1}}, TypeError, r"In Amp.step: clip=dict\(parameters=model, agc=...\)"),
        ({"scheduler": Plain()}, TypeError, r"expected a scheduler, with a step\(\), got Plain."),
    ],
)
def test_a_wrong_argument_changes_nothing(precision, keywords, kind, message):
    p = weight()
    amp, optimizer = Amp(precision, "cpu"), torch.optim.SGD([p], lr=1.0)
    amp.backward(p.sum())
    before = p.grad.clone()
    with pytest.raises(kind, match=message):
        amp.step(optimizer, **keywords)
    assert torch.equal(p.grad, before) and p.tolist() == [1.0, 1.0]
    assert amp.step(optimizer).stepped and p.tolist() == [0.0, 0.0]


def test_a_scheduler_that_needs_a_metric_is_refused():
    p = weight()
    amp, optimizer = Amp("fp32", "cpu"), torch.optim.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    amp.backward(p.sum())
    with pytest.raises(TypeError, match="ReduceLROnPlateau needs a metric: leave it out here"):
        amp.step(optimizer, scheduler=scheduler)
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_gradients_of_another_optimizer_are_not_clipped(precision):
    model, (x, y) = network(), batch()
    first = torch.optim.SGD(model[0].parameters(), lr=1.0)
    amp = Amp(precision, "cpu")
    amp.backward(loss_of(model, x, y))
    with pytest.raises(
        ValueError, match="clip: 2.weight, 2.bias do not belong to this SGD. For one"
    ):
        amp.step(first, clip={"parameters": model, "max_norm": 1.0})
    assert amp.step(first, clip={"parameters": model[0], "max_norm": 1e-3}).clip.clipped


# Reports


def test_reports_show():
    model, (x, y) = network(), batch()
    amp, optimizer = Amp("fp16", "cpu"), torch.optim.SGD(model.named_parameters(), lr=1.0)
    amp.backward(loss_of(model, x, y))
    report = amp.step(optimizer, clip={"max_norm": 0.1})
    first = str(report).splitlines()[0]
    assert first.startswith("stepped; loss scale 65536; gradient norm ") and "max_norm=0.1" in first
    assert set(report.clip.norms) == {name for name, _ in model.named_parameters()}
    shown = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert shown["stepped"] is True and shown["scale"] == 65536.0
    assert shown["clip"]["total_norm"] == pytest.approx(report.clip.total_norm)
    assert Amp("fp32", "cpu").step(optimizer).to_dict() == {
        "stepped": True,
        "scale": 1.0,
        "clip": None,
    }
    assert repr(amp) == "Amp('fp16', 'cpu')"


# TF32: a setting of the whole process, given back


def settings():
    def read(function):
        try:
            return function()
        except RuntimeError:  # torch, when its two switches disagree
            return "mixed"

    backends = torch.backends
    return {
        "old": read(lambda: backends.cuda.matmul.allow_tf32),
        "matmul": backends.cuda.matmul.fp32_precision,
        "conv": backends.cudnn.conv.fp32_precision,
        "rnn": backends.cudnn.rnn.fp32_precision,
        "cudnn": read(lambda: backends.cudnn.allow_tf32),
        "all": read(torch.get_float32_matmul_precision),
        "mkldnn": backends.mkldnn.matmul.fp32_precision,
    }


def set_old(value):
    torch.backends.cuda.matmul.allow_tf32 = value


def set_matmul(value):
    torch.backends.cuda.matmul.fp32_precision = value


def set_cudnn(value):
    torch.backends.cudnn.allow_tf32 = value


@pytest.fixture
def settings_kept():
    conv, rnn = (getattr(torch.backends.cudnn, each) for each in ("conv", "rnn"))
    before = torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision, rnn.fp32_precision
    yield
    set_old(False)
    set_cudnn(True)
    torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision, rnn.fp32_precision = before
    torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize(
    "start",
    [
        lambda: None,
        lambda: set_old(True),
        lambda: set_matmul("ieee"),
        lambda: set_matmul("tf32"),
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: set_cudnn(False),
    ],
    ids=["default", "old on", "ieee", "tf32", "high", "medium", "cudnn off"],
)
def test_tf32_is_set_and_given_back(settings_kept, start):
    start()
    before = settings()
    with pytest.raises(KeyboardInterrupt), dtypes.use_tf32():
        inside = settings()
        raise KeyboardInterrupt
    assert inside["matmul"] == inside["conv"] == inside["rnn"] == "tf32"
    assert inside["all"] != "mixed" or before["all"] == "mixed", "torch.compile reads this one"
    assert settings() == before


# CUDA


@pytest.mark.gpu
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.3}])
def test_cuda_fused_and_not_give_the_same(make, clip):
    results = []
    for fused in (False, True):
        model, (x, y) = network(device="cuda"), batch(device="cuda")
        amp, optimizer = Amp("fp16"), make(model.parameters(), lr=0.1, fused=fused)
        for factor in (1.0, OVERFLOW, 1.0, 1.0):
            optimizer.zero_grad()
            with amp.autocast():
                loss = loss_of(model, x, y)
            amp.backward(loss * factor)
            amp.step(optimizer, clip=clip)
        results.append((flat(model), amp.skipped.total, amp.state_dict()["scaler"]["scale"]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-6)
    assert results[0][1:] == results[1][1:] == (1, 32768.0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.3, "nonfinite": "ignore"}])
def test_cuda_does_not_wait(precision, clip):
    model, (x, y) = network(device="cuda"), batch(device="cuda")
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    amp, reports = Amp(precision), []
    for step in range(5):
        torch.cuda.set_sync_debug_mode("default" if step < 2 else "error")  # first, warm up
        try:
            optimizer.zero_grad()
            with amp.autocast():
                loss = loss_of(model, x, y)
            amp.backward(loss)
            reports.append(amp.step(optimizer, clip=clip))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(report.stepped for report in reports)
    assert amp.skipped.total == 0


@pytest.mark.gpu
def test_cuda_tf32_rounds_both_passes():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs compute capability 8.0")
    torch.manual_seed(0)
    x = torch.randn(512, 512, device="cuda")
    exact = x.double() @ x.double()
    amp, errors = Amp("tf32"), []
    for autocast in (amp.autocast, dtypes.nullcontext):
        with autocast():
            errors.append(((x @ x).double() - exact).abs().max().item())
    assert errors[0] > 10 * errors[1], "rounded, and not afterwards"

    weight = torch.randn(512, 512, device="cuda", requires_grad=True)
    grads = []
    for run in (amp, Amp("fp32")):
        weight.grad = None
        loss = ((x @ weight) * x).sum()  # outside of autocast: only backward differs
        run.backward(loss)
        grads.append(weight.grad.clone())
    assert not torch.equal(grads[0], grads[1])


@pytest.mark.gpu
def test_cuda_is_the_default():
    assert Amp("fp16").device.type == "cuda"
    assert Amp("fp16").scaler.is_enabled()
