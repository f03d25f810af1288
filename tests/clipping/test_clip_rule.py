"""Adaptive clipping: unit by unit, for every layer that has units of its own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbkit.clipping import clip_gradients_, rule


@pytest.fixture(params=["host", "device"])
def way(request, monkeypatch):
    """Both ways through the code: with the result looked at, and as on a GPU, without."""
    if request.param == "device":
        monkeypatch.setattr(rule, "_are_on_cpu", lambda kinds: False)


def filled(model, seed=0, scale=1.0):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape)
    return model


def rows(tensor):
    return [(i,) for i in range(tensor.shape[0])]


def columns(tensor):
    return [(slice(None), i) for i in range(tensor.shape[1])]


def half_columns(tensor):
    half = tensor.shape[0] // 2
    parts = slice(0, half), slice(half, None)
    return [(part, i) for part in parts for i in range(tensor.shape[1])]


def whole(tensor):
    return [()]


def clipped_by_hand(weight, grad, units, agc, eps=1e-3):
    """One unit after the other, in float64: the definition."""
    weight, grad = weight.detach().double(), grad.double().clone()
    for unit in units:
        limit = agc * max(weight[unit].norm().item(), eps)
        if grad[unit].norm().item() > limit:
            grad[unit] *= limit / grad[unit].norm().item()
    return grad


LAYERS = {
    "Linear": (lambda: nn.Linear(5, 3), rows),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3), rows),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), rows),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), columns),
    "ConvTranspose1d, 2 groups": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), half_columns),
    "Embedding": (lambda: nn.Embedding(7, 4), rows),
    "LayerNorm": (lambda: nn.LayerNorm(6), whole),
    "GRU": (lambda: nn.GRU(3, 4), rows),
    "attention": (lambda: nn.MultiheadAttention(4, 2), rows),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("agc", [0.01, 0.5, 100.0])
def test_each_layer_has_its_own_units(way, layer, agc):
    make, units = LAYERS[layer]
    model, before = filled(make()), filled(make())
    before.load_state_dict(model.state_dict())
    report = clip_gradients_(model, agc=agc, nonfinite="skip")
    factors = []
    for name, parameter in model.named_parameters():
        grad = before.get_parameter(name).grad.double()
        split = whole if parameter.dim() == 1 else units
        expected = clipped_by_hand(parameter, grad, split(parameter), agc)
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-5, atol=1e-9)
        factors += [(expected[u].norm() / grad[u].norm()).item() for u in split(parameter)]
    assert report.coefficient == pytest.approx(min(factors), rel=1e-5)
    assert report.clipped == (min(factors) < 1)


@given(
    shape=st.lists(st.integers(1, 4), max_size=4),
    agc=st.floats(1e-4, 10.0),
    scale=st.sampled_from([0.0, 1e-8, 1.0, 1e20]),
    norm_type=st.sampled_from([1.0, 2.0, math.inf]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_no_unit_exceeds_its_share_and_directions_stay(shape, agc, scale, norm_type, seed):
    torch.manual_seed(seed)
    model = nn.ParameterDict({"w": nn.Parameter(torch.randn(shape))})
    before = filled(model, seed + 1, scale)["w"].grad.clone()
    clip_gradients_(model, agc=agc, norm_type=norm_type)
    axes = list(range(min(1, len(shape) - 1), len(shape))) if shape else None

    def norm(tensor):
        return torch.linalg.vector_norm(tensor.double(), norm_type, dim=axes, keepdim=bool(shape))

    weight, after = model["w"].detach(), model["w"].grad
    limit = agc * norm(weight).clamp(min=1e-3)
    assert (norm(after) <= limit * (1 + 1e-5)).all()
    factor = torch.minimum(limit / norm(before), torch.ones(()))
    expected = before.double() * factor.nan_to_num(1.0)
    torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=1e-30)


def test_a_weight_that_starts_at_zero_moves(way):
    layer = filled(nn.Linear(3, 2))
    nn.init.zeros_(layer.weight)
    clip_gradients_(layer, agc=0.5, nonfinite="skip")
    assert layer.weight.grad.norm(dim=1).tolist() == pytest.approx([0.5e-3] * 2)
    layer = filled(layer)
    clip_gradients_(layer, agc=0.5, eps=0.1)
    assert layer.weight.grad.norm(dim=1).tolist() == pytest.approx([0.05] * 2)


def test_a_unit_without_gradient_stays_at_zero():
    layer = filled(nn.Linear(3, 2))
    layer.weight.grad[0] = 0.0
    clip_gradients_(layer, agc=1e-3)
    assert layer.weight.grad[0].tolist() == [0.0] * 3


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.head = nn.Linear(3, 5, bias=False)


@pytest.mark.parametrize(
    ("exclude", "free"),
    [
        ((), ()),
        ("head", ("head.weight",)),
        (["head.weight", "embed"], ("embed.weight", "head.weight")),
        (["body.0.bias", "body.1"], ("body.0.bias", "body.1.weight", "body.1.bias")),
        ("body", ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias")),
    ],
)
def test_excluded_by_name(way, exclude, free):
    check_excluded(filled(Tagger()), exclude, free)


def test_excluded_by_module(way):
    model = filled(Tagger())
    check_excluded(model, model.head, ("head.weight",))
    model = filled(Tagger())
    check_excluded(model, [model.body[0], "head"], ("body.0.weight", "body.0.bias", "head.weight"))


def check_excluded(model, exclude, free):
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    report = clip_gradients_(model, agc=1e-3, exclude=exclude, nonfinite="skip")
    same = {name for name, p in model.named_parameters() if torch.equal(p.grad, before[name])}
    assert same == set(free)
    assert set(report.norms) == set(before), "measured all the same"


def test_everything_excluded_is_nothing_clipped():
    model = filled(Tagger())
    report = clip_gradients_(model, agc=1e-3, exclude=["embed", "body", "head"])
    assert not report.clipped and report.coefficient == 1.0


def test_a_tied_weight_can_be_excluded_by_either_name():
    for name in ("head.weight", "embed.weight"):
        model = Tagger()
        model.head.weight = model.embed.weight
        before = filled(model).embed.weight.grad.clone()
        clip_gradients_(model, agc=1e-3, exclude=name)
        assert torch.equal(model.embed.weight.grad, before)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("haed", "no parameter or module 'haed'; the nearest name is 'head'."),
        (["head", "body.2"], "no parameter or module 'body.2'; the nearest name is 'body.1'."),
        (["head.bias"], "no parameter or module 'head.bias'; the nearest name is 'head'"),
        ("", "no parameter or module ''"),
        (nn.Linear(1, 1), r"no parameter or module Linear\("),
        ([3], "no parameter or module 3"),
    ],
)
def test_what_is_not_there_cannot_be_excluded(exclude, message):
    model = filled(Tagger())
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        clip_gradients_(model, agc=0.1, exclude=exclude)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_agc_has_to_know_the_layers():
    with pytest.raises(TypeError, match=r"agc has to know the layers: pass the model, not list"):
        clip_gradients_(list(filled(Tagger()).parameters()), agc=0.1)


def test_agc_refuses_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    with pytest.raises(TypeError, match="agc needs dense gradients, but that of weight is sparse"):
        clip_gradients_(table, agc=0.1)
    assert not table.weight.grad.is_coalesced(), "nothing was touched"


def test_weight_norm_of_a_transposed_convolution():
    layer = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(2, 3, 2), dim=1)
    filled(layer)
    direction = layer.parametrizations.weight.original1
    expected = clipped_by_hand(direction, direction.grad, columns(direction), 0.1)
    clip_gradients_(layer, agc=0.1)
    torch.testing.assert_close(direction.grad.double(), expected, rtol=1e-5, atol=1e-9)
