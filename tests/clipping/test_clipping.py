"""clip_gradients_ by norm and by value: torch's numbers where torch is right, right elsewhere."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbkit.base.state import digest
from nbkit.clipping import ClipHistory, ClipReport, clip_gradients_, rule

MODES = {"norm": {"max_norm": 0.7}, "value": {"max_value": 0.3}, "agc": {"agc": 0.05}}
WAYS = ("host", "device")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Both ways through the code: with the result looked at, and as on a GPU, without."""
    if request.param == "device":
        monkeypatch.setattr(rule, "_are_on_cpu", lambda kinds: False)
    return request.param


def network(seed=0, scale=1.0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    for parameter in model.parameters():
        parameter.grad = (scale * torch.randn(parameter.shape)).to(dtype)
    return model


def grads(model):
    return [p.grad for p in model.parameters()]


def flat(model, dtype=torch.float64):
    return torch.cat([grad.flatten().to(dtype) for grad in grads(model)])


# Agreement with torch, and with a loop in float64


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6])
def test_by_norm_gives_the_bits_of_torch(norm_type, max_norm):
    ours, theirs = network(), network()
    report = clip_gradients_(ours, max_norm=max_norm, norm_type=norm_type)
    total = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type)
    assert report.total_norm == total.item()
    assert all(torch.equal(a, b) for a, b in zip(grads(ours), grads(theirs), strict=True))


@given(
    sizes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e20]),
    max_norm=st.floats(1e-6, 1e6),
    norm_type=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_by_norm_agrees_with_a_float64_loop(sizes, scale, max_norm, norm_type, seed):
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    for parameter in parameters:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    before = torch.cat([p.grad.flatten().double() for p in parameters])
    if math.isinf(norm_type):
        total = before.abs().max().item()
    else:
        total = (before.abs() ** norm_type).sum().item() ** (1 / norm_type)
    factor = min(1.0, max_norm / (total + 1e-6))

    report = clip_gradients_(parameters, max_norm=max_norm, norm_type=norm_type)

    after = torch.cat([p.grad.flatten().double() for p in parameters])
    assert report.total_norm == pytest.approx(total, rel=1e-5)
    assert report.coefficient == pytest.approx(factor, rel=1e-5)
    assert report.clipped == (report.coefficient < 1)
    torch.testing.assert_close(after, before * factor, rtol=1e-5, atol=1e-40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("max_value", [1e-3, 0.3, 100.0])
def test_by_value_gives_the_bits_of_torch(way, max_value, dtype):
    ours, theirs = network(dtype=dtype), network(dtype=dtype)
    report = clip_gradients_(ours, max_value=max_value, nonfinite="skip")
    nn.utils.clip_grad_value_(theirs.parameters(), max_value)
    assert all(torch.equal(a, b) for a, b in zip(grads(ours), grads(theirs), strict=True))
    peak = flat(network(dtype=dtype)).abs().max().item()
    assert report.clipped == (peak > max_value)
    assert report.coefficient == pytest.approx(min(1.0, max_value / peak))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nonfinite", ["skip", "ignore"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e20])
def test_both_ways_agree(monkeypatch, mode, nonfinite, scale):
    host, device = network(scale=scale), network(scale=scale)
    first = clip_gradients_(host, **MODES[mode], nonfinite=nonfinite)
    monkeypatch.setattr(rule, "_are_on_cpu", lambda kinds: False)
    second = clip_gradients_(device, **MODES[mode], nonfinite=nonfinite)
    torch.testing.assert_close(flat(host), flat(device), rtol=1e-6, atol=0)
    assert first.norms == pytest.approx(second.norms, rel=1e-6)
    assert first.coefficient == pytest.approx(second.coefficient, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nonfinite", ["skip", "ignore"])
def test_off_the_cpu_nothing_is_read(monkeypatch, mode, nonfinite):
    monkeypatch.setattr(rule, "_are_on_cpu", lambda kinds: False)
    model = network()
    with monkeypatch.context() as patch:
        patch.setattr(ClipReport, "_numbers", property(lambda report: pytest.fail("it was read")))
        report = clip_gradients_(model, **MODES[mode], nonfinite=nonfinite)
        ClipHistory().add(report)
    assert report.clipped


# The report


@pytest.mark.parametrize("mode", MODES)
def test_squares_of_the_norms_sum_to_the_total(way, mode):
    model = network()
    expected = {n: p.grad.double().norm().item() for n, p in model.named_parameters()}
    report = clip_gradients_(model, **MODES[mode], nonfinite="skip")
    assert report.norms == pytest.approx(expected, rel=1e-6)
    squares = sum(norm**2 for norm in report.norms.values())
    assert math.sqrt(squares) == pytest.approx(report.total_norm, rel=1e-6)


def test_the_norm_is_the_one_before_clipping():
    model = network()
    before = flat(model).norm().item()
    report = clip_gradients_(model, max_norm=0.1)
    assert report.total_norm == pytest.approx(before)
    assert flat(model).norm().item() == pytest.approx(0.1, rel=1e-4)
    assert report.clipped and report.coefficient == pytest.approx(0.1 / before, rel=1e-4)


def test_infinity_measures_only(way):
    for bad in (0.0, math.inf, math.nan):
        model = network(scale=1e20)
        model[0].bias.grad[0] = bad
        before = flat(model)
        report = clip_gradients_(model, max_norm=math.inf, nonfinite="ignore")
        torch.testing.assert_close(flat(model), before, rtol=0, atol=0, equal_nan=True)
        assert not report.clipped and not report.total_norm <= 1e20


def test_excluding_nothing_is_no_mistake():
    for nothing in ((), [], ""):
        assert clip_gradients_(network(), max_norm=1.0, exclude=nothing).clipped


def test_a_model_without_gradients():
    report = clip_gradients_(nn.Linear(2, 2), max_norm=1.0)
    assert (report.total_norm, report.clipped, report.norms) == (0.0, False, {})
    assert str(report) == "gradient norm 0, max_norm=1: not clipped"


def test_a_tied_weight_counts_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.grad = torch.ones(3, 3)
    for parameters in (model, [model[0].weight, model[1].weight]):
        model[0].weight.grad.fill_(1.0)
        report = clip_gradients_(parameters, max_norm=1.5)
        assert report.total_norm == pytest.approx(3.0)
        assert model[0].weight.grad.norm().item() == pytest.approx(1.5)


# Where torch is wrong


def test_no_overflow_at_1e20(way):
    model = network(scale=1e20)
    assert torch._foreach_norm(grads(model), 2.0)[0].isinf(), "a float32 norm overflows"
    before = flat(model)
    report = clip_gradients_(model, max_norm=1.0, nonfinite="skip")
    assert report.total_norm == pytest.approx(before.norm().item())
    torch.testing.assert_close(flat(model), before / before.norm(), rtol=1e-5, atol=0)


def test_half_precision_gradients_have_a_float32_norm(way):
    model = network(dtype=torch.float16)
    for grad in grads(model):
        grad.fill_(60_000.0)
    count = flat(model).numel()
    report = clip_gradients_(model, max_norm=1.0, nonfinite="skip")
    assert report.total_norm == pytest.approx(60_000 * math.sqrt(count), rel=1e-5)
    assert flat(model).norm().item() == pytest.approx(1.0, rel=1e-3)


def test_a_factor_too_small_for_half_precision(way):
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    weight.grad = torch.full((4,), 6e4, dtype=torch.float16)
    clip_gradients_([weight], max_norm=1e-3, nonfinite="skip")  # a factor of 8e-9 is 0 in fp16
    assert weight.grad.tolist() == pytest.approx([5e-4] * 4, rel=1e-2)


def test_mixed_precisions(way):
    weights = [nn.Parameter(torch.zeros(3, dtype=t)) for t in (torch.float16, torch.bfloat16)]
    weights += [nn.Parameter(torch.zeros(3, dtype=t)) for t in (torch.float32, torch.float64)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    report = clip_gradients_(weights, max_norm=1.0, nonfinite="skip")
    assert report.total_norm == pytest.approx(math.sqrt(48))
    for weight in weights:
        assert weight.grad.tolist() == pytest.approx([2 / math.sqrt(48)] * 3, rel=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", MODES)
def test_not_finite_is_raised_by_name_and_nothing_is_touched(mode, bad):
    model = network()
    model[2].weight.grad[1, 2] = bad
    before = [grad.clone() for grad in grads(model)]
    with pytest.raises(
        FloatingPointError, match=r"of 1 of 4 parameters are not finite: 2.weight. "
    ):
        clip_gradients_(model, **MODES[mode])
    for a, b in zip(grads(model), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", MODES)
def test_not_finite_can_be_skipped(way, mode, bad):
    model = network()
    model[0].bias.grad[3] = bad
    before = [grad.clone() for grad in grads(model)]
    report = clip_gradients_(model, **MODES[mode], nonfinite="skip")
    assert report.nonfinite == ("0.bias",)
    assert not report.clipped
    for a, b in zip(grads(model), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_not_finite_can_be_ignored_as_torch_does(way):
    ours, theirs = network(), network()
    for model in (ours, theirs):
        model[0].bias.grad[3] = math.inf
    report = clip_gradients_(ours, max_norm=1.0, nonfinite="ignore")
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    assert report.nonfinite == ("0.bias",)
    torch.testing.assert_close(flat(ours), flat(theirs), equal_nan=True)
    assert flat(ours).isnan().any() and (flat(ours) == 0).any(), "what 'ignore' costs"


def test_a_sparse_gradient_is_clipped_as_the_dense_one():
    tables = [nn.Embedding(6, 3, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    for table in tables:
        (table(torch.tensor([1, 4, 1, 1])) ** 2).sum().backward()
    reports = [clip_gradients_(table, max_norm=0.5) for table in tables]
    assert reports[0].total_norm == pytest.approx(reports[1].total_norm)
    torch.testing.assert_close(tables[0].weight.grad.to_dense(), tables[1].weight.grad)


@pytest.mark.parametrize("repeated", [True, False])
@pytest.mark.parametrize("mode", ["norm", "value"])
def test_a_sparse_gradient_that_is_not_clipped_is_not_touched(mode, repeated):
    table = nn.Embedding(6, 3, sparse=True)
    table(torch.tensor([1, 1] if repeated else [1])).sum().backward()
    before = digest(table)
    assert not clip_gradients_(table, **{f"max_{mode}": 100.0}).clipped
    assert digest(table) == before
    table.weight.grad = table.weight.grad * math.nan
    before = digest(table)
    with pytest.raises(FloatingPointError, match="1 of 1 parameters are not finite: weight"):
        clip_gradients_(table, **MODES[mode])
    assert clip_gradients_(table, **MODES[mode], nonfinite="skip").nonfinite == ("weight",)
    assert digest(table) == before


# Complex parameters


def complexes(dtype=torch.complex64, scale=1.0):
    """A complex and a real parameter; the first gradient is conjugated lazily, as autograd may."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.ones(3, dtype=dtype)), nn.Parameter(torch.ones(2))]
    parameters[0].grad = (scale * torch.randn(3, dtype=dtype)).conj()
    parameters[1].grad = scale * torch.randn(2)
    return parameters


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_complex_gradients_by_norm_as_torch(way, max_norm, norm_type, dtype):
    ours, theirs = complexes(dtype), complexes(dtype)
    theirs[0].grad = theirs[0].grad.resolve_conj()  # torch 2.13 does not take the lazy one
    report = clip_gradients_(ours, max_norm=max_norm, norm_type=norm_type, nonfinite="skip")
    total = nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert report.total_norm == pytest.approx(total.item(), rel=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad.to(a.dtype), rtol=1e-6, atol=0)


def test_complex_gradients_that_are_not_finite_are_left_alone(way):
    parameters = complexes()
    parameters[0].grad = torch.tensor([complex(math.inf, 1.0), 1j, 2.0])
    before = parameters[0].grad.clone()
    report = clip_gradients_(parameters, max_norm=0.1, nonfinite="skip")
    assert report.nonfinite == ("0",)
    assert torch.equal(parameters[0].grad, before)


def test_complex_gradients_do_not_overflow_at_1e20(way):
    report = clip_gradients_(complexes(scale=1e20), max_norm=1.0, nonfinite="skip")
    expected = clip_gradients_(complexes(), max_norm=math.inf).total_norm
    assert report.total_norm == pytest.approx(1e20 * expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["value", "agc"])
def test_complex_gradients_are_refused_where_it_is_not_defined(mode):
    model = nn.ParameterList(complexes())
    before = digest(model)
    with pytest.raises(TypeError, match="need real parameters, but 0 are complex: use max_norm"):
        clip_gradients_(model, **MODES[mode])
    assert digest(model) == before


# Refusals


@pytest.mark.parametrize("wrong", [0, 0.0, -1.0, math.nan, -math.inf])
def test_a_max_norm_that_is_not_positive_is_refused(wrong):
    model = network()
    with pytest.raises(
        ValueError, match=r"max_norm must be a number > 0 \(inf measures without cl"
    ):
        clip_gradients_(model, max_norm=wrong)
    assert torch.equal(flat(model), flat(network()))


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({}, ValueError, "give exactly one of max_norm, max_value, agc; got none."),
        ({"max_norm": 1.0, "agc": 0.1}, ValueError, "got {'max_norm': 1.0, 'agc': 0.1}."),
        ({"max_norm": "1"}, TypeError, "max_norm must be a number > 0"),
        ({"max_norm": True}, TypeError, "got True."),
        (
            {"max_norm": torch.tensor(1.0)},
            TypeError,
            r"got a tensor. Reading a tensor waits for its GPU, at every step: .* with .item\(\).",
        ),
        ({"max_value": math.inf}, ValueError, "max_value must be a finite number > 0, got inf."),
        ({"max_value": -1}, ValueError, "max_value must be a finite number > 0, got -1."),
        ({"agc": 0.0}, ValueError, "agc must be a finite number > 0, got 0.0."),
        ({"agc": 0.1, "eps": 0.0}, ValueError, "eps must be a finite number > 0, got 0.0."),
        ({"max_norm": 1.0, "norm_type": 0.0}, ValueError, "norm_type must be a number > 0 "),
        ({"max_norm": 1.0, "norm_type": "inf"}, TypeError, "norm_type must be a number > 0 "),
        ({"max_norm": 1.0, "nonfinite": "warn"}, ValueError, "'skip' or 'ignore', got 'warn'."),
        ({"max_norm": 1.0, "eps": 1e-3}, ValueError, "eps and exclude belong to agc."),
        ({"max_value": 1.0, "exclude": "0"}, ValueError, "eps and exclude belong to agc."),
        ({"agc": 0.1, "exclude": None}, TypeError, "a list of these, got None. To exclude nothing"),
        ({"max_norm": 1.0, "exclude": 3}, TypeError, "exclude must be a name, a module or a list"),
        ({"max_norm": 1.0, "exclude": nn.Linear(1, 1)}, ValueError, "eps and exclude belong to"),
    ],
)
def test_refusals(keywords, kind, message):
    model = network()
    with pytest.raises(kind, match=message):
        clip_gradients_(model, **keywords)
    assert torch.equal(flat(model), flat(network()))


def test_gradients_spread_over_ranks_are_refused():
    class Spread(torch.Tensor):
        def full_tensor(self):
            return self

    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2).as_subclass(Spread)
    with pytest.raises(TypeError, match="spread over the ranks"):
        clip_gradients_([weight], max_norm=1.0)


# What it leaves alone


@pytest.mark.parametrize("mode", MODES)
def test_nothing_but_the_gradients_is_touched(mode):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    saved, tensors = [grad.clone() for grad in grads(model)], grads(model)
    before = digest(model, optimizer)
    assert clip_gradients_(model, **MODES[mode]).clipped
    assert digest(model, optimizer) != before, "or the digest sees no gradients"
    assert all(a is b for a, b in zip(grads(model), tensors, strict=True)), "clipped in place"
    torch._foreach_copy_(grads(model), saved)
    assert digest(model, optimizer) == before


# ClipHistory


def history_of(norms, max_norm=10.0):
    weight, history = nn.Parameter(torch.zeros(1)), ClipHistory()
    for norm in norms:
        weight.grad = torch.tensor([float(norm)])
        history.add(clip_gradients_([weight], max_norm=max_norm, nonfinite="skip"))
    return history


def test_history_counts_and_suggests():
    history = history_of([*range(1, 11), math.inf, 11, math.nan, 12])
    assert len(history) == 14
    assert history.nonfinite == 2
    assert history.clipped_fraction == pytest.approx(3 / 12)  # 10, 11 and 12: 1e-6 is added
    assert history.quantile(0.5) == pytest.approx(6.5)
    assert history.suggest_max_norm(0.25) == pytest.approx(9.25)
    assert history.norms[:2] == [1.0, 2.0]


@given(st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=60), st.floats(0.0, 0.9))
@settings(max_examples=50, deadline=None)
def test_the_suggestion_clips_the_share_that_was_asked_for(norms, fraction):
    threshold = history_of(norms).suggest_max_norm(fraction)
    above = sum(torch.tensor(norm).item() > threshold * (1 + 1e-6) for norm in norms)
    assert above <= math.ceil(fraction * len(norms))


def test_history_reads_what_was_added_since():
    history = history_of([1.0])
    assert history.quantile(1.0) == 1.0
    history.add(clip_gradients_(network(), max_norm=1.0))
    assert history.quantile(1.0) > 1.0 and len(history.norms) == 2


def test_history_shows():
    history = history_of([1, 2, 20, math.nan])
    assert str(history).splitlines()[0] == (
        "33% of 4 steps clipped, 1 not finite; max_norm=16.4 would clip one in ten"
    )
    shown = json.loads(json.dumps(history.to_dict(), allow_nan=False))
    assert shown["norms"] == [1.0, 2.0, 20.0, None]
    assert shown["suggested_max_norm"] == pytest.approx(16.4)
    assert str(ClipHistory()) == "0 steps, none with a finite norm"
    assert ClipHistory().to_dict()["clipped_fraction"] is None


def test_history_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = history_of([1, 2, 20, math.nan, 3]).plot(pyplot.subplots()[1])
    norms, clipped, suggestion = ax.lines
    assert list(norms.get_xdata()) == [1, 2, 3, 5]
    assert list(clipped.get_xdata()) == [3] and list(clipped.get_ydata()) == [20.0]
    assert suggestion.get_ydata()[0] == pytest.approx(history_of([1, 2, 20, 3]).suggest_max_norm())
    assert ax.get_yscale() == "log"
    pyplot.close(ax.figure)


def test_history_refusals():
    with pytest.raises(
        TypeError, match=r"expected a ClipReport, got float. clip_gradients_ returns"
    ):
        ClipHistory().add(1.0)
    with pytest.raises(ValueError, match="none of the 0 steps added so far has a finite norm"):
        ClipHistory().suggest_max_norm()
    with pytest.raises(ValueError, match="fraction must be between 0 and 1, got 1.5"):
        history_of([1.0]).suggest_max_norm(1.5)


# CUDA


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nonfinite", ["skip", "ignore"])
def test_cuda_does_not_wait(mode, nonfinite):
    model = network().cuda()
    expected = clip_gradients_(network(), **MODES[mode])
    history = ClipHistory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        report = clip_gradients_(model, **MODES[mode], nonfinite=nonfinite)
        history.add(report)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert report.norms == pytest.approx(expected.norms, rel=1e-5)
    assert report.coefficient == pytest.approx(expected.coefficient, rel=1e-5)
    assert history.norms == pytest.approx([expected.total_norm], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_cuda_agrees_with_cpu(mode, scale):
    on_cpu, on_gpu = network(scale=scale), network(scale=scale).cuda()
    clip_gradients_(on_cpu, **MODES[mode])
    clip_gradients_(on_gpu, **MODES[mode])
    torch.testing.assert_close(flat(on_gpu).cpu(), flat(on_cpu), rtol=1e-5, atol=0)


@pytest.mark.gpu
def test_cuda_raises_and_touches_nothing():
    model = network().cuda()
    model[0].bias.grad[0] = math.inf
    before = flat(model)
    with pytest.raises(FloatingPointError, match="not finite: 0.bias"):
        clip_gradients_(model, max_norm=1.0)
    assert torch.equal(flat(model), before)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_model_on_two_devices(mode, nonfinite):
    alone, spread = network(), network()
    spread[2].cuda()
    expected = clip_gradients_(alone, **MODES[mode])
    report = clip_gradients_(spread, **MODES[mode], nonfinite=nonfinite)
    assert report.norms == pytest.approx(expected.norms, rel=1e-5)
    spread.cpu()
    torch.testing.assert_close(flat(spread), flat(alone), rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, math.inf])
def test_a_gradient_without_elements_has_the_norm_0(mode, norm_type, way):
    model = network()
    alone = clip_gradients_(network(), **MODES[mode], norm_type=norm_type)
    for name, shape in {"no_rows": (0, 4), "no_columns": (3, 0)}.items():
        model.register_parameter(name, nn.Parameter(torch.ones(shape)))
        getattr(model, name).grad = torch.ones(shape)
    report = clip_gradients_(model, **MODES[mode], norm_type=norm_type)
    assert report.total_norm == pytest.approx(alone.total_norm)
    assert report.norms["no_rows"] == report.norms["no_columns"] == 0


@pytest.mark.parametrize("mode", ["norm", "value"])
def test_a_sparse_gradient_of_no_token_has_the_norm_0(mode):
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.empty(0, dtype=torch.long)).sum().backward()
    assert clip_gradients_(table, **MODES[mode], norm_type=math.inf).total_norm == 0
