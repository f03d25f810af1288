"""The stacked runs clip as `clip_gradients_` does: each run by its own threshold, or not at all."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import clip_gradients_
from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lab.runs import stacked_clipping
from nbkit.lab.runs.arms import make_rule, read_arms
from nbkit.lab.runs.assembly import make_update
from nbkit.lab.runs.layouts import Layout, find_layouts
from nbkit.lab.runs.options.clip import choose_mode
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.stacked_clipping import StackedClip
from nbkit.lab.runs.stacking import stack

MODES = ("max_norm", "max_value", "agc")
LIMITS = (1e-3, 0.05, 0.4, math.inf)  # of four runs; the last one does not clip


def layers():
    """Square layers, where a row and a column look alike, and one of every way to be stacked."""
    pool = nn.AvgPool2d(1)  # used twice
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), pool, nn.Conv2d(1, 4, 3), pool, nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(384, 5)),
        *(nn.Linear(5, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 10)),
    )


class Scaled(nn.Module):
    """A forward of one's own, with a parameter that is a single number and a frozen one."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(64), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.scale * self.layer(x * self.frozen)


def with_one_more():
    """A block that owns a parameter which its stack has no use for."""
    model = mlp(2, 16)
    model.register_parameter("unused", nn.Parameter(torch.ones(3), requires_grad=False))
    return model


NETS = {"one more": with_one_more, "layers": layers, "scaled": Scaled, "mlp": lambda: mlp(2, 16)}


def models_with_gradients(make, scale=1.0, dtype=torch.float32):
    """A model for each limit, each with the gradient of its own batch, times `scale`."""
    data = digits()
    models = []
    for seed in range(len(LIMITS)):
        torch.manual_seed(seed)
        models.append(make().to(dtype))
        rows = slice(32 * seed, 32 * seed + 32)
        loss = cross_entropy(models[-1](data.x_train[rows].to(dtype)), data.y_train[rows])
        loss.backward()
        for parameter in models[-1].parameters():
            if parameter.grad is not None:
                parameter.grad *= scale
    return models


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def clip_stacked(models, rules):
    """The clipped gradients of the models as the stack clips them, a list for each model."""
    stacked = stack(models)
    layouts = find_layouts(stacked, models[0])
    weights = [p.detach().view(len(models), -1) for p in stacked.parameters() if p.requires_grad]
    trained = [[p for p in model.parameters() if p.requires_grad] for model in models]
    gradients = {}
    for index, layout in enumerate(layouts):
        own = torch.stack([parameters[index].grad for parameters in trained])
        gradients[index] = layout.fold_runs(own)
        assert_same(layout.unfold_runs(gradients[index]), own)
        in_stack = torch.stack([parameters[index].detach() for parameters in trained])
        assert_same(layout.unfold_runs(weights[index]), in_stack)
    clipped = StackedClip(rules, weights, layouts)(gradients)
    return [
        [layouts[i].unfold_runs(gradient)[run] for i, gradient in clipped.items()]
        for run in range(len(models))
    ]


def clip_one_by_one(models, rules):
    """The same by `clip_gradients_`, model by model."""
    for model, rule in zip(models, rules, strict=True):
        if choose_mode(rule):
            clip_gradients_(model, nonfinite="ignore", **choose_mode(rule))
    return [[p.grad for p in model.parameters() if p.requires_grad] for model in models]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("net", NETS)
def test_a_stack_clips_each_run_as_clip_gradients_does(net, mode, dtype):
    rules = [make_rule(lr=0.1, **{mode: limit}) for limit in LIMITS]
    models = models_with_gradients(NETS[net], dtype=dtype)
    before = [[p.grad.clone() for p in m.parameters() if p.requires_grad] for m in models]
    found, expected = clip_stacked(models, rules), clip_one_by_one(models, rules)
    exact = 1e-6 if dtype == torch.float32 else 1e-14
    for run, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for gradient, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, other, rtol=exact, atol=0)
        changed = any(not torch.equal(a, b) for a, b in zip(ours, before[run], strict=True))
        if run in (0, 3):
            assert changed == (run == 0), "the first run is clipped, the last one is not"


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_whose_norm_is_beyond_float32_is_clipped_to_its_threshold(mode):
    rules = [make_rule(lr=0.1, **{mode: limit}) for limit in LIMITS]
    models = models_with_gradients(NETS["mlp"], scale=1e30)
    found, expected = clip_stacked(models, rules), clip_one_by_one(models, rules)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert all(gradient.isfinite().all() for gradient in ours)
        assert any(gradient.any() for gradient in ours)
        for gradient, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-37)
    assert found[3][0].abs().max() > 1e25


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_run_that_has_diverged_is_as_in_its_own_model_and_leaves_the_others_alone(mode, bad):
    rules = [make_rule(lr=0.1, **{mode: limit}) for limit in LIMITS]
    alone = clip_stacked(models_with_gradients(NETS["mlp"]), rules)
    models = models_with_gradients(NETS["mlp"])
    models[1][0].weight.grad[2, 3] = bad
    found, expected = clip_stacked(models, rules), clip_one_by_one(models, rules)
    for run, ours in enumerate(found):
        theirs = expected[run] if run == 1 else alone[run]
        for gradient, other in zip(ours, theirs, strict=True):
            exact = 1e-6 if run == 1 else 0
            torch.testing.assert_close(gradient, other, rtol=exact, atol=0, equal_nan=True)


def test_runs_of_all_three_modes_stand_in_one_program():
    rules = [make_rule(lr=0.1, **{mode: 0.01}) for mode in MODES] + [make_rule(lr=0.1)]
    models = models_with_gradients(layers)
    found, expected = clip_stacked(models, rules), clip_one_by_one(models, rules)
    for ours, theirs in zip(found, expected, strict=True):
        for gradient, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-6, atol=0)


def test_half_precision_keeps_a_factor_that_it_cannot_hold():
    weights = [torch.ones(2, 2, dtype=torch.float16)]
    rules = [make_rule(lr=1.0, max_norm=1e-3), make_rule(lr=1.0)]
    clip = StackedClip(rules, weights, [Layout(torch.Size([2]))])
    given = torch.full((2, 2), 30000.0, dtype=torch.float16)
    (gradient,) = clip({0: given}).values()
    expected = torch.tensor([1e-3 / math.sqrt(2)] * 2, dtype=torch.float16)
    assert gradient.dtype == torch.float16 and torch.equal(gradient[1], given[1])
    torch.testing.assert_close(gradient[0], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("make", [layers, Scaled], ids=["layers", "scaled"])
def test_a_training_that_clips_is_the_same_stacked_and_one_by_one(make):
    data = digits()
    data = Data(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)
    arms = {mode: {"lr": 0.5, mode: [0.02, math.inf]} for mode in MODES}
    arms["adam"] = {"lr": 0.01, "optimizer": "adam", "agc": 0.01}
    losses = []
    for vectorize in (True, False):
        options = {"steps": 12, "batch_size": 16, "vectorize": vectorize}
        *_, runs = train_runs(lambda: make().double(), data, arms, [0, 1], **options)
        losses.append(runs.losses)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
    assert len({round(float(loss), 6) for loss in losses[0][:3, 0, -1]}) == 3, "the modes differ"


def test_both_ways_to_clip_call_the_one_rule(monkeypatch):
    """A formula of the stack's own would not see this change of the rule."""
    weights = torch.zeros(1, 2)
    update = make_update([make_rule(lr=1.0, max_norm=1.0)], [weights], steps=1)
    monkeypatch.setattr(
        stacked_clipping, "compute_norm_factor", lambda total, limit: total * 0 + 0.5
    )
    update(0, [torch.tensor([[3.0, 4.0]])])
    assert weights.tolist() == [[-1.5, -2.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_value": 0.0}, "max_value must be above 0, got 0.0"),
        ({"agc": math.nan}, "agc must be above 0, got nan"),
        ({"agc": [0.1, "much"]}, "agc must be a number, got 'much'"),
        ({"max_norm": 1.0, "agc": 0.1}, "only one of max_norm, max_value, agc may be finite, got"),
    ],
)
def test_thresholds_that_cannot_be_read_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read_arms({"arm": {"lr": 0.1, **options}}, 2, 3)
