"""Stacked models do what each model does to its own run, or are refused by name."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from nbkit.base.state import digest
from nbkit.lab.runs.probe import check_stack
from nbkit.lab.runs.stacking import ELEMENTWISE, stack


def test_each_run_goes_through_its_own_weights():
    models = [
        nn.Sequential(
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
            nn.Linear(5, 3, bias=False),
        )
        for _ in range(4)
    ]
    x = torch.randn(4, 7, 2, 3)
    expected = torch.stack([model(some) for model, some in zip(models, x, strict=True)])
    torch.testing.assert_close(stack(models)(x), expected)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    runs=st.integers(1, 4),
    batch=st.integers(1, 5),
    kind=st.sampled_from(ELEMENTWISE),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_random_models_and_their_gradients_agree(sizes, runs, batch, kind, bias):
    def make():
        layers = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=bias), kind()]
        return nn.Sequential(*layers).double()

    models = [make() for _ in range(runs)]
    stacked = stack(models)
    x = torch.randn(runs, batch, sizes[0], dtype=torch.float64)
    together = stacked(x)
    apart = torch.stack([model(some) for model, some in zip(models, x, strict=True)])
    torch.testing.assert_close(together, apart)
    together.square().sum().backward()
    apart.square().sum().backward()
    for number, weight in enumerate(stacked.parameters()):
        theirs = [list(model.parameters())[number].grad for model in models]
        theirs = [grad.mT if grad.ndim == 2 else grad[None] for grad in theirs]
        torch.testing.assert_close(weight.grad, torch.stack(theirs))


@pytest.mark.parametrize("dims", [(1, -1), (2, 3), (-2, -1)])
def test_flatten_keeps_its_dimensions(dims):
    x = torch.randn(3, 2, 4, 5, 6)
    expected = torch.stack([nn.Flatten(*dims)(some) for some in x])
    assert torch.equal(stack([nn.Flatten(*dims)] * 3)(x), expected)


@pytest.mark.parametrize("kind", [nn.LeakyReLU(0.5), nn.ELU(2.0), nn.GELU("tanh")], ids=str)
def test_an_activation_keeps_its_options(kind):
    x = torch.randn(3, 4, 5)
    assert torch.equal(stack([kind] * 3)(x), kind(x))


def test_weights_are_copied_and_frozen_ones_stay_frozen():
    models = [nn.Linear(2, 2) for _ in range(3)]
    for model in models:
        model.bias.requires_grad_(False)
    stacked = stack(models)
    assert [p.requires_grad for p in stacked.parameters()] == [True, False]
    with torch.no_grad():
        stacked.weight.zero_()
    assert all(model.weight.abs().sum() > 0 for model in models)


# Layers of every kind


class Residual(nn.Module):
    """A forward of one's own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return x + self.body(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x)[0]


class Cells(nn.Module):
    """The outputs and the last states of a recurrent layer, or the states of a cell, in one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if isinstance(self.layer, nn.RNNBase) or hasattr(self.layer, "options"):
            out, last = self.layer(x)
            out, last = self.layer(x, last)
            parts = [out, *(last if isinstance(last, tuple) else (last,))]
        else:
            state = None
            for now in x.unbind(1):
                state = self.layer(now, state)
            parts = list(state if isinstance(state, tuple) else (state,))
        return torch.cat([part.flatten() for part in parts])


class Special(nn.Linear):
    pass


PICTURES, SEQUENCES, ROWS = (5, 4, 6, 6), (5, 7, 4), (5, 4)
LAYERS = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, 2, padding=1, groups=2), PICTURES),
    "conv2d circular": (
        lambda: nn.Conv2d(4, 3, 3, padding="same", padding_mode="circular"),
        PICTURES,
    ),
    "conv2d no bias": (lambda: nn.Conv2d(4, 3, (1, 3), dilation=2, bias=False), PICTURES),
    "conv1d": (lambda: nn.Conv1d(7, 3, 2), SEQUENCES),
    "batchnorm2d": (lambda: nn.BatchNorm2d(4), PICTURES),
    "batchnorm2d of all": (lambda: nn.BatchNorm2d(4, momentum=None), PICTURES),
    "batchnorm1d": (lambda: nn.BatchNorm1d(4, affine=False), ROWS),
    "batchnorm1d untracked": (lambda: nn.BatchNorm1d(7, track_running_stats=False), SEQUENCES),
    "layernorm": (lambda: nn.LayerNorm((6, 6)), PICTURES),
    "groupnorm": (lambda: nn.GroupNorm(2, 4), PICTURES),
    "maxpool2d": (lambda: nn.MaxPool2d(2, 1), PICTURES),
    "avgpool2d": (lambda: nn.AvgPool2d(3, padding=1), PICTURES),
    "adaptive2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), PICTURES),
    "maxpool1d": (lambda: nn.MaxPool1d(2), SEQUENCES),
    "avgpool1d": (lambda: nn.AvgPool1d(2), SEQUENCES),
    "adaptive1d": (lambda: nn.AdaptiveAvgPool1d(3), SEQUENCES),
    "unflatten": (lambda: nn.Unflatten(1, (2, 2)), ROWS),
    "softmax": (lambda: nn.Softmax(1), ROWS),
    "prelu": (lambda: nn.PReLU(), ROWS),
    "linear in time": (lambda: nn.Linear(4, 3), SEQUENCES),
    "linear in space": (lambda: nn.Linear(6, 3, bias=False), PICTURES),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), ROWS),
    "subclass": (lambda: Special(4, 3), ROWS),
    "embedding": (lambda: nn.Embedding(9, 3, padding_idx=0), (5, 7)),
    "dropout at rest": (lambda: nn.Dropout(0.5).eval(), ROWS),
    "residual": (Residual, PICTURES),
    "attention": (Attention, SEQUENCES),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), SEQUENCES),
    "rnn": (lambda: Cells(nn.RNN(4, 3, 2, nonlinearity="relu", bidirectional=True)), SEQUENCES),
    "gru": (lambda: Cells(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True)), SEQUENCES),
    "lstm": (lambda: Cells(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)), SEQUENCES),
    "lstm no bias": (lambda: Cells(nn.LSTM(4, 3, bias=False)), SEQUENCES),
    "rnn cell": (lambda: Cells(nn.RNNCell(4, 3)), SEQUENCES),
    "gru cell": (lambda: Cells(nn.GRUCell(4, 3, bias=False)), SEQUENCES),
    "lstm cell": (lambda: Cells(nn.LSTMCell(4, 3)), SEQUENCES),
}


def inputs_of(shape):
    if len(shape) == 2 and shape[1] == 7:
        return torch.randint(9, (3, *shape))
    return torch.randn(3, *shape, dtype=torch.float64)


def flat(tensors):
    """Of stacked tensors or of separate ones: in one order, so that they can be compared."""
    return torch.cat([tensor.reshape(3, -1) for tensor in tensors], 1).sort(1).values


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_its_gradients_and_its_statistics_are_those_of_each_run(name):
    make, shape = LAYERS[name]
    models = [nn.Sequential(make()).double() for _ in range(3)]
    stacked = stack(models)
    for _ in range(2):  # statistics that the first call leaves count in the second
        x = inputs_of(shape)
        together = stacked(x)
        apart = torch.stack([model(some) for model, some in zip(models, x, strict=True)])
        torch.testing.assert_close(together, apart, rtol=1e-11, atol=1e-11)
    weight = torch.randn_like(apart)
    (together * weight).sum().backward() if together.requires_grad else None
    (apart * weight).sum().backward() if apart.requires_grad else None
    theirs = zip(*(model.parameters() for model in models), strict=True)
    if list(models[0].parameters()):
        expected = flat([torch.stack([p.grad for p in alike]) for alike in theirs])
        found = flat([p.grad for p in stacked.parameters()])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    stacked.eval()
    with torch.no_grad():
        together = stacked(x)
        apart = torch.stack([model.eval()(some) for model, some in zip(models, x, strict=True)])
    torch.testing.assert_close(together, apart, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["conv2d", "batchnorm2d", "residual", "lstm", "attention"])
def test_stacking_copies(name):
    models = [LAYERS[name][0]().double() for _ in range(3)]
    before = digest(*models)
    stacked = stack(models)
    with torch.no_grad():
        for tensor in [*stacked.parameters(), *stacked.buffers()]:
            tensor.zero_()
    assert digest(*models) == before


# What is refused


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Dropout(), "a Dropout that drops out"),
        (nn.Dropout2d(), "a Dropout2d that drops out"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "a MultiheadAttention that drops out"),
        (nn.LSTM(4, 4, 2, dropout=0.1), "a LSTM that drops out"),
        (nn.LSTM(4, 4, proj_size=2), "a LSTM with proj_size"),
        (nn.Embedding(4, 4, scale_grad_by_freq=True), "a Embedding with one of max_norm, scale"),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be_stacked_is_refused_by_name_with_the_way_out(layer, reason):
    with pytest.raises(ValueError, match=f"train_runs cannot batch {reason}") as error:
        stack([nn.Sequential(nn.Linear(1, 1), layer)] * 2)
    assert "Pass vectorize=False" in str(error.value)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn_like(x)


class Slow(nn.Linear):
    """Right outputs, but gradients that are others under vmap."""

    def forward(self, x):
        y = super().forward(x)
        return y if torch._C._functorch.is_batchedtensor(y) else y + (y - y.detach())


class Scaled(nn.Linear):
    """What differs between the runs is no tensor of the module."""

    scales = iter(range(1, 100))

    def __init__(self):
        super().__init__(4, 4)
        self.scale = next(self.scales)

    def forward(self, x):
        return super().forward(x) * self.scale


class Turned(nn.Linear):
    """Gradients as large, but of other elements under vmap."""

    def forward(self, x):
        y = F.linear(x, self.weight)
        if not torch._C._functorch.is_batchedtensor(y):
            return y + self.bias
        return y + self.bias.detach() + (self.bias - self.bias.detach()).flip(0)


class Replacing(nn.BatchNorm1d):
    """The mean of evaluation is put in the old one's place: only a buffer says so in training."""

    def forward(self, x):
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean(0).detach()
            return x
        return x - self.running_mean


class AtRest(Scaled):
    """In training as any other."""

    def forward(self, x):
        return nn.Linear.forward(self, x) if self.training else super().forward(x)


class BranchingAtRest(nn.Linear):
    def forward(self, x):
        return x if not self.training and x.sum() > 0 else super().forward(x)


class Warming(nn.Linear):
    """In its first call as any other."""

    warm = False

    def forward(self, x):
        noisy, self.warm = self.training and self.warm, True
        return super().forward(x + torch.randn_like(x) if noisy else x)


class Masked(nn.Module):
    """In evaluation torch packs what is not masked, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x):
        x = x[:, None] * torch.ones(3, 1)
        return self.encoder(x, src_key_padding_mask=x[..., 0] > 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Branching(4, 4), r"the forward of Branching \(.*data-dependent"),
        (lambda: Noisy(4, 4), r"the forward of Noisy \(.*random"),
        (lambda: Slow(4, 4), "Slow: stacked, it gives other gradients than each model alone"),
        (Scaled, "Scaled: stacked, it gives other outputs than each model alone"),
        (lambda: Turned(4, 4), "Turned: stacked, it gives other gradients than each model alone"),
        (lambda: Replacing(4), "Replacing: stacked, it gives other buffers than each model alone"),
        (AtRest, "AtRest: stacked, it gives other outputs in evaluation than each model alone"),
        (lambda: BranchingAtRest(4, 4), r"the forward of BranchingAtRest \(.*data-dependent"),
        (lambda: Warming(4, 4), r"the forward of Warming \(.*random"),
        pytest.param(
            *(Masked, "the forward of Masked"),
            marks=pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
        ),
    ],
)
def test_a_forward_that_cannot_be_stacked_is_found_by_a_few_samples(make, reason):
    models = [make() for _ in range(3)]
    x = torch.randn(5, 4)
    stacked, before = stack(models), digest(*models)
    with pytest.raises(ValueError, match=f"train_runs cannot batch {reason}"):
        check_stack(stacked, models, x)
    assert digest(*models) == before


class Block(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


def spectral():
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU()), "the forward of RReLU"),
        (lambda: nn.Sequential(nn.Linear(4, 4), spectral()), "the forward of _SpectralNorm"),
        (
            lambda: Block(nn.Linear(4, 4), Block(nn.BatchNorm1d(4, momentum=None), nn.ReLU())),
            "the forward of BatchNorm1d",
        ),
        (
            lambda: nn.Sequential(nn.Sequential(Slow(4, 4)), nn.BatchNorm1d(4, momentum=None)),
            "Slow: stacked, it gives other gradients",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 4), Block(Noisy(4, 4))), "the forward of Noisy"),
    ],
)
def test_the_layer_is_named_wherever_it_is(make, reason):
    models = [make() for _ in range(3)]
    x = torch.randn(5, 4)
    stacked, before = stack(models), digest(*models)
    with pytest.raises(ValueError, match=f"cannot batch {reason}.*Pass vectorize=False"):
        check_stack(stacked, models, x)
    assert digest(*models) == before


class SpecialEmbedding(nn.Embedding):
    pass


class OwnEmbedding(nn.Embedding):
    """Looks up by itself; `options` as torch.nn.functional.embedding takes them."""

    def __init__(self, *options, **named):
        super().__init__(9, 3)
        self.options, self.named = options, named

    def forward(self, x):
        return F.embedding(x, self.weight, *self.options, **self.named)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: SpecialEmbedding(9, 3, padding_idx=0), "SpecialEmbedding .*with padding_idx"),
        (lambda: OwnEmbedding(padding_idx=0), "OwnEmbedding .*with padding_idx"),
        (lambda: OwnEmbedding(8), "OwnEmbedding .*with padding_idx"),
        (lambda: OwnEmbedding(scale_grad_by_freq=True), "OwnEmbedding .*with scale_grad_by_freq"),
    ],
)
def test_a_lookup_that_vmap_gets_wrong_is_refused_though_no_sample_shows_it(make, option):
    models = [nn.Sequential(make(), nn.Flatten(), nn.Linear(6, 2)) for _ in range(3)]
    with pytest.raises(ValueError, match=f"the forward of {option}"):
        check_stack(stack(models), models, torch.tensor([[1, 2], [3, 4]]))


@pytest.mark.parametrize("make", [lambda: SpecialEmbedding(9, 3), OwnEmbedding])
def test_other_lookups_are_batched(make):
    models = [nn.Sequential(make(), nn.Flatten(), nn.Linear(6, 2)) for _ in range(3)]
    check_stack(stack(models), models, torch.tensor([[0, 2], [3, 3]]))


@pytest.mark.parametrize("gain", [1.0, 1e30])
@pytest.mark.parametrize(
    "last", [nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4), nn.Softmax(1), nn.ReLU()], ids=str
)
def test_comparing_does_not_refuse_for_rounding_or_overflow(gain, last):
    models = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), last) for _ in range(3)]
    for parameter in models[0].parameters():
        nn.init.normal_(parameter, std=gain)
    models = [copy.deepcopy(model) for model in models]
    check_stack(stack(models), models, torch.randn(8, 4))


def test_comparing_weighs_the_outputs_so_that_a_last_norm_leaves_a_gradient():
    """The sum of squares after a norm is constant: its gradient would be rounding alone."""
    models = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=0, elementwise_affine=False))]
    models = [copy.deepcopy(models[0]) for _ in range(3)]
    check_stack(
        stack(models), models, torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    )


def test_comparing_is_blind_to_the_rounding_of_a_gradient_that_is_nothing():
    """A bias before a BatchNorm: the mean takes it away again."""
    models = [nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)) for _ in range(3)]
    check_stack(stack(models), models, torch.randn(8, 64))


def test_comparing_leaves_models_statistics_samples_and_random_state_alone():
    models = [
        nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(3)
    ]
    stacked = stack(models)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    before = digest(stacked, *models, x)
    check_stack(stacked, models, x)
    assert digest(stacked, *models, x) == before


def test_hooks_shared_weights_and_shared_statistics_are_refused():
    hooked = nn.Linear(1, 1)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="cannot batch a Linear with hooks"):
        stack([hooked])
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="cannot batch parameters that two layers share"):
        stack([tied])
    twice = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="cannot batch parameters that two layers share"):
        stack([nn.Sequential(twice, twice)])
    twice = nn.BatchNorm1d(2, affine=False)
    with pytest.raises(ValueError, match="cannot batch buffers that two layers share"):
        stack([nn.Sequential(twice, twice)])
