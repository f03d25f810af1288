"""BatchNorm's running statistics: exact ones, gaps, freezing, guarding, slower momentum."""

import copy
import io
import json
import math
import pickle
import sys
from collections import UserDict

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from nbkit.base.state import digest
from nbkit.batchnorm import (
    BNVerdict,
    bn_gap,
    freeze_bn_,
    guard_bn,
    reestimate_bn_,
    rescale_bn_momentum_,
)
from nbkit.batchnorm.moments import Moments
from nbkit.batchnorm.singles import group_singles

NAN = math.nan


def normal(*shape, seed=0, mean=0.0, std=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std + mean


def population(x):
    """Mean and biased variance by channel, in float64 over everything at once."""
    x = x.double().transpose(0, 1).flatten(1)
    return x.mean(1), x.var(1, correction=0)


def net(seed=0):
    """Two BatchNorm layers, with dropout between them."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.BatchNorm1d(6),
        nn.Linear(6, 3),
    )
    for step in range(3):
        model(normal(16, 4, seed=step))
    return model


def layer(report, name):
    return next(row for row in report.layers if row.name == name)


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def put_back(model, kept):
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])


def hooks_of(model):
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]


# reestimate_bn_: the statistics


@st.composite
def ragged(draw):
    """Data of some shape and scale, and a way to cut it into batches."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda s: sum(s) > 1))
    channels = draw(st.integers(1, 3))
    positions = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    mean = draw(st.sampled_from([0.0, -3.0, 1000.0]))
    std = draw(st.sampled_from([0.01, 1.0, 50.0]))
    x = normal(sum(sizes), channels, *positions, seed=draw(st.integers(0, 99)), mean=mean, std=std)
    return x, sizes


@settings(max_examples=150, deadline=None)
@given(ragged())
def test_every_split_gives_the_population_statistics(case):
    x, sizes = case
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[x.ndim]
    bn = kind(x.shape[1])
    reestimate_bn_(bn, x.split(sizes))
    mean, var = population(x)
    # What is left is the rounding of the buffers, and of deviations in float32.
    torch.testing.assert_close(
        bn.running_mean.double(), mean, rtol=1e-7, atol=1e-6 * var.max().sqrt()
    )
    torch.testing.assert_close(
        bn.running_var.double(), var, rtol=2e-6, atol=1e-14 * mean.square().max()
    )
    assert (bn.running_var >= 0).all()


def test_more_batches_than_wait_on_the_device_at_once():
    x = normal(1000, 2, mean=5.0)
    bn = nn.BatchNorm1d(2)
    reestimate_bn_(bn, x.split(7))
    torch.testing.assert_close(bn.running_var.double(), population(x)[1], rtol=1e-6, atol=0)
    assert bn.num_batches_tracked == 143


def test_what_waits_on_the_device_is_bounded():
    moments = Moments(nn.BatchNorm1d(2))
    for _ in range(1000):
        moments.add_input(normal(4, 2))
        assert len(moments._waiting) < 100


@pytest.mark.parametrize("std", [0.0, 0.01])
def test_a_large_mean_does_not_cancel_the_variance_away(std):
    """In float32 E[x^2] - E[x]^2 is negative here."""
    x = normal(256, 3, 5, 5, mean=1000.0, std=std).contiguous(memory_format=torch.channels_last)
    bn = nn.BatchNorm2d(3)
    reestimate_bn_(bn, x.split(100))
    assert (bn.running_var >= 0).all()
    torch.testing.assert_close(bn.running_var.double(), population(x)[1], rtol=1e-6, atol=1e-12)


def test_batches_with_different_means_and_a_ragged_last_one():
    """Where the average of the batches' statistics is far off: mean 3.1 for 0.4, var 1 for 4.5."""
    x = torch.cat([normal(96, 1), normal(2, 1, mean=12.0, seed=1)])
    mean, var = population(x)
    ours = nn.BatchNorm1d(1)
    reestimate_bn_(ours, x.split(32))
    torchs = nn.BatchNorm1d(1)
    torch.optim.swa_utils.update_bn(x.split(32), torchs)
    torch.testing.assert_close(ours.running_mean.double(), mean)
    torch.testing.assert_close(ours.running_var.double(), var)
    assert torchs.running_mean > 5 * mean and torchs.running_var < 0.5 * var


def test_a_deeper_layer_sees_the_inputs_of_train_mode_without_dropout():
    model = net()
    x = normal(40, 4, seed=5)
    reestimate_bn_(model, [x[:30], x[30:]])
    with torch.no_grad():
        parts = [
            torch.relu(
                torch.nn.functional.batch_norm(
                    model[0](part), None, None, model[1].weight, model[1].bias, training=True
                )
            )
            for part in (x[:30], x[30:])
        ]
    mean, var = population(torch.cat(parts))
    torch.testing.assert_close(model[4].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[4].running_var.double(), var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(39, 1), (1, 39), (1,) * 40], ids=["last", "first", "all"])
def test_batches_of_one_sample_pass(sizes):
    model = net()
    x = normal(40, 4, seed=5)
    reestimate_bn_(model, x.split(sizes))
    mean, _ = population(model[0](x).detach())
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    whole = copy.deepcopy(model)
    reestimate_bn_(whole, [x])  # the single samples are normalised as this does, more or less
    ratio = model[4].running_var / whole[4].running_var
    assert (ratio.log().abs() < 0.7).all()


def deep(layers=3):
    """Starved layers behind one another: what the first does wrong, the others see."""
    torch.manual_seed(0)
    blocks = [[nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()] for _ in range(layers)]
    return nn.Sequential(*(module for block in blocks for module in block))


def seen_in_eval(model, x, index):
    """The variance that the layer really gets at prediction."""
    with torch.no_grad():
        return model[:index].eval()(x).double().var(0, correction=0)


@pytest.mark.parametrize("form", ["tensors", "pairs", "one tensor again and again"])
@pytest.mark.parametrize("sizes", [[1] * 100, [1] * 17, [1] * 60 + [40], [40] + [1] * 60])
def test_single_samples_give_the_variance_that_prediction_sees(sizes, form):
    x = normal(sum(sizes), 4, mean=3.0, std=2.0)

    def loader():
        buffer = torch.empty(1, 4)
        for part in x.split(sizes):
            if form == "one tensor again and again" and len(part) == 1:
                part = buffer.copy_(part)
            yield (part, "no rows in a target") if form == "pairs" else part

    model = deep()
    reestimate_bn_(model, loader())
    assert model[1].num_batches_tracked == len(sizes)
    for index in (4, 7):
        ratio = model[index].running_var / seen_in_eval(model, x, index)
        assert ratio.max() < 1.5 and ratio.min() > 0.6


@pytest.mark.parametrize(
    ("sizes", "passed"),
    [
        ([1] * 5, [5]),
        ([1] * 40, [16, 24]),
        ([8, 1, 8], [8, 8, 1]),
        ([39, 1, 1], [39, 1, 1]),  # after others these are served better than by a group of two
        ([2, 3], [2, 3]),
    ],
)
def test_single_samples_pass_in_groups_of_16_or_more(sizes, passed):
    groups = group_singles(normal(sum(sizes), 4).split(sizes), lambda batch: True)
    assert [len(g[0] if isinstance(g, tuple) else g) for g in groups] == passed


def test_single_samples_give_the_same_answer_again():
    """Nothing of the statistics from before is left in the answer."""
    model, data = deep(), normal(50, 4, mean=3.0).split(1)
    reestimate_bn_(model, data)
    first = copy.deepcopy(model.state_dict())
    reestimate_bn_(model, data)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_single_samples_that_starve_no_layer_pass_alone():
    """An image has a variance of its own: it is normalised by it, as ever."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
    passed = []
    model.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    reestimate_bn_(model, normal(40, 1, 6, 6).split(1))
    assert set(passed) == {1}


def test_single_samples_of_several_sizes_pass_alone():
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.BatchNorm1d(2))
    samples = [normal(1, 2, 3 + i % 4, seed=i) for i in range(40)]
    reestimate_bn_(model, samples)
    pooled = torch.cat([sample.mean(2) for sample in samples])
    torch.testing.assert_close(model[2].running_var.double(), population(pooled)[1])


def test_one_sample_is_normalised_by_the_statistics_so_far_not_by_stale_ones():
    model = net()
    model[1].running_mean.fill_(-1e6)
    x = normal(40, 4, seed=5)
    reestimate_bn_(model, [x[:39], x[39:]])
    assert (model[4].running_var < 5).all()


def test_poisoned_statistics_are_healed_also_when_the_first_batch_is_one_sample():
    model = net()
    model[1].running_var.fill_(NAN)
    model[1].running_mean.fill_(NAN)
    reestimate_bn_(model, normal(40, 4).split((1, 39)))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_an_empty_batch_counts_for_nothing():
    x = normal(8, 2)
    bn = nn.BatchNorm1d(2)
    reestimate_bn_(bn, [x, x[:0]])
    torch.testing.assert_close(bn.running_mean.double(), population(x)[0], rtol=1e-6, atol=1e-7)


def test_a_layer_used_twice_counts_both_inputs():
    bn = nn.BatchNorm1d(2)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = bn

        def forward(self, x):
            return self.bn(x) + self.bn(input=3 * x + 1)

    x = normal(20, 2)
    reestimate_bn_(Twice(), [x])
    both = population(torch.cat([x, 3 * x + 1]))
    torch.testing.assert_close(bn.running_mean.double(), both[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bn.running_var.double(), both[1], rtol=1e-6, atol=1e-6)


def test_half_precision_inputs_are_summed_in_float32():
    x = normal(4000, 2, mean=300.0, std=30.0).bfloat16()
    bn = nn.BatchNorm1d(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reestimate_bn_(bn, [x])
    torch.testing.assert_close(bn.running_var.double(), population(x)[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_without_reset_the_data_is_one_more_batch(momentum):
    x = normal(50, 2, mean=2.0)
    bn = nn.BatchNorm1d(2, momentum=momentum)
    for seed in range(3):
        bn(normal(8, 2, seed=seed))
    old_mean, old_var = bn.running_mean.clone(), bn.running_var.clone()
    reestimate_bn_(bn, x.split(20), reset=False)
    mean, var = (t.float() for t in population(x))
    weight = momentum or 1 / 4
    torch.testing.assert_close(bn.running_mean, old_mean * (1 - weight) + mean * weight)
    torch.testing.assert_close(bn.running_var, old_var * (1 - weight) + var * weight)
    assert bn.num_batches_tracked == 4


def test_the_report_says_how_far_the_old_statistics_were():
    bn = nn.BatchNorm1d(2, eps=1e-12)
    bn.running_mean.copy_(torch.tensor([3.0, 0.0]))
    bn.running_var.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    report = reestimate_bn_(bn, [x])
    row = layer(report, "")
    assert row.mean_gap == pytest.approx(3 / math.sqrt(2))
    assert row.var_gap == pytest.approx(math.log(4) / math.sqrt(2))
    assert (row.verdict, row.advice) == (BNVerdict.ESTIMATED, "From 2 values a channel.")
    assert report.output_gap is None


# reestimate_bn_: what it takes, and what it leaves alone


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, 0), lambda x: [x], lambda x: {"input": x}]
)
def test_batches_may_be_tensors_pairs_or_keywords(wrap):
    x = normal(10, 2)
    bn = nn.BatchNorm1d(2)
    reestimate_bn_(bn, [wrap(x)])
    torch.testing.assert_close(bn.running_mean.double(), population(x)[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("device", ["cpu", None])
def test_inputs_go_to_the_device(device):
    went = []

    class Input:
        def to(self, device):
            went.append(torch.device(device))
            return normal(8, 2)

    reestimate_bn_(nn.BatchNorm1d(2), [Input()], device=device)
    assert went == [torch.device("cpu")]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_is_touched(training):
    model = net().train(training)
    if training:
        model[2].eval()
    model[1].momentum = None
    model(normal(8, 4)).sum().backward()
    loader = DataLoader(TensorDataset(normal(50, 4)), batch_size=8, shuffle=True)
    before, kept, hooks = digest(model), statistics(model), hooks_of(model)
    places = [(id(b), b.data_ptr()) for b in model.buffers()]
    reestimate_bn_(model, loader)
    assert digest(model) != before
    assert [(id(b), b.data_ptr()) for b in model.buffers()] == places
    put_back(model, kept)
    assert digest(model) == before
    assert hooks_of(model) == hooks
    assert model[1].momentum is None and model[1].track_running_stats


def raising(error, width=4):
    yield normal(8, width)
    raise error


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (
            lambda: [],
            ValueError,
            "batches gave no batch: is it empty, or a generator that was used",
        ),
        (lambda: raising(RuntimeError("disk")), RuntimeError, "disk"),
        (lambda: raising(KeyboardInterrupt()), KeyboardInterrupt, None),
        (
            lambda: [normal(8, 4), normal(8, 4) * NAN],
            ValueError,
            "inputs of layer '1' are not finite",
        ),
        (lambda: [normal(1, 4)], ValueError, "Layer '1' saw one value a channel, which has no var"),
        (lambda: [normal(8, 5)], RuntimeError, "shapes cannot be multiplied"),
    ],
    ids=["empty", "loader fails", "interrupt", "nan", "one value", "wrong shape"],
)
def test_a_failure_leaves_the_model_as_it_was(batches, error, message):
    model = net()
    before, hooks = digest(model), hooks_of(model)
    with pytest.raises(error, match=message):
        reestimate_bn_(model, batches())
    assert digest(model) == before
    assert hooks_of(model) == hooks
    assert model[1].track_running_stats and model[1].momentum == 0.1


def test_a_layer_says_itself_what_shape_it_takes():
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        reestimate_bn_(nn.BatchNorm1d(3), [normal(3)])
    with pytest.raises(ValueError, match="expected 4D input"):
        bn_gap(nn.BatchNorm2d(3), normal(2, 3))


def test_poisoned_statistics_cannot_be_built_on():
    bn = nn.BatchNorm1d(2)
    bn.running_mean.fill_(NAN)
    with pytest.raises(ValueError, match=r"layer '' are not finite, and reset=False builds on"):
        reestimate_bn_(bn, [normal(8, 2)], reset=False)


@pytest.mark.parametrize("reset", [True, False])
def test_statistics_that_the_buffers_cannot_hold_are_refused(reset):
    x = normal(64, 2).half()
    model = nn.Sequential(nn.BatchNorm1d(2).half())
    before = digest(model)
    with pytest.raises(
        ValueError, match=r"layer '0' .* beyond 6.55e\+04, the largest torch.float16"
    ):
        reestimate_bn_(model, [x * 500], reset=reset)
    assert digest(model) == before
    reestimate_bn_(model, [x * 100], reset=reset)
    assert model[0].running_var.isfinite().all()


def test_a_lazy_layer_is_refused():
    with pytest.raises(TypeError, match="has no shape yet"):
        reestimate_bn_(nn.LazyBatchNorm1d(), [normal(8, 2)])


@pytest.mark.parametrize("how", ["handle", "handle, model in eval", "eval inside train"])
def test_frozen_layers_are_left(how):
    model = net()
    if how == "eval inside train":
        model[1].eval()
    else:
        freeze_bn_(model[:2])
        model.train(how == "handle")
    kept = statistics(model)
    report = reestimate_bn_(model, [normal(30, 4)])
    assert layer(report, "1").verdict is BNVerdict.FROZEN
    assert layer(report, "1").advice == "Left as it was."
    assert torch.equal(model[1].running_mean, kept["1.running_mean"])
    assert not torch.equal(model[4].running_mean, kept["4.running_mean"])
    assert not model[1].training


def test_layers_without_running_statistics_and_uncalled_ones_are_reported():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.bare = nn.BatchNorm1d(2, track_running_stats=False)
            self.unused = nn.BatchNorm1d(2)
            self.used = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.used(self.bare(x))

    model = Odd()
    report = reestimate_bn_(model, [normal(8, 2)])
    assert layer(report, "bare").verdict is BNVerdict.NO_STATISTICS
    assert "no running statistics (track_running_stats=False)" in layer(report, "bare").advice
    assert layer(report, "unused").verdict is BNVerdict.NOT_CALLED
    assert layer(report, "unused").advice.endswith("with this data: left as it was.")
    assert model.unused.num_batches_tracked == 0
    gap = bn_gap(model, normal(8, 2))
    assert layer(gap, "bare").verdict is BNVerdict.NO_STATISTICS
    assert layer(gap, "unused").verdict is BNVerdict.NOT_CALLED


def test_a_model_without_batchnorm_says_so():
    model = nn.Linear(2, 2)
    assert str(reestimate_bn_(model, [])) == "no BatchNorm layer in this model"
    assert str(bn_gap(model, normal(2, 2))) == "no BatchNorm layer in this model"


def test_a_compiled_model_is_taken_as_what_it_wraps():
    model = nn.Sequential(nn.BatchNorm1d(2))
    report = reestimate_bn_(torch.compile(model, backend="eager"), [normal(8, 2)])
    assert [row.name for row in report.layers] == ["0"]


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_the_layers_of_a_compiled_part_are_seen(way):
    """Compiled code runs without the hooks that came after it."""
    runs = []

    def backend(graph, _):
        return lambda *args: runs.append(1) or graph(*args)

    class Part(nn.Module):  # dynamo does not compile a Sequential in place
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.bn(x).relu()

    part = Part()
    if way == "in place":
        part.compile(backend=backend)
    model = nn.Sequential(part if way == "in place" else torch.compile(part, backend=backend))
    x = normal(64, 4, mean=3.0)
    model(x)
    assert runs == [1]
    (row,) = bn_gap(model, x).layers
    assert row.verdict is BNVerdict.TOO_FEW_STEPS
    (row,) = reestimate_bn_(model, [x]).layers
    assert (row.verdict, row.advice) == (BNVerdict.ESTIMATED, "From 64 values a channel.")
    torch.testing.assert_close(part.bn.running_mean.double(), population(x)[0])
    assert bn_gap(model, x).layers[0].verdict == "fresh"
    assert runs == [1]
    model(x)
    assert runs == [1, 1]


def test_dynamo_is_not_loaded_for_a_model_that_is_not_compiled(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    bn_gap(nn.BatchNorm1d(2), normal(8, 2))
    assert "torch._dynamo" not in sys.modules


# reestimate_bn_ over ranks


def test_a_synced_layer_gets_its_own_forward_back():
    x = normal(20, 3)
    bn = nn.SyncBatchNorm(3)
    reestimate_bn_(bn, x.split(8))
    torch.testing.assert_close(bn.running_mean.double(), population(x)[0], rtol=1e-6, atol=1e-7)
    assert "forward" not in vars(bn)


def on_a_rank(rank, folder, data):
    """Different numbers of different batches; then rank 1 fails; then rank 1 has no data."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    mine = data[:70].split(32) if rank == 0 else data[70:].split(6)
    reestimate_bn_(nn.parallel.DistributedDataParallel(model), mine)
    answers = {"whole": copy.deepcopy(statistics(model))}
    before = digest(model)
    try:
        reestimate_bn_(model, raising(OSError("disk"), 3) if rank == 1 else [data])
    except (RuntimeError, OSError) as error:
        answers["error"] = f"{type(error).__name__}: {error}"
    answers["unchanged"] = digest(model) == before
    synced = nn.SyncBatchNorm(3)  # its own forward refuses a CPU
    reestimate_bn_(synced, [data] if rank == 0 else [])
    answers["one rank empty"] = statistics(synced)
    torch.save(answers, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_ranks_share_their_counts_and_moments(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    data = torch.cat([normal(70, 3), normal(13, 3, mean=9.0, seed=1)])
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path), data), nprocs=2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    for answers, key, prefix in ((first, "whole", "0."), (second, "one rank empty", "")):
        mean, var = (t.float() for t in population(data))
        torch.testing.assert_close(answers[key][f"{prefix}running_mean"], mean)
        torch.testing.assert_close(answers[key][f"{prefix}running_var"], var)
    assert first["whole"]["0.num_batches_tracked"] == 6
    assert all(torch.equal(value, second["whole"][key]) for key, value in first["whole"].items())
    assert first["error"].startswith("RuntimeError: Passing the data failed on rank 1, where the")
    assert second["error"] == "OSError: disk"
    assert first["unchanged"] and second["unchanged"]


# bn_gap


def trained(momentum=0.1, steps=200, batch=32):
    model = nn.Sequential(nn.BatchNorm1d(8, momentum=momentum))
    for seed in range(steps):
        model(normal(batch, 8, seed=seed, mean=3.0, std=2.0))
    return model


@pytest.mark.parametrize(
    ("steps", "batch", "verdict", "advice"),
    [
        (200, normal(64, 8, seed=999, mean=3.0, std=2.0), "fresh", ""),
        (200, normal(64, 8, seed=999, mean=7.0, std=2.0), "stale", "The mean is off by 2 "),
        (200, normal(64, 8, seed=999, mean=3.0, std=8.0), "stale", "a factor of 1"),
        (
            5,
            normal(64, 8, seed=999, mean=3.0, std=2.0),
            "too few steps",
            "after 5 steps at momentum 0.1, 59% of the initial 0 and 1 is left",
        ),
        (200, normal(6, 8, seed=999, mean=3.0, std=2.0), "batch too small", "GroupNorm"),
        (200, normal(1, 8, seed=999, mean=3.0, std=2.0), "batch too small", "GroupNorm"),
        (200, normal(64, 8) * NAN, "not finite", "Look for NaN or inf in the batch"),
    ],
    ids=["fresh", "mean", "variance", "few steps", "six samples", "one sample", "nan"],
)
def test_verdicts(steps, batch, verdict, advice):
    model = trained(steps=steps)
    before = digest(model)
    row = bn_gap(model, batch).layers[0]
    assert row.verdict is BNVerdict(verdict)
    assert advice in row.advice and bool(advice) == bool(row.advice)
    assert digest(model) == before


@pytest.mark.parametrize("value", [NAN, math.inf, -1.0])
def test_poison_is_found(value):
    model = trained()
    model[0].running_var[3] = value
    report = bn_gap(model, normal(64, 8, mean=3.0, std=2.0))
    assert report.layers[0].verdict is BNVerdict.POISONED
    assert "reestimate_bn_" in str(report)


def test_cumulative_averages_have_no_share_of_the_start():
    model = trained(momentum=None, steps=2)
    assert bn_gap(model, normal(64, 8, mean=9.0)).layers[0].verdict is BNVerdict.STALE


def counted(mean, var, steps, momentum=0.1):
    """A layer with these statistics, whose counter stands at `steps`."""
    bn = nn.BatchNorm1d(8, momentum=momentum)
    bn.running_mean.fill_(mean)
    bn.running_var.fill_(var)
    bn.num_batches_tracked.fill_(steps)
    return bn


@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
@pytest.mark.parametrize("steps", [0, 3, 20])
@pytest.mark.parametrize("std", [1.0, 3.0])
def test_a_low_counter_does_not_make_other_data_a_start(steps, std, momentum):
    """As after an old checkpoint, or a re-estimation: nothing of 0 and 1 is in the statistics."""
    row = bn_gap(counted(5.0, std**2, steps, momentum), normal(256, 8, mean=20.0, std=std)).layers[
        0
    ]
    assert row.verdict is BNVerdict.STALE and "initial" not in row.advice


def test_exact_statistics_of_few_batches_are_not_a_start():
    for std, away in ((1.0, 20.0), (3.0, 20.0), (2.0, -4.0)):
        bn = nn.BatchNorm1d(8)
        reestimate_bn_(bn, [normal(256, 8, seed=s, mean=5.0, std=std) for s in range(3)])
        row = bn_gap(bn, normal(256, 8, seed=9, mean=away, std=std)).layers[0]
        assert row.verdict is BNVerdict.STALE
        again = normal(256, 8, seed=8, mean=5.0, std=std)
        assert bn_gap(bn, again).layers[0].verdict is BNVerdict.FRESH


def test_an_average_of_torchs_own_update_is_not_a_start():
    model = nn.Sequential(nn.BatchNorm1d(8))
    torch.optim.swa_utils.update_bn([normal(256, 8, mean=5.0, std=2.0)], model)
    assert model[0].num_batches_tracked == 1
    assert bn_gap(model, normal(256, 8, mean=9.0)).layers[0].verdict is BNVerdict.STALE


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_that_was_never_trained_is_at_its_start(momentum):
    row = bn_gap(nn.BatchNorm1d(8, momentum=momentum), normal(64, 8, mean=3.0)).layers[0]
    assert row.verdict is BNVerdict.TOO_FEW_STEPS
    assert f"after 0 steps at momentum {momentum}, 100% of" in row.advice


def test_a_start_is_seen_through_the_drift_of_a_training():
    """The layer before moves meanwhile: what is left of 0 and 1 explains the gap not exactly."""
    bn = nn.BatchNorm1d(8)
    for step in range(8):
        bn(normal(256, 8, seed=step, mean=3.0 + 0.05 * step, std=2.0))
    row = bn_gap(bn, normal(256, 8, seed=99, mean=3.4, std=2.0)).layers[0]
    assert row.verdict is BNVerdict.TOO_FEW_STEPS


def test_a_layer_without_a_counter_is_judged():
    bn = counted(5.0, 1.0, 0)
    bn.num_batches_tracked = None
    assert bn_gap(bn, normal(256, 8, mean=9.0)).layers[0].verdict is BNVerdict.STALE


def test_codes_are_plain_words_in_print_and_json():
    report = bn_gap(nn.BatchNorm1d(8), normal(64, 8, mean=3.0))
    row = report.to_dict()["layers"][0]
    assert type(row["verdict"]) is str and row["verdict"] == "too few steps"
    assert f"{report.layers[0].verdict}" == str(report.layers[0].verdict) == "too few steps"
    assert repr(report.layers[0].verdict) == "'too few steps'"
    assert "  too few steps  " in str(report) and report.layers[0].advice in str(report)
    assert pickle.loads(pickle.dumps(report)) == report


def test_positions_of_one_image_are_not_independent_samples():
    """Each image has one level: 8 images tell as little as 8 numbers, whatever their size."""
    model = nn.Sequential(nn.BatchNorm2d(4))
    batch = normal(8, 4, 1, 1).expand(8, 4, 16, 16).contiguous()
    assert bn_gap(model, batch).layers[0].verdict is BNVerdict.BATCH_TOO_SMALL


def test_the_gaps_are_those_of_the_formula():
    model = trained()
    batch = normal(64, 8, seed=3, mean=4.0, std=3.0)
    mean, var = population(batch)
    bn = model[0]
    row = bn_gap(model, batch).layers[0]
    scale = var + bn.eps
    expected_mean = ((bn.running_mean - mean).square() / scale).mean().sqrt()
    expected_var = ((bn.running_var + bn.eps) / scale).log().square().mean().sqrt()
    assert row.mean_gap == pytest.approx(expected_mean.item(), rel=1e-5)
    assert row.var_gap == pytest.approx(expected_var.item(), rel=1e-5)


def test_the_output_gap_is_between_train_and_eval_without_dropout():
    model = net().train()
    batch = normal(16, 4, seed=8)
    report = bn_gap(model, batch)
    train, evaluated = copy.deepcopy(model), copy.deepcopy(model).eval()
    train[3].eval()
    apart = (train(batch) - evaluated(batch)).norm() / train(batch).norm()
    assert report.output_gap == pytest.approx(apart.item(), rel=1e-4)
    assert f"{report.output_gap:.1%}" in str(report)


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_a_layer_at_rest_is_called_fresh(channels):
    """Also when its channels all say the same: then they are one, not many."""
    mix = normal(2, channels, seed=7)
    bn = nn.BatchNorm1d(channels)
    for seed in range(150):
        bn(normal(64, 2, seed=seed) @ mix)
    found = [bn_gap(bn, normal(64, 2, seed=s) @ mix).layers[0].verdict for s in range(200, 260)]
    assert found.count("fresh") >= 54


def test_the_gap_changes_nothing():
    model = net().train()
    model[4].eval()
    before, hooks = digest(model), hooks_of(model)
    bn_gap(model, normal(16, 4))
    assert digest(model) == before and hooks_of(model) == hooks
    with pytest.raises(RuntimeError, match="shapes"):
        bn_gap(model, normal(16, 5))
    assert digest(model) == before and hooks_of(model) == hooks


def test_a_frozen_layer_normalises_by_its_running_statistics_in_both_modes():
    model = trained()
    freeze_bn_(model)
    report = bn_gap(model, normal(64, 8, mean=9.0))
    assert report.output_gap == 0
    assert report.layers[0].verdict is BNVerdict.FROZEN
    assert "the statistics are those of other data" in report.layers[0].advice
    fresh = bn_gap(model, normal(64, 8, mean=3.0, std=2.0))
    assert fresh.layers[0].verdict is BNVerdict.FRESH
    assert fresh.layers[0].advice.startswith("Frozen, at statistics that fit")


def test_a_gap_after_reestimation_is_closed():
    model = net()
    data = normal(256, 4, mean=5.0)
    assert bn_gap(model, data).layers[0].verdict is not BNVerdict.FRESH
    reestimate_bn_(model, data.split(64))
    report = bn_gap(model, data)
    assert [row.verdict for row in report.layers] == ["fresh", "fresh"]
    assert report.output_gap < 0.05


def test_outputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            return {"a": self.bn(x), "b": (x, [x.argmax(1)])}

    x = normal(32, 2, mean=1.0)
    model = Two()
    train = nn.functional.batch_norm(x, None, None, training=True)
    evaluated = copy.deepcopy(model).eval().bn(x)
    apart = (train - evaluated).norm() / torch.cat([train, x]).norm()
    assert bn_gap(model, x).output_gap == pytest.approx(apart.item(), rel=1e-5)


class InPlace(nn.Module):
    """Writes into its inputs, which are a tensor or keywords."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.bn(x.sub_(5))


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, 0), lambda x: {"x": x}, lambda x: UserDict(x=x)],
    ids=["tensor", "pair", "dict", "tokenizer's"],
)
def test_a_model_that_works_in_place_leaves_the_batches(wrap):
    model, x = InPlace(), normal(96, 4, mean=5.0)
    kept = x.clone()
    batches = [wrap(part) for part in x.split(48)]
    reestimate_bn_(model, batches)
    assert torch.equal(x, kept)
    torch.testing.assert_close(
        model.bn.running_mean.double(), population(x - 5)[0], rtol=1e-5, atol=1e-6
    )
    report = bn_gap(model, wrap(x))
    assert torch.equal(x, kept)
    assert report.output_gap < 1e-4 and report.layers[0].verdict == "fresh"


def test_batches_made_in_inference_mode_are_left_too():
    model, x = InPlace(), normal(96, 4, mean=5.0)
    with torch.inference_mode():
        parts = [part.clone() for part in x.split(48)]
        reestimate_bn_(model, parts)
    assert torch.equal(torch.cat(parts), x)


def test_batches_are_not_copied_for_a_model_that_leaves_them():
    given = []
    model = nn.Sequential(nn.BatchNorm1d(4))
    model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    batches = normal(96, 4).split(16)
    reestimate_bn_(model, batches)
    assert [x is batch for x, batch in zip(given, batches, strict=True)] == [False] + [True] * 5


# freeze_bn_


def test_frozen_survives_train_copies_and_saving():
    model = net()
    freeze_bn_(model)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for each in (model, copy.deepcopy(model), torch.load(saved, weights_only=False)):
        each.eval().train()
        kept = statistics(each)
        each(normal(8, 4))
        assert all(torch.equal(kept[name], b) for name, b in each.named_buffers())
        assert [m.training for m in each] == [True, False, True, True, False, True]


def test_the_parts_of_a_frozen_layer_follow_the_model():
    """A normalisation with its own dropout, as timm has them."""

    class NormAct(nn.BatchNorm1d):
        def __init__(self):
            super().__init__(2)
            self.drop = nn.Dropout()

    model = nn.Sequential(NormAct())
    freeze_bn_(model)
    assert not model.eval()[0].drop.training
    assert model.train()[0].drop.training and not model[0].training


def test_a_frozen_layers_parameters_do_not_move_even_with_weight_decay():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(normal(8, 4)).sum().backward()
    optimizer.step()
    freeze_bn_(model)
    kept = model[1].weight.clone()
    model(normal(8, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(model[1].weight, kept)
    assert model[0].weight.requires_grad


def test_affine_false_leaves_weight_and_bias_training():
    model = net()
    freeze_bn_(model, affine=False)
    assert model[1].weight.requires_grad and not model[1].training


@pytest.mark.parametrize("way", ["undo", "with", "exception"])
def test_freezing_is_undone(way):
    model = net()
    model[4].bias.requires_grad_(False)
    before = digest(model)
    if way == "undo":
        handle = freeze_bn_(model)
        handle.undo()
        handle.undo()
    elif way == "with":
        with freeze_bn_(model) as handle:
            assert handle.names == ["1", "4"]
    else:
        with pytest.raises(OSError), freeze_bn_(model):
            raise OSError
    assert digest(model) == before
    assert model.eval().train()[1].training
    assert not any("train" in vars(m) for m in model.modules())


def test_after_undo_a_layer_is_in_the_mode_of_its_model():
    model = net()
    with freeze_bn_(model):
        model.eval()
        reestimate_bn_(model, [normal(8, 4)])
    assert not model[1].training
    with freeze_bn_(model):
        model.train()
    assert model[1].training
    model[1].eval()
    with freeze_bn_(model):
        pass
    assert not model[1].training


def test_an_inner_freeze_leaves_the_outer_one():
    model = net()
    with freeze_bn_(model, affine=False):
        with freeze_bn_(model):
            assert not model[1].weight.requires_grad
        assert model[1].weight.requires_grad and not model.train()[1].training
    assert model[1].training


def test_what_cannot_be_frozen_is_said():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    handle = freeze_bn_(model)
    reason = "it has no running statistics (track_running_stats=False)"
    assert (handle.names, handle.left) == (["1"], {"0": reason})
    assert rescale_bn_momentum_(model, 2).left == {"0": reason}


def test_what_was_frozen_prints_and_turns_into_json():
    model = nn.Sequential(*(nn.BatchNorm1d(2, affine=affine) for affine in (True, True, False)))
    model[2].eval()
    freeze_bn_(model[1], affine=False)
    handle = freeze_bn_(model)
    handle.undo()
    assert json.loads(json.dumps(handle.to_dict())) == {
        "what": "frozen",
        "before": {
            "0": "train mode, weight and bias train",
            "1": "frozen, weight and bias train",
            "2": "eval mode",
        },
        "after": {
            "0": "frozen, weight and bias fixed",
            "1": "frozen, weight and bias fixed",
            "2": "frozen",
        },
        "left": {},
    }
    assert str(handle).startswith("frozen: 3 BatchNorm layers, 0 left\nlayer  before")
    assert "<td>frozen, weight and bias fixed</td>" in handle._repr_html_()


OTHER_NORMS = (
    nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    nn.GroupNorm(1, 2),
    nn.LayerNorm(4),
)


@pytest.mark.parametrize("norm", OTHER_NORMS, ids=lambda norm: type(norm).__name__)
def test_other_normalisations_are_left_alone(norm):
    """InstanceNorm has running statistics and a momentum too."""
    model, x = nn.Sequential(copy.deepcopy(norm), nn.BatchNorm1d(2)), normal(16, 2, 4)
    model(x)
    kept, before = digest(model[0], rng=False), copy.deepcopy(vars(model[0]))
    rescaled, frozen = rescale_bn_momentum_(model, 4), freeze_bn_(model)
    assert list(rescaled.after) == list(frozen.after) == ["1"]
    assert rescaled.left == frozen.left == {}
    assert getattr(model[0], "momentum", None) == before.get("momentum")
    assert model[0].weight.requires_grad and model.train()[0].training
    frozen.undo()
    reports = bn_gap(model, x), reestimate_bn_(model, [x])
    assert [[row.name for row in report.layers] for report in reports] == [["1"], ["1"]]
    assert digest(model[0], rng=False) == kept


def test_a_guard_keeps_the_statistics_of_batchnorm_only():
    model = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True), nn.BatchNorm1d(2))
    kept = statistics(model)
    with guard_bn(model) as guard:
        model(normal(16, 2, 4, mean=3.0))
        guard.check(NAN)
    assert torch.equal(model[1].running_mean, kept["1.running_mean"])
    assert not torch.equal(model[0].running_mean, kept["0.running_mean"])


@pytest.mark.parametrize("affine", [True, False])
def test_lazy_layers_are_refused_before_anything_is_frozen_or_guarded(affine):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.LazyBatchNorm1d(affine=affine))
    for refuse in (freeze_bn_, lambda model: guard_bn(model).__enter__()):
        with pytest.raises(ValueError, match="layer '1' has no shape yet: run one batch through"):
            refuse(model)
    assert model.train()[0].training and model[0].weight.requires_grad
    model(normal(8, 4))
    assert freeze_bn_(model).names == ["0", "1"]


# guard_bn


@pytest.mark.parametrize(
    ("loss", "stepped", "kept"),
    [
        (torch.tensor(1.0), True, True),
        (1.0, torch.tensor(True), True),
        (torch.tensor(NAN), True, False),
        (math.inf, True, False),
        (torch.tensor([1.0, NAN]), True, False),
        (torch.tensor(1.0), False, False),
        (torch.tensor(1.0), torch.tensor(False), False),
    ],
)
def test_a_bad_step_leaves_the_statistics(loss, stepped, kept):
    model, stepping = net(), net()
    with guard_bn(model) as guard:
        model(normal(8, 4, seed=9))
        guard.check(loss, stepped=stepped)
    if kept:
        stepping(normal(8, 4, seed=9))
    assert guard.restored is not kept
    expected = statistics(stepping)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(model.get_buffer(name), expected[name])


@pytest.mark.parametrize("stepped", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_backward_may_follow_the_check(stepped, frozen):
    """And the gradients are those without a guard; a frozen layer saves its statistics for them."""
    model, bare = net().double(), net().double()
    model[3].p = bare[3].p = 0.0
    if frozen:
        freeze_bn_(model[:2], affine=False)
        freeze_bn_(bare[:2], affine=False)
    x = normal(8, 4).double()
    with guard_bn(model) as guard:
        loss = model(x).square().sum()
        guard.check(loss, stepped=stepped)
        loss.backward()
    bare(x).square().sum().backward()
    for ours, plain in zip(model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad)


def test_backward_may_follow_a_block_that_failed():
    model = net()
    with pytest.raises(OSError), guard_bn(model):
        loss = model(normal(8, 4)).sum()
        raise OSError
    loss.backward()
    assert model[0].weight.grad is not None


def test_one_overflow_does_not_poison_for_ever():
    model = net()
    for seed, scale in enumerate((1.0, math.inf, 1.0)):
        with guard_bn(model) as guard:
            guard.check(model(normal(8, 4, seed=seed) * scale).sum())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_a_step_that_the_scaler_skips_takes_its_statistics_with_it():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = digest(model.get_submodule("1"), rng=False)
    with guard_bn(model) as guard:
        loss = (100 * model(normal(8, 4))).sum()  # finite; its scaled gradients are not
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scale = scaler.get_scale()
        scaler.update()
        guard.check(loss, stepped=scaler.get_scale() >= scale)
    optimizer.zero_grad()
    assert guard.restored
    assert digest(model.get_submodule("1"), rng=False) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_raising_block_leaves_the_statistics(error):
    model = net()
    kept = statistics(model)
    with pytest.raises(error), guard_bn(model) as guard:
        model(normal(8, 4))
        raise error
    assert all(torch.equal(kept[name], b) for name, b in model.named_buffers())
    assert guard.restored


def test_a_forgotten_check_is_an_error():
    model = net()
    kept = statistics(model)
    with pytest.raises(RuntimeError, match=r"ended without guard.check\(loss"), guard_bn(model):
        model(normal(8, 4))
    assert all(torch.equal(kept[name], b) for name, b in model.named_buffers())


def test_one_bad_micro_batch_takes_the_whole_step_back():
    model = net()
    kept = statistics(model)
    with guard_bn(model) as guard:
        for loss in (1.0, NAN, 1.0):
            model(normal(8, 4))
            guard.check(loss)
    assert all(torch.equal(kept[name], b) for name, b in model.named_buffers())


class Reads(TorchDispatchMode):
    """Counts the values that Python asks for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_check_reads_nothing():
    model = net()
    with Reads() as reads:
        with guard_bn(model) as guard:
            guard.check(torch.tensor(NAN), stepped=torch.tensor(True))
        assert reads.count == 0
        assert guard.restored
        assert reads.count == 1


# rescale_bn_momentum_


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 1.0])
def test_micro_batches_move_the_statistics_as_far_as_one_batch(steps, momentum):
    x = normal(16, 3, mean=2.0)
    one, many = nn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    one(x)
    rescale_bn_momentum_(many, steps)
    for _ in range(steps):
        many(x)
    torch.testing.assert_close(many.running_mean, one.running_mean)
    torch.testing.assert_close(many.running_var, one.running_var)


def test_the_old_momentum_comes_back():
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.3), nn.BatchNorm1d(2, momentum=None))
    with rescale_bn_momentum_(model, 3) as handle:
        assert model[0].momentum == pytest.approx(1 - 0.7 ** (1 / 3))
        assert handle.left == {"1": "it averages all its batches (momentum=None)"}
    assert model[0].momentum == 0.3 and model[1].momentum is None


def test_momenta_before_and_after_print_and_turn_into_json():
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.19))
    handle = rescale_bn_momentum_(model, 2)
    told = json.loads(json.dumps(handle.to_dict()))
    assert (told["before"], told["after"]) == ({"0": 0.19}, {"0": pytest.approx(0.1)})
    assert str(handle).splitlines() == [
        "momentum rescaled: 1 BatchNorm layers, 0 left",
        "layer  before  after",
        "0      0.19    0.1",
    ]


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "2"])
def test_accumulation_steps_are_refused(steps):
    bn = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="accumulation_steps must be an int of at least 1"):
        rescale_bn_momentum_(bn, steps)
    assert bn.momentum == 0.1


def test_an_impossible_momentum_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=1.5))
    with pytest.raises(ValueError, match=r"momentum of layer '1' must be in \[0, 1\].*got 1.5"):
        rescale_bn_momentum_(model, 2)
    assert model[0].momentum == 0.1


# On a GPU


@pytest.mark.gpu
def test_on_a_gpu_the_statistics_are_the_same():
    x = normal(300, 4, mean=1000.0, std=0.1)
    bn = nn.BatchNorm1d(4).cuda()
    reestimate_bn_(bn, x.split(64))
    torch.testing.assert_close(bn.running_var.cpu().double(), population(x)[1], rtol=1e-5, atol=0)
    assert bn_gap(bn, x).layers[0].verdict == "fresh"


@pytest.mark.gpu
def test_on_a_gpu_the_guard_does_not_wait():
    model = net().cuda()
    x, loss = normal(8, 4).cuda(), torch.tensor(NAN).cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with guard_bn(model) as guard:
            model(x)
            guard.check(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.restored
