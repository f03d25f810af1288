"""Initial weights by scheme and by data, and what a network does at its first step."""

import copy
import json
import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization
from torch.utils._python_dispatch import TorchDispatchMode

from nbkit.base.state import digest
from nbkit.initialization import (
    SCHEMES,
    InitVerdict,
    LossVerdict,
    LSUVVerdict,
    init_report,
    initialize_,
    lsuv_,
)
from nbkit.initialization.measures import count_duplicates

NAN = math.nan


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n, classes=10):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))


def mlp(depth, width=256, activation=nn.ReLU, classes=10, seed=0):
    torch.manual_seed(seed)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def hooks_of(model):
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


def cayley(layer):
    return parametrizations.orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)


class OneWay(nn.Module):
    def forward(self, weight):
        return weight * 2


def one_way(layer):
    return register_parametrization(layer, "weight", OneWay())


# initialize_

TORCHS = {
    "zeros": lambda w, g: nn.init.zeros_(w),
    "constant": lambda w, g: nn.init.constant_(w, 0.01),
    "normal": lambda w, g: nn.init.normal_(w, 0, 0.01, generator=g),
    "xavier_uniform": lambda w, g: nn.init.xavier_uniform_(w, generator=g),
    "xavier_normal": lambda w, g: nn.init.xavier_normal_(w, generator=g),
    "kaiming_uniform": lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
    "kaiming_normal": lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
    "orthogonal": lambda w, g: nn.init.orthogonal_(w, generator=g),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_torchs(scheme):
    model = nn.Sequential(nn.Linear(7, 5), nn.Conv1d(4, 6, 3), nn.Conv2d(3, 8, 3, bias=False))
    twin = copy.deepcopy(model)
    report = initialize_(model, scheme, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for layer, ours in zip(twin, model, strict=True):
        TORCHS[scheme](layer.weight, generator)
        assert torch.equal(ours.weight, layer.weight)
        assert ours.bias is None or not ours.bias.any()
    assert set(report.touched) == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}
    assert report.left == {}


def test_gain_and_nonlinearity_are_torchs():
    layer, twin = nn.Linear(30, 20), nn.Linear(30, 20)
    for words, gain in (({"nonlinearity": "tanh"}, 5 / 3), ({"gain": 0.3}, 0.3)):
        initialize_(layer, "kaiming_normal", generator=torch.Generator().manual_seed(0), **words)
        nn.init.normal_(
            twin.weight, 0, gain / math.sqrt(30), generator=torch.Generator().manual_seed(0)
        )
        assert torch.equal(layer.weight, twin.weight)
    initialize_(layer, "constant", gain=-2.0)
    assert (layer.weight == -2).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 64, 3, groups=8),
        nn.Conv2d(64, 64, 5, groups=64),
        nn.ConvTranspose2d(64, 16, 3),
        nn.ConvTranspose2d(16, 64, 4, stride=2),
        nn.ConvTranspose2d(32, 64, 4, stride=2, groups=4),
    ],
    ids=str,
)
def test_fans_of_grouped_and_transposed_convolutions_keep_the_signal(layer):
    """Where torch's fan_in keeps it by a factor of up to two too much or too little."""
    x = normal(4, layer.in_channels, 24, 24)
    initialize_(layer, "kaiming_normal", gain=1.0, generator=torch.Generator().manual_seed(0))
    middle = layer(x)[:, :, 6:-6, 6:-6]
    assert middle.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.1)


def test_xaviers_fans_count_the_group():
    layer = nn.Conv2d(32, 64, 3, groups=8)
    report = initialize_(layer, "xavier_normal")
    std = math.sqrt(2 / (4 * 9 + 8 * 9))
    assert report.touched["weight"] == f"xavier_normal, std {std:.3g}"
    assert layer.weight.std().item() == pytest.approx(std, rel=0.1)


def middle_of(x):
    """Away from the borders, where a unit sums fewer inputs."""
    return x[(..., *[slice(n // 4, n - n // 4) for n in x.shape[2:]])]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 32, 4, stride=2),
        nn.Conv2d(32, 32, 3, stride=2),
        nn.Conv2d(64, 64, 1, stride=2),
        nn.Conv2d(64, 32, 4, stride=4),
        nn.Conv2d(32, 64, 4, stride=2, groups=4),
        nn.Conv2d(32, 32, 4, stride=2, dilation=3),
        nn.Conv2d(32, 32, (4, 3), stride=(2, 1)),
        nn.ConvTranspose2d(32, 32, 4, stride=2),
        nn.ConvTranspose2d(32, 16, 3, stride=2, dilation=2, groups=2),
        nn.Conv1d(64, 64, 8, stride=4),
    ],
    ids=str,
)
def test_xavier_keeps_signal_and_gradient_alike_on_average(layer):
    """Glorot's equation 16: the variance of the signal and that of the gradient add up to two."""
    initialize_(layer, "xavier_normal", generator=torch.Generator().manual_seed(0))
    x = normal(4, layer.in_channels, *[32] * len(layer.kernel_size)).requires_grad_()
    y = layer(x)
    y.backward(normal(*y.shape, seed=1))
    total = middle_of(y).square().mean() + middle_of(x.grad).square().mean()
    assert total.item() == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_orthogonal_weights_keep_the_norm_in_every_group(groups):
    layer = nn.Conv2d(16, 16, 3, groups=groups)
    initialize_(layer, "orthogonal", generator=torch.Generator().manual_seed(0))
    for block in layer.weight.flatten(1).chunk(groups):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)))


def test_half_precision_can_be_orthogonal():
    layer = nn.Linear(16, 16).bfloat16()
    initialize_(layer, "orthogonal")
    torch.testing.assert_close(
        (layer.weight @ layer.weight.T).float(), torch.eye(16), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if "_" in name])
def test_an_embedding_takes_xavier_uniform_where_a_fan_is_asked_for(scheme):
    embedding = nn.Embedding(50, 8, padding_idx=3)
    report = initialize_(embedding, scheme)
    bound = math.sqrt(6 / 58)
    assert 0.9 * bound < embedding.weight.max() <= bound
    assert not embedding.weight[3].any()
    assert report.touched == {"weight": f"xavier_uniform, std {bound / math.sqrt(3):.3g}"}


def test_a_padding_row_stays_zero_also_where_a_layer_before_owns_the_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 6, bias=False)
            self.words, self.more = nn.Embedding(6, 4, padding_idx=2), nn.Embedding(6, 4, 5)
            self.words.weight = self.more.weight = self.head.weight

    model = Tied()
    assert initialize_(model, "normal").left["words.weight"] == "shared with head.weight"
    assert [(row == 0).all().item() for row in model.head.weight] == [i in (2, 5) for i in range(6)]


class Transposed(nn.Module):
    def forward(self, weight):
        return weight.T

    def right_inverse(self, weight):
        return weight.T


def test_a_transposed_weight_has_other_rows_than_the_embedding_behind_it():
    model = nn.Sequential(nn.Linear(6, 4), nn.Embedding(6, 4, padding_idx=5))
    register_parametrization(model[0], "weight", Transposed())
    model[1].weight = model[0].parametrizations.weight.original
    assert "0.weight" in initialize_(model, "normal").touched
    assert (model[0].weight != 0).all()


def test_what_is_left_is_said_and_left():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
            self.attention = nn.MultiheadAttention(4, 2)
            self.embedding = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.old = old_weight_norm(nn.Linear(4, 4))

    model = Model()
    kept = {name: p.clone() for name, p in model.named_parameters()}
    report = initialize_(model, "kaiming_normal")
    for name in ("body.1.weight", "body.1.bias", "body.2.weight"):
        assert report.left[name] == "of a normalisation layer"
    assert report.left["attention.in_proj_weight"].startswith("of a MultiheadAttention, which is")
    assert report.left["head.weight"] == "shared with embedding.weight"
    assert report.left["frozen.weight"] == "frozen (requires_grad=False)"
    assert report.left["old.weight_g"].startswith("the layer's weight is computed from it")
    for name, parameter in model.named_parameters():
        if name in report.left:
            assert torch.equal(parameter, kept[name])
        elif name.endswith("weight"):
            assert not torch.equal(parameter, kept[name])
    assert "body.0.weight" in report.touched and "attention.out_proj.weight" in report.touched
    assert len(report.touched) + len(report.left) == len(list(kept)) + 1
    assert "left: frozen (requires_grad=False)" in str(report)


def test_parametrized_weights_are_set_through_their_parametrization():
    layer = parametrizations.weight_norm(nn.Linear(64, 64))
    report = initialize_(layer, "normal", gain=0.5)
    assert set(report.touched) == {"weight", "bias"}
    assert layer.weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_what_a_parametrization_cannot_hold_is_left():
    """Weight norm divides by the norm of a row of zeros."""
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    before = layer.weight.clone()
    report = initialize_(layer, "zeros")
    assert report.left == {"weight": "its parametrization cannot hold such a value"}
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("wrap", [cayley, one_way])
def test_a_parametrization_that_takes_no_values_is_left(wrap):
    layer = wrap(nn.Linear(4, 4, bias=False))
    before = digest(layer, rng=False)
    report = initialize_(layer, "kaiming_normal")
    assert report.left == {"weight": "its parametrization takes no values"}
    assert digest(layer, rng=False) == before


def test_a_parametrization_that_changes_the_value_is_said_to():
    report = initialize_(parametrizations.spectral_norm(nn.Linear(4, 4)), "kaiming_normal")
    assert report.touched["weight"].endswith("as far as its parametrization lets it")


def test_a_generator_leaves_the_global_random_state():
    model = mlp(2)
    state = torch.get_rng_state()
    for scheme in SCHEMES:
        initialize_(model, scheme, generator=torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    initialize_(model, "xavier_normal")
    first = digest(model, rng=False)
    torch.manual_seed(7)
    initialize_(model, "xavier_normal")
    assert digest(model, rng=False) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scheme": "he"}, r"scheme must be one of zeros, constant, normal, xavier_uniform, xavie"),
        (
            {"scheme": "kaiming_normal", "nonlinearity": "gelu"},
            "nonlinearity must be one of linear, sigmoid, tanh, relu.*got 'gelu'. For another",
        ),
        ({"scheme": "normal", "gain": NAN}, "gain must be a finite number, got nan"),
        ({"scheme": "zeros", "gain": 1.0}, "zeros have no gain, got gain=1.0: leave it out"),
        ({"scheme": "normal", "gain": -1.0}, "gain must be at least 0, .* got -1.0 for 'normal'"),
        ({"scheme": "xavier_uniform", "gain": -0.1}, "got -0.1 for 'xavier_uniform'"),
    ],
)
def test_refusals(words, message):
    model = mlp(1)
    before = digest(model)
    with pytest.raises(ValueError, match=message):
        initialize_(model, **words)
    assert digest(model) == before


def test_a_value_and_an_orthogonal_gain_may_be_negative():
    layer = nn.Linear(3, 3)
    initialize_(layer, "constant", gain=-1.0)
    assert (layer.weight == -1).all()
    initialize_(layer, "orthogonal", gain=-2.0)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 4 * torch.eye(3))


def test_complex_weights_cannot_be_orthogonal_and_nothing_is_set():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.complex64))
    before = digest(model)
    with pytest.raises(ValueError, match="1.weight is complex, and orthogonal takes real weights"):
        initialize_(model, "orthogonal")
    assert digest(model) == before
    model[1].requires_grad_(False)
    assert set(initialize_(model, "orthogonal").touched) == {"0.weight", "0.bias"}


def test_weights_without_memory_are_refused_before_anything_is_set():
    first = nn.Linear(2, 2)
    before = digest(first)
    with pytest.raises(ValueError, match=r"1.weight has no shape yet: run one batch"):
        initialize_(nn.Sequential(first, nn.LazyLinear(2)), "zeros")
    with pytest.raises(ValueError, match=r"1.weight is on the meta device: call model.to_empty"):
        initialize_(nn.Sequential(first, nn.Linear(2, 2, device="meta")), "zeros")
    assert digest(first) == before


# lsuv_


def spreads(model, x):
    """Standard deviation of the output of each Linear and Conv, noted before anything follows."""
    found = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [
        layer.register_forward_hook(lambda m, a, out: found.append(out.double().std().item()))
        for layer in layers
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("scheme", ["orthogonal", "normal", "kaiming_uniform"])
@pytest.mark.parametrize("inplace", [False, True])
def test_every_layer_comes_to_unit_variance(scheme, inplace):
    """In-place activations too: hooks that look later see the output after the ReLU."""
    model = mlp(12, 64, lambda: nn.ReLU(inplace=inplace))
    initialize_(model, scheme)
    x = normal(256, 64)
    report = lsuv_(model, x)
    assert report.failed == []
    assert all(0.95 <= spread <= 1.05 for spread in spreads(model, x))
    assert [row.std_after for row in report.layers] == pytest.approx(spreads(model, x), rel=1e-3)


def test_it_is_the_papers_algorithm():
    """Against a loop in float64 with a whole forward pass for each division."""
    model = mlp(4, 32).double()
    twin = copy.deepcopy(model)
    x = normal(128, 32).double()
    lsuv_(model, x, std=2.0, tolerance=0.01)
    for index in range(0, len(twin), 2):
        for _ in range(10):
            spread = twin[: index + 1](x).std(correction=0) / 2.0
            if abs(spread - 1) <= 0.01:
                break
            twin[index].weight.data /= spread
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def test_convolutions_batchnorm_and_layers_without_bias():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 4, 3), nn.Flatten(), nn.Dropout(), nn.LazyLinear(5),
    )  # fmt: skip
    x = normal(32, 3, 8, 8)
    model(x)
    model[1].eval()
    report = lsuv_(model, x)
    assert [row.name for row in report.layers] == ["0", "3", "6"]
    assert report.failed == []


def test_only_weights_are_changed():
    model = mlp(3, 16)
    model.insert(1, nn.BatchNorm1d(16))
    model.append(nn.Dropout())
    model[2].eval()
    model(normal(8, 16)).sum().backward()
    weights = {m: m.weight.clone() for m in model.modules() if isinstance(m, nn.Linear)}
    before, hooks = digest(model), hooks_of(model)
    lsuv_(model, normal(64, 16))
    assert digest(model) != before
    with torch.no_grad():
        for layer, weight in weights.items():
            assert not torch.equal(layer.weight, weight)
            layer.weight.copy_(weight)
    assert digest(model) == before and hooks_of(model) == hooks


def test_lsuv_leaves_the_batch_where_the_model_works_in_place():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(16, 8))
    x = normal(64, 16)
    kept = x.clone()
    assert lsuv_(model, x).failed == []
    assert torch.equal(x, kept)


def test_the_layers_of_a_compiled_part_are_scaled_and_reported():
    part = torch.compile(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), backend="eager")
    model = nn.Sequential(nn.Linear(16, 16), part, nn.Linear(16, 10))
    x = normal(64, 16)
    with torch.no_grad():
        model(x)
    names = ["0", "1._orig_mod.0", "2"]
    assert [row.name for row in init_report(model, x, F.cross_entropy, labels(64)).layers] == names
    report = lsuv_(model, x)
    assert [row.name for row in report.layers] == names and report.failed == []


def test_a_failing_forward_leaves_everything():
    model = mlp(3, 16)
    model[4].register_forward_hook(lambda *_: 1 / 0)
    before, hooks = digest(model), hooks_of(model)
    with pytest.raises(ZeroDivisionError):
        lsuv_(model, normal(64, 16))
    assert digest(model) == before and hooks_of(model) == hooks


def test_dead_layers_keep_finite_weights_and_are_named():
    model = mlp(3, 16)
    nn.init.constant_(model[2].bias, -1e3)
    with torch.no_grad():
        model[4].bias.zero_()
    before = model[4].weight.clone()
    report = lsuv_(model, normal(64, 16))
    assert report.failed[0] == "4"
    assert {row.name: row.verdict for row in report.layers}["4"] is LSUVVerdict.NO_SPREAD
    assert torch.equal(model[4].weight, before)
    assert all(p.isfinite().all() for p in model.parameters())
    assert "4" in str(report) and "layers have the wanted output" in str(report)


@pytest.mark.parametrize(
    ("spoil", "batch", "word"),
    [
        (lambda m: initialize_(m, "zeros"), normal(8, 4), "no spread"),
        (lambda m: nn.init.normal_(m.bias, 0, 50.0), normal(8, 4), "not converged"),
        (lambda m: None, normal(8, 4) * NAN, "not finite"),
        (lambda m: nn.init.zeros_(m.bias), normal(8, 4) * 1e-42, "not converged"),
        (lambda m: nn.init.zeros_(m.bias), normal(1, 4)[:, :1].expand(1, 4) * 0, "no spread"),
    ],
    ids=["zero weights", "large bias", "nan", "almost nothing", "zeros"],
)
def test_a_layer_that_does_not_converge_keeps_its_weight(spoil, batch, word):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    spoil(layer)
    before = layer.weight.clone()
    report = lsuv_(layer, batch)
    assert report.layers[0].verdict is LSUVVerdict(word)
    assert report.layers[0].advice.endswith("The weight is unchanged.")
    assert report.failed == [""]
    assert torch.equal(layer.weight, before)


def test_float16_weights_never_overflow():
    layer = nn.Linear(64, 64).half()
    with torch.no_grad():
        layer.bias.zero_()
    lsuv_(layer, torch.full((4, 64), 6e-8).half() * normal(4, 64).sign().half(), std=6e4)
    assert layer.weight.isfinite().all()


@pytest.mark.parametrize(
    ("wrap", "verdict", "advice"),
    [
        (parametrizations.weight_norm, "ok", ""),
        (parametrizations.spectral_norm, "not converged", "It came to "),
        (parametrizations.orthogonal, "not converged", "It came to "),
        (cayley, "left", "Its parametrization takes no values."),
        (one_way, "left", "Its parametrization takes no values."),
        (old_weight_norm, "left", "Its weight is computed"),
        (lambda layer: layer.requires_grad_(False), "left", "It is frozen"),
    ],
    ids=["weight", "spectral", "orthogonal", "cayley", "one way", "old weight", "frozen"],
)
def test_weights_that_are_not_plain_parameters(wrap, verdict, advice):
    torch.manual_seed(0)
    layer = wrap(nn.Linear(32, 32, bias=False))
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), layer)
    x = normal(128, 32) * 30
    before = model(x).std().item()
    report = lsuv_(model, x)
    row = report.layers[1]
    assert row.verdict is LSUVVerdict(verdict)
    assert row.advice.startswith(advice) and bool(advice) == bool(row.advice)
    if verdict == "ok":
        assert model(x).std().item() == pytest.approx(1.0, abs=0.05)
    assert before != pytest.approx(1.0, abs=0.05)


def test_shared_unused_and_reused_layers():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(8, 8)
            self.unused = nn.Linear(8, 8)
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(self.cell(self.cell(x))))

    torch.manual_seed(0)
    model = Model()
    x = normal(64, 8) * 30
    rows = {row.name: row for row in lsuv_(model, x).layers}
    assert rows["cell"].verdict is LSUVVerdict.OK
    assert rows["unused"].verdict is LSUVVerdict.NOT_CALLED
    for name in ("one", "two"):
        assert rows[name].verdict is LSUVVerdict.LEFT
        assert rows[name].advice == "Its weight is shared with another layer."
    assert model.cell(x).std().item() == pytest.approx(1.0, abs=0.05)


def test_what_comes_after_a_layer_that_failed_is_scaled_to_its_old_weight():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.Linear(8, 8), nn.Linear(8, 8)
            nn.init.normal_(self.cell.bias, 0, 5.0)

        def forward(self, x):
            return self.out(self.cell(self.cell(x)))

    torch.manual_seed(0)
    model = Model()
    assert lsuv_(model, normal(64, 8)).failed == ["cell"]
    assert model(normal(64, 8)).std().item() == pytest.approx(1.0, abs=0.05)


def test_outputs_whose_squares_overflow_are_scaled():
    layer = nn.Linear(8, 8, bias=False)
    assert lsuv_(layer, normal(64, 8) * 1e25).failed == []
    assert (layer(normal(64, 8) * 1e25)).std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_float64_outputs_beyond_float32_are_scaled(scale):
    layer = nn.Linear(8, 8, bias=False).double()
    x = normal(64, 8).double() * scale
    assert lsuv_(layer, x).failed == []
    assert layer(x).std().item() == pytest.approx(1.0, abs=0.05)


def test_a_layer_that_gives_more_than_a_tensor_is_left():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class First(nn.Module):
        def forward(self, pair):
            return pair[0]

    model = nn.Sequential(Pair(8, 8), First(), nn.Linear(8, 8))
    before = model[0].weight.clone()
    first, second = lsuv_(model, normal(64, 8)).layers
    assert first.verdict is LSUVVerdict.LEFT
    assert first.advice == "Its output is a tuple, not a tensor."
    assert torch.equal(model[0].weight, before) and second.verdict == "ok"


def test_a_model_in_ddp_is_refused(tmp_path):
    """Each rank would scale its copy by its own batch."""
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        before = digest(model)
        for wrapped in (model, torch.compile(model, backend="eager")):
            with pytest.raises(TypeError, match="inside DistributedDataParallel.* before wrapping"):
                lsuv_(wrapped, normal(8, 4))
        assert digest(model) == before
    finally:
        torch.distributed.destroy_process_group()


def test_it_works_under_autocast():
    """Which keeps a copy of each weight, as it was."""
    model = mlp(3, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lsuv_(model, normal(128, 32) * 5).failed == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"std": 0.0}, "std must be a positive number, got 0.0"),
        ({"tolerance": NAN}, "tolerance must be a positive number, got nan"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    ],
)
def test_lsuv_refuses(words, message):
    with pytest.raises(ValueError, match=message):
        lsuv_(mlp(1), normal(4, 256), **words)


# init_report: the numbers


def verdicts(model, x=None, y=None, loss_fn=F.cross_entropy):
    x = normal(512, 256) if x is None else x
    return init_report(model, x, loss_fn, labels(len(x)) if y is None else y)


@pytest.mark.parametrize("inplace", [False, True])
def test_signal_and_gradient_are_those_of_a_plain_float64_loop(inplace):
    model = mlp(4, 32, lambda: nn.ReLU(inplace=inplace))
    x, y = normal(64, 32), labels(64)
    report = init_report(model, x, nn.CrossEntropyLoss(), y)
    outputs, h = [], x.double()
    for layer in copy.deepcopy(model).double():
        h = torch.relu(h) if isinstance(layer, nn.ReLU) else layer(h)
        if isinstance(layer, nn.Linear):
            h.retain_grad()
            outputs.append(h)
    loss = F.cross_entropy(h, y)
    loss.backward()
    assert [row.name for row in report.layers] == ["0", "2", "4", "6", "8"]
    for row, out in zip(report.layers, outputs, strict=True):
        assert row.forward_rms == pytest.approx(out.square().mean().sqrt().item(), rel=1e-5)
        assert row.backward_rms == pytest.approx(out.grad.square().mean().sqrt().item(), rel=1e-4)
        varying = (out - out.mean(0)).square().mean().sqrt() / out.square().mean().sqrt()
        assert row.varying_fraction == pytest.approx(varying.item(), rel=1e-4)
    for row, out in zip(report.layers[:-1], outputs[:-1], strict=True):
        dead = (torch.relu(out) == 0).all(0).float().mean().item()
        assert row.dead_fraction == pytest.approx(dead)
    assert report.layers[-1].dead_fraction is None
    first, second = outputs[0], outputs[1]
    assert report.layers[1].forward_ratio == pytest.approx(
        (second.norm() / first.norm()).item(), rel=1e-5
    )
    assert report.layers[0].backward_ratio == pytest.approx(
        (first.grad.norm() / second.grad.norm()).item(), rel=1e-4
    )
    assert report.initial_loss == pytest.approx(loss.item(), rel=1e-5)
    assert report.input_rms == pytest.approx(x.double().square().mean().sqrt().item(), rel=1e-5)
    assert report.samples == 64


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_squares_beyond_float32_do_not_overflow(scale):
    report = init_report(nn.Linear(8, 8, bias=False), normal(16, 8) * scale)
    plain = init_report(nn.Linear(8, 8, bias=False), normal(16, 8))
    assert 0.3 < report.layers[0].forward_rms / scale / plain.layers[0].forward_rms < 3


def test_half_precision_is_measured_in_float32():
    layer = nn.Linear(64, 64).half()
    x = normal(64, 64).half() * 3000
    expected = layer(x).double().square().mean().sqrt().item()
    assert expected**2 > torch.finfo(torch.float16).max
    assert init_report(layer, x).layers[0].forward_rms == pytest.approx(expected, rel=1e-5)


class OneActivation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(8, 20), function
        nn.init.constant_(self.layer.bias, -1.0)

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    "function",
    [
        nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.relu_, torch.Tensor.relu,
        nn.ReLU6(), lambda x: F.hardtanh(x, max_val=9.0, min_val=0.0), lambda x: x.relu_(),
        lambda x: x.clamp_min(0), nn.Threshold(0, 0),
    ],
)  # fmt: skip
def test_dead_units_are_found_whatever_the_relu(function):
    torch.manual_seed(0)
    model = OneActivation(function)
    x = normal(16, 8)
    dead = (model.layer(x) <= 0).all(0).float().mean().item()
    assert 0 < dead < 1
    assert init_report(model, x).layers[0].dead_fraction == pytest.approx(dead)


def test_dead_channels_are_dead_everywhere():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 12, 3)
    nn.init.constant_(conv.bias, -1.0)
    x = normal(2, 3, 8, 8)
    dead = (conv(x) <= 0).transpose(0, 1).flatten(1).all(1).float().mean().item()
    assert 0 < dead < 1
    model = nn.Sequential(conv, nn.BatchNorm2d(12, affine=False).eval(), nn.ReLU())
    assert init_report(model, x).layers[0].dead_fraction == pytest.approx(dead)
    tokens = nn.Sequential(nn.Linear(3, 12), nn.ReLU())
    nn.init.constant_(tokens[0].bias, -0.7)
    x = normal(2, 5, 3)
    dead = (tokens(x) == 0).flatten(0, 1).all(0).float().mean().item()
    assert init_report(tokens, x).layers[0].dead_fraction == pytest.approx(dead)


@pytest.mark.parametrize(
    ("function", "middle", "limit"),
    [
        (nn.Tanh(), 0, 0.99),
        (torch.sigmoid, 0.5, 0.495),
        (nn.Hardtanh(), 0, 0.99),
        (nn.Hardtanh(-2, 4), 1, 2.97),
    ],
)
def test_saturation(function, middle, limit):
    model = OneActivation(function)
    x = normal(64, 8) * 6
    stuck = ((model(x) - middle).abs() > limit).float().mean().item()
    assert 0 < stuck < 1
    assert init_report(model, x).layers[0].saturated_fraction == pytest.approx(stuck)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_copies_are_counted_for_every_weight(data):
    values = st.sampled_from([0.0, -0.0, 1.0, 0.5])
    rows = data.draw(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=12))
    pulls = data.draw(st.sampled_from(["none", "same", "different"]))
    weight = torch.tensor(rows)
    gradient = {"none": None, "same": torch.ones_like(weight), "different": normal(*weight.shape)}
    found = int(count_duplicates(nn.Linear(3, len(rows)), weight, gradient[pulls]))
    distinct = {tuple(abs(x) for x in row) for row in rows}
    copies = len(rows) - len(distinct)
    zeros = sum(not any(row) for row in rows)
    if pulls == "none":
        copies -= max(0, zeros - 1)
    assert found == (0 if pulls == "different" else copies)


# init_report: the verdicts


def zero_residual(kind):
    """Three residual blocks that start as the identity, in the ways that are in use."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8) if kind == "gamma" else nn.Identity()
            self.gate = nn.Parameter(torch.zeros(1)) if kind == "gate" else 1.0
            if kind == "gamma":
                nn.init.zeros_(self.norm.weight)
            if kind == "convolution":
                nn.init.zeros_(self.two.weight)
                nn.init.zeros_(self.two.bias)

        def forward(self, x):
            return x + self.gate * self.norm(self.two(self.one(x).relu()))

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), *(Block() for _ in range(3)), nn.Flatten(), nn.Linear(288, 10)
    )


@pytest.mark.parametrize("kind", ["gamma", "convolution", "gate"])
def test_branches_that_start_at_zero_on_purpose_are_not_flagged(kind):
    report = verdicts(zero_residual(kind), normal(64, 3, 8, 8))
    assert report.ok
    waiting = {row.name: row.advice for row in report.layers}["1.one"]
    name = {"gamma": "1.norm.weight", "convolution": "1.two.weight", "gate": "1.gate"}[kind]
    assert waiting == f"Its gradient is zero until {name}, which is zero, has moved."


def test_a_zero_branch_that_never_moves_is_flagged():
    model = zero_residual("gamma")
    model[1].norm.weight.requires_grad_(False)
    model[2].norm.weight.requires_grad_(False)
    model[3].norm.weight.requires_grad_(False)
    report = verdicts(model, normal(64, 3, 8, 8))
    assert not report.ok
    assert {row.name: row.verdict for row in report.layers}["1.one"] is InitVerdict.NO_GRADIENT


def test_a_zero_head_and_zero_lora_are_fine():
    model = mlp(3)
    initialize_(model, "kaiming_normal")
    nn.init.zeros_(model[-1].weight)
    report = verdicts(model)
    assert report.ok and report.initial_loss == pytest.approx(math.log(10))
    assert report.layers[-1].verdict is InitVerdict.OK
    assert report.layers[-1].advice == "It starts at zero, and moves at the first step."

    class LoRA(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(16, 10).requires_grad_(False)
            self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 10, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    assert verdicts(LoRA(), normal(64, 16)).ok


class Scaled(nn.Module):
    """A residual block whose branch ends in a small factor."""

    def __init__(self, factor, way="plain"):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.factor, self.way = nn.Parameter(torch.full((32,), factor)), way

    def forward(self, x):
        branch = self.two(self.one(self.norm(x)).relu())
        if self.way == "addcmul":
            return torch.addcmul(x, self.factor, branch)
        if self.way == "in place":
            x = x.clone()
            x += self.factor * branch
            return x
        if self.way == "keywords":
            return torch.add(input=x, other=self.factor * branch)
        if self.way == "stacked":
            return torch.stack([x, self.factor * branch]).sum(0)
        return x + self.factor * branch


def scaled(*factors, first=True, last=True, way="plain"):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 32) if first else nn.Identity(),
        *(Scaled(factor, way) for factor in factors),
        nn.LayerNorm(32) if last else nn.Sequential(nn.Linear(32, 32), nn.ReLU()),
        nn.Linear(32, 10),
    )


@pytest.mark.parametrize("way", ["plain", "addcmul", "in place", "keywords", "stacked"])
def test_a_small_factor_behind_a_branch_is_fine(way):
    report = verdicts(scaled(*[1e-6] * 4, way=way), normal(256, 32))
    assert report.layers[0].backward_rms > 1e4 * report.layers[-2].backward_rms
    assert [row.verdict for row in report.layers] == ["ok"] * len(report.layers)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("factors", [(0.0, 1e-5), (1e-5, 0.0), (1e-6, 1.0), (1.0, 1e-6), (1e-3,)])
def test_so_it_is_whatever_comes_before_and_after(first, last, factors):
    assert verdicts(scaled(*factors, first=first, last=last), normal(256, 32)).ok


@pytest.mark.parametrize("gain", [0.0, 1e-6])
@pytest.mark.parametrize("kept", ["list", "vector"])
def test_gates_may_be_kept_outside_of_their_blocks(gain, kept):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
            gates = nn.Parameter(torch.full((4,), gain))
            if kept == "list":
                gates = nn.ParameterList(torch.tensor(gain) for _ in range(4))
            self.gates = gates

        def forward(self, x):
            for layer, gate in zip(self.layers, self.gates, strict=True):
                x = x + gate * layer(x).relu()
            return x

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), Gated(), nn.Linear(32, 10))
    assert verdicts(model, normal(256, 32)).ok


class Sums(nn.Module):
    def __init__(self, gain, factor):
        super().__init__()
        self.layer, self.factor = nn.Linear(32, 32), factor
        nn.init.normal_(self.layer.weight, 0, gain / math.sqrt(32))

    def forward(self, x):
        return self.factor * (x + self.layer(x).relu())


@pytest.mark.parametrize(
    ("gain", "factor", "verdict"),
    [
        (1.4, 1.0, InitVerdict.GRADIENT_EXPLODING),
        (0.1, 0.5, InitVerdict.GRADIENT_VANISHING),
    ],
)
def test_a_trunk_that_explodes_or_vanishes_is_still_flagged(gain, factor, verdict):
    torch.manual_seed(0)
    blocks = [Sums(gain, factor) for _ in range(30)]
    report = verdicts(nn.Sequential(nn.Linear(32, 32), *blocks, nn.Linear(32, 10)), normal(256, 32))
    assert report.layers[0].verdict is verdict


def test_a_chain_that_vanishes_before_a_branch_is_still_flagged():
    chain = [layer for _ in range(20) for layer in (nn.Linear(32, 32), nn.Tanh())]
    model = nn.Sequential(*chain, Scaled(1.0), nn.Linear(32, 10))
    initialize_(model, "xavier_normal", gain=0.5, generator=torch.Generator().manual_seed(0))
    report = verdicts(model, normal(256, 32))
    assert report.layers[0].verdict is InitVerdict.GRADIENT_VANISHING


def head(weight, bias, end=None):
    """A network whose last layer starts at a constant."""
    torch.manual_seed(0)
    last = nn.Linear(32, len(bias))
    with torch.no_grad():
        last.bias.copy_(torch.tensor(bias))
        last.weight.mul_(weight)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), last, *([end] if end else []))


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("probability", [0.01, 0.001])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_a_head_may_start_at_the_probability_of_a_rare_class(weight, probability, sigmoid):
    model = head(weight, [math.log(probability / (1 - probability))] * 4)
    loss_fn = F.binary_cross_entropy_with_logits
    if sigmoid:
        model, loss_fn = nn.Sequential(model, nn.Sigmoid()), F.binary_cross_entropy
    target = torch.zeros(256, 4)
    target[3, 1] = 1  # the other three look alike in this batch, and are no copies
    report = verdicts(model, normal(256, 16), target, loss_fn)
    assert [row.verdict for row in report.layers] == ["ok"] * 2 and report.ok


@pytest.mark.parametrize("mean", [50.0, -1e4])
def test_a_head_may_start_at_the_mean_of_its_target(mean):
    model, x = head(1.0, [mean]), normal(256, 16)
    assert verdicts(model, x, mean + x.sum(1, keepdim=True), F.mse_loss).ok


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_a_head_may_start_at_the_frequencies_of_the_classes(weight):
    shares = [0.97, 0.01, 0.01, 0.01]
    y = torch.tensor([0] * 388 + [1] * 4 + [2] * 4 + [-100] * 4)  # the last class is not here
    report = verdicts(head(weight, [math.log(s) for s in shares]), normal(400, 16), y)
    assert report.initial_loss < 0.2 * report.expected_loss
    assert report.ok and report.loss_verdict is LossVerdict.OK


def test_two_heads_may_start_at_a_constant():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 2), nn.Linear(32, 2)
            for layer in (self.one, self.two):
                nn.init.zeros_(layer.weight)
                nn.init.constant_(layer.bias, -4.6)

        def forward(self, x):
            x = self.body(x).relu()
            return torch.cat([self.one(x), self.two(x)], 1)

    loss_fn = F.binary_cross_entropy_with_logits
    assert verdicts(Two(), normal(256, 16), torch.zeros(256, 4), loss_fn).ok


def test_a_bias_that_drowns_what_a_hidden_layer_says_is_flagged():
    model = head(1.0, [0.0] * 10)
    nn.init.constant_(model[0].bias, 5.0)
    nn.init.normal_(model[0].weight, 0, 0.003)
    assert verdicts(model, normal(256, 16)).layers[0].verdict is InitVerdict.CONSTANT


def test_a_model_of_embeddings_alone_is_looked_at():
    tokens = torch.arange(16)
    assert verdicts(nn.Embedding(16, 10), tokens, tokens % 10).layers[0].verdict is InitVerdict.OK


def initialized(model, scheme, bias=None, **words):
    initialize_(model, scheme, generator=torch.Generator().manual_seed(0), **words)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and bias is not None:
            nn.init.constant_(layer.bias, bias)
    return model


@pytest.mark.parametrize(
    ("model", "layer", "verdict", "advice"),
    [
        (initialized(mlp(20), "kaiming_normal"), None, "ok", ""),
        (initialized(mlp(10, activation=nn.Tanh), "xavier_normal"), None, "ok", ""),
        (mlp(2), None, "ok", ""),
        (initialized(mlp(20), "xavier_normal"), "0", "gradient vanishing", "x0.00"),
        (initialized(mlp(20), "xavier_normal"), "34", "signal vanishing", "x0.00"),
        (initialized(mlp(20), "normal", gain=0.5), "0", "gradient exploding", "x"),
        (initialized(mlp(20), "normal", gain=0.5), "34", "signal exploding", "x"),
        (initialized(mlp(9), "normal", gain=0.1, bias=-1.0), "14", "dead", "100% of its units are"),
        (initialized(mlp(9), "normal", gain=0.1, bias=-1.0), "18", "constant", "Only 0.0% of its"),
        (mlp(20), "18", "dead", "45% of its units are zero"),  # torch's default
        (mlp(20), "40", "constant", "Only 0.0% of its output differs"),
        (initialized(mlp(3), "constant"), "2", "symmetric", "255 units are copies of others"),
        (initialized(mlp(3), "zeros"), "0", "no output", "Its output is zero and stays zero"),
        (initialized(mlp(5, activation=nn.Tanh), "normal", gain=1.0), "4", "saturated", "86% of "),
    ],
    ids=["He", "Xavier tanh", "default, 2 layers", "Xavier first", "Xavier last", "0.5 first",
         "0.5 last", "dead", "after dead", "default", "default head", "constant", "zeros",
         "saturated"],
)  # fmt: skip
def test_verdicts_on_plain_networks(model, layer, verdict, advice):
    report = verdicts(model)
    if layer is None:
        assert [row.verdict for row in report.layers] == ["ok"] * len(report.layers)
        assert report.ok
    else:
        found = {row.name: row for row in report.layers}[layer]
        assert found.verdict is InitVerdict(verdict) and found.advice.startswith(advice)
        assert re.search(r"\. (Use|Add|Start|Draw) ", found.advice) and not report.ok


def test_the_rate_of_a_vanishing_signal_is_measured():
    """Xavier's weights lose half of the variance at each ReLU."""
    found = verdicts(initialized(mlp(20), "xavier_normal")).layers[17].advice
    assert re.search(r"x0\.(69|70|71|72) a layer", found)


def transformer(norm_first):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 32)
            self.body = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(32, 2, 64, norm_first=norm_first, batch_first=True),
                3,
                enable_nested_tensor=False,
            )
            self.head = nn.Linear(32, 50, bias=False)
            nn.init.normal_(self.embedding.weight, 0, 0.02)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.body(self.embedding(tokens)))

    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_with_tied_embeddings_is_fine(norm_first):
    tokens = torch.randint(50, (16, 12), generator=torch.Generator().manual_seed(0))
    report = init_report(
        transformer(norm_first), tokens, lambda out, y: F.cross_entropy(out.mT, y), tokens
    )
    assert [row.verdict for row in report.layers] == ["ok"] * len(report.layers)
    assert "body.layers.0.self_attn" in [row.name for row in report.layers]
    assert report.expected_loss == pytest.approx(math.log(50))
    assert report.input_rms is None


def test_batchnorm_makes_up_for_the_scale_of_weights_and_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(6)),
        nn.Linear(32, 10),
    )
    initialize_(model, "normal", gain=1e-3)
    assert verdicts(model, normal(128, 32) * 60 + 128).ok


class Attention(nn.Module):
    """A block before whose softmax the gradient is small for good reasons."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        h = F.layer_norm(x, (32,))
        return x + self.out(F.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h)))


def test_queries_and_keys_may_start_with_small_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 32), *(Attention() for _ in range(4)), nn.Linear(32, 50))
    initialize_(model, "normal", gain=0.02)
    tokens = torch.randint(50, (16, 12), generator=torch.Generator().manual_seed(0))
    report = init_report(model, tokens, lambda out, y: F.cross_entropy(out.mT, y), tokens)
    assert [row.verdict for row in report.layers] == ["ok"] * len(report.layers)
    assert report.layers[1].backward_rms < 1e-2 * report.layers[4].backward_rms


def test_a_small_end_of_a_residual_branch_is_fine():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)
            nn.init.normal_(self.two.weight, 0, 1e-3)
            nn.init.zeros_(self.two.bias)

        def forward(self, x):
            return x + self.two(self.one(x).relu())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), Block(), Block(), nn.Linear(32, 32), nn.Linear(32, 10))
    report = verdicts(model, normal(64, 32))
    assert report.layers[2].forward_rms < 0.1 * report.layers[0].forward_rms
    assert report.ok


def test_pooling_spreads_a_gradient_thin_without_harm():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    initialize_(model, "kaiming_normal")
    report = verdicts(model, normal(8, 3, 48, 48) + normal(8, 3, 1, 1, seed=1))
    assert report.layers[0].backward_rms < 1e-2 * report.layers[1].backward_rms
    assert report.layers[0].verdict == "ok"


def test_a_layer_that_needs_not_vary_is_fine():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.body = nn.Linear(8, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.body(x + self.position(torch.ones_like(x)))

    torch.manual_seed(0)
    report = verdicts(Model(), normal(64, 8))
    assert report.layers[0].varying_fraction < 0.01 and report.ok


def test_one_sample_says_nothing_about_what_varies():
    report = verdicts(mlp(2), normal(1, 256))
    assert report.layers[0].varying_fraction is None and report.samples == 1
    assert report.layers[0].verdict == "ok"


def test_what_waits_and_what_is_cut_off_are_told_apart():
    """A dead branch after one that starts at zero on purpose."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(8, 8)
            self.first, self.dead, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.dead.bias, -100.0)

        def forward(self, x):
            x = x + self.gate(x)
            return self.head(x + self.dead(self.first(x)).relu())

    torch.manual_seed(0)
    found = {row.name: row for row in verdicts(Model(), normal(64, 8)).layers}
    assert found["first"].verdict is InitVerdict.NO_GRADIENT
    assert found["first"].advice == (
        "A layer after it passes no gradient back (all units of dead are dead)."
    )
    assert found["gate"].verdict is InitVerdict.OK


def test_recurrent_and_reused_layers_have_a_row_a_call():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.lstm = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True)

        def forward(self, x):
            return self.cell(self.cell(self.lstm(x)[0]))

    report = init_report(Loop(), normal(4, 3, 8))
    assert [row.name for row in report.layers] == ["lstm", "cell", "cell #2"]


def test_what_the_loss_does_not_use_is_said():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 10), nn.Linear(8, 10)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    unused, used = verdicts(Two(), normal(64, 8)).layers
    assert unused.verdict is InitVerdict.UNUSED
    assert unused.advice.startswith("The loss does not depend on it")
    assert used.verdict == "ok"
    frozen = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 10))
    frozen[0].requires_grad_(False)
    assert verdicts(frozen, normal(64, 8)).ok
    assert verdicts(frozen.requires_grad_(False), normal(64, 8)).ok


def test_what_is_not_finite_is_found_where_it_starts():
    model = mlp(3, 16)
    with torch.no_grad():
        model[2].weight[0, 0] = NAN
    rows = verdicts(model, normal(32, 16)).layers
    assert rows[1].verdict is rows[2].verdict is InitVerdict.NOT_FINITE
    assert rows[1].advice.startswith("It is the first: ")
    assert rows[2].advice == "The output of 2 before it is not finite either: start there."
    report = init_report(mlp(2, 16), normal(8, 16), lambda out, y: out.sum() * NAN, labels(8))
    assert report.layers[0].verdict is InitVerdict.GRADIENT_NOT_FINITE
    assert report.loss_verdict is LossVerdict.NOT_FINITE


@pytest.mark.parametrize("wrap", [lambda layer: layer, parametrizations.weight_norm])
def test_equal_units_with_different_gradients_are_no_copies(wrap):
    model = initialized(mlp(2, 32), "kaiming_normal")
    nn.init.constant_(model[0].weight, 0.1)
    wrap(model[0])
    row = verdicts(model, normal(64, 32)).layers[0]
    assert row.duplicate_rows == 0
    assert init_report(model, normal(64, 32)).layers[0].duplicate_rows == 31


def test_weight_norm_is_understood():
    torch.manual_seed(0)
    model = mlp(4, 64)
    for index in (0, 2, 4, 6):
        parametrizations.weight_norm(model[index])
    initialize_(model, "constant")
    row = verdicts(model, normal(128, 64)).layers[1]
    assert row.verdict is InitVerdict.SYMMETRIC and row.advice.startswith("63 units")
    initialize_(model, "kaiming_normal")
    report = verdicts(model, normal(128, 64))
    assert report.ok and [row.name for row in report.layers] == ["0", "2", "4", "6", "8"]
    with torch.no_grad():
        parametrizations.weight_norm(model[8]).parametrizations.weight.original0.zero_()
    report = verdicts(model, normal(128, 64))
    assert report.ok and report.layers[4].advice.startswith("It starts at zero")
    assert "until 8.parametrizations.weight.original0, which" in report.layers[3].advice


# init_report: the loss


@pytest.mark.parametrize(
    ("output", "target", "loss_fn", "expected"),
    [
        ((8, 10), (8,), F.cross_entropy, math.log(10)),
        ((8, 10), (8,), nn.CrossEntropyLoss(reduction="sum"), 8 * math.log(10)),
        ((8, 10), (8,), nn.CrossEntropyLoss(reduction="none"), math.log(10)),
        ((8, 10), (8,), nn.CrossEntropyLoss(label_smoothing=0.1), math.log(10)),
        ((8, 10), (8,), lambda out, y: F.nll_loss(out.log_softmax(1), y), math.log(10)),
        ((8, 10, 4, 4), (8, 4, 4), F.cross_entropy, math.log(10)),
        ((8, 5, 10), (8, 5), lambda out, y: F.cross_entropy(out.mT, y), math.log(10)),
    ],
)  # fmt: skip
def test_the_expected_loss_is_that_of_equal_probabilities(output, target, loss_fn, expected):
    class Give(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(normal(*output) * 0.1)

        def forward(self, x):
            return self.logits

    y = torch.randint(10, target, generator=torch.Generator().manual_seed(0))
    report = init_report(Give(), normal(8, 2), loss_fn, y)
    assert report.expected_loss == pytest.approx(expected, rel=1e-5)
    assert report.loss_verdict == "ok"


def test_log_probabilities_have_the_same_expected_loss():
    model = nn.Sequential(nn.Linear(8, 10), nn.LogSoftmax(1))
    report = verdicts(model, normal(16, 8), loss_fn=nn.NLLLoss())
    assert report.expected_loss == pytest.approx(math.log(10))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_class_weights_of_the_models_dtype_are_taken(dtype):
    model = nn.Linear(8, 10).to(dtype)
    loss_fn = nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0).to(dtype))
    report = init_report(model, normal(64, 8).to(dtype), loss_fn, labels(64))
    assert report.expected_loss == pytest.approx(math.log(10), rel=0.01)
    assert report.loss_verdict == "ok"


def test_targets_that_are_not_classes_have_none():
    report = init_report(nn.Linear(4, 2), normal(8, 4), F.mse_loss, normal(8, 2))
    assert report.expected_loss is None and report.loss_verdict is LossVerdict.OK
    assert report.loss_advice == "There is nothing to compare it with."
    report = init_report(nn.Linear(4, 2), normal(8, 4))
    assert report.initial_loss is None and report.layers[0].backward_rms is None
    assert report.loss_verdict is LossVerdict.OK
    assert report.loss_advice == "Not measured: there is no loss_fn."
    report = init_report(nn.Linear(4, 2), normal(8, 4), lambda out: out.square().mean())
    assert report.initial_loss > 0


def test_a_loss_far_from_that_of_equal_probabilities_is_flagged():
    model = mlp(1, 16)
    nn.init.normal_(model[-1].weight, 0, 10.0)
    report = verdicts(model, normal(64, 16))
    assert report.loss_verdict is LossVerdict.TOO_HIGH
    assert "times the loss of equal probabilities" in report.loss_advice
    assert not report.ok
    x = torch.eye(10)[labels(64)] * 9
    assert verdicts(nn.Identity(), x).loss_verdict is LossVerdict.TOO_LOW


# init_report: what it leaves alone, and how it shows


def busy():
    """A model with everything that a forward pass may change."""
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(8, 8)), nn.BatchNorm1d(8), nn.ReLU(inplace=True),
        nn.Dropout(), parametrizations.weight_norm(nn.Linear(8, 10)),
    )  # fmt: skip
    model(normal(16, 8)).sum().backward()
    model[1].eval()
    model[0].bias.grad = None
    return model


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, None])
def test_nothing_is_changed(loss_fn):
    model = busy()
    before, hooks = digest(model), hooks_of(model)
    init_report(model, normal(16, 8), loss_fn, labels(16) if loss_fn else None)
    assert digest(model) == before and hooks_of(model) == hooks


def test_batch_and_target_are_left_where_model_and_loss_work_in_place():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 10))
    x, y = normal(16, 8), labels(16, classes=9)
    kept = x.clone(), y.clone()

    def shifted(output, target):
        return F.cross_entropy(output, target.add_(1))

    report = init_report(model, x, shifted, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert report.input_rms == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)
    assert report.initial_loss == pytest.approx(F.cross_entropy(model(x), y + 1).item(), rel=1e-5)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["forward", "loss"])
def test_nothing_is_changed_by_a_failure(error, place):
    model = busy()
    seen = []

    def fail(*_):
        seen.append(1)
        raise error

    if place == "forward":
        model[4].register_forward_hook(fail)
    before, hooks = digest(model), hooks_of(model)
    with pytest.raises(error):
        init_report(model, normal(16, 8), fail, labels(16))
    assert seen and digest(model) == before and hooks_of(model) == hooks
    assert (
        torch.relu(torch.tensor(1.0)) == 1
        and not torch.overrides._get_current_function_mode_stack()
    )


def test_it_sees_what_the_modes_of_the_model_give():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 4))
    x = torch.ones(512, 256)
    train, evaluated = (init_report(model.train(mode), x).layers[0] for mode in (True, False))
    assert train.varying_fraction > 0.5 and evaluated.varying_fraction < 1e-5


def test_it_measures_also_under_no_grad():
    with torch.no_grad():
        assert verdicts(mlp(1, 8), normal(16, 8)).layers[0].backward_rms > 0


class Reads(TorchDispatchMode):
    """Counts the single values that Python asks for; each would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_on_the_way():
    model = busy()
    with Reads() as reads:
        init_report(model, normal(16, 8), F.cross_entropy, labels(16))
    assert reads.count == 0


def test_a_pair_brings_its_target():
    model = mlp(1, 8)
    pair = (normal(16, 8), labels(16))
    assert init_report(model, pair, F.cross_entropy) == init_report(
        model, pair[0], F.cross_entropy, pair[1]
    )
    with pytest.raises(ValueError, match="a target needs a loss_fn"):
        init_report(model, pair[0], target=pair[1])


def test_it_prints_and_turns_into_json():
    report = verdicts(initialized(mlp(3, 32), "constant"), normal(64, 32))
    assert "  symmetric  " in str(report) and "31 units are copies" in str(report)
    assert "<table>" in report._repr_html_()
    assert "loss 2.3, 2.3 for equal probabilities: ok" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["duplicate_rows"] == 31


def test_the_picture_shows_the_numbers():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    report = verdicts(mlp(3, 32), normal(64, 32))
    ax = report.plot(figure.subplots())
    signal, gradient = ax.get_lines()
    assert list(signal.get_ydata()) == [row.forward_rms for row in report.layers]
    assert list(gradient.get_ydata()) == [row.backward_rms for row in report.layers]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "layer"


# On a GPU


@pytest.mark.gpu
def test_on_a_gpu_the_report_is_the_same_and_waits_once():
    model, x, y = mlp(4, 64), normal(128, 64), labels(128)
    plain = init_report(model, x, F.cross_entropy, y)
    model.cuda()
    init_report(model, x, F.cross_entropy, y)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            report = init_report(model, x.cuda(), F.cross_entropy, y.cuda())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
    for ours, reference in zip(report.layers, plain.layers, strict=True):
        assert ours.forward_rms == pytest.approx(reference.forward_rms, rel=1e-2)
        assert ours.backward_rms == pytest.approx(reference.backward_rms, rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_a_gpu_weights_are_set_and_scaled(scheme):
    model = mlp(2, 64).cuda()
    initialize_(model, scheme, generator=torch.Generator("cuda").manual_seed(0))
    lsuv_(model, normal(64, 64))
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.gpu
def test_a_generator_on_another_device_is_refused():
    with pytest.raises(ValueError, match="generator is on cpu, .* on cuda"):
        initialize_(mlp(1).cuda(), "normal", generator=torch.Generator())
