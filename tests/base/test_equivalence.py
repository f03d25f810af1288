"""check_accumulation and its report: the error, and the cause that is named."""

import pytest
import torch
from micro_batches import IGNORED, by_label, data, net
from torch import nn

from nbkit.accumulation import check_accumulation
from nbkit.base.state import digest


def masked_mean(output, target):
    return nn.functional.cross_entropy(output, target, ignore_index=IGNORED)


def with_layer(layer, dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 3)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_plain_net_is_equivalent(dtype, steps):
    report = check_accumulation(net(dtype), nn.CrossEntropyLoss(), data(10, dtype), steps)
    assert report.equivalent and report.cause is None
    assert report.error < report.tolerance == torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize(
    ("layer", "causes"),
    [
        (nn.BatchNorm1d(4), ["BatchNorm (1)"]),
        (nn.BatchNorm1d(4, track_running_stats=False), ["BatchNorm (1)"]),
        (nn.Dropout(0.5), ["dropout (1)"]),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), ["BatchNorm (1.0)", "dropout (1.1)"]),
        (nn.LayerNorm(4), []),
        (nn.BatchNorm1d(4).eval(), []),
        (nn.Dropout(0.0), []),
    ],
)
def test_the_guilty_layer_is_named(layer, causes):
    model = with_layer(layer)
    report = check_accumulation(model, nn.CrossEntropyLoss(), data(12), 3)
    assert report.equivalent == (not causes)
    assert [c.split(":")[0] for c in (report.cause or "").split("; ") if "(1" in c] == causes
    assert "none of the known causes" not in (report.cause or "")


class HasDropoutElsewhere(nn.Identity):
    def __init__(self):
        super().__init__()
        self.unused = nn.Dropout(0.5)


@pytest.mark.parametrize(
    ("innocent", "ignore_index"),
    [(nn.Dropout(0.0), IGNORED), (nn.Dropout(0.0), 0), (HasDropoutElsewhere(), IGNORED)],
)
def test_an_innocent_layer_is_not_named(innocent, ignore_index):
    model = with_layer(nn.Sequential(nn.BatchNorm1d(4), innocent))
    loss_fn = nn.CrossEntropyLoss(ignore_index=ignore_index)
    report = check_accumulation(model, loss_fn, data(12), 3)
    assert "BatchNorm" in report.cause and "dropout" not in report.cause


def test_a_net_too_small_to_tell_is_not_blamed_on_its_weights():
    """Two gradients of two numbers: some weights always fit four of them."""
    model = nn.Linear(1, 1).double()
    batch = (torch.arange(8.0).double()[:, None], torch.ones(8, 1).double())
    report = check_accumulation(model, lambda a, b: (a - b).pow(2).mean().sqrt(), batch, 4)
    assert report.cause.startswith("none of the known causes")


class DrawsNoise(nn.Module):
    def forward(self, x):
        return x * nn.functional.dropout(torch.ones_like(x), 0.5)


class Couples(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize(
    ("layer", "loss_fn", "cause"),
    [
        (nn.Tanh(), nn.CrossEntropyLoss(reduction="sum"), "sum reduction"),
        (nn.Tanh(), masked_mean, "mean of means"),
        (DrawsNoise(), nn.CrossEntropyLoss(), "dropout: the forward draws random numbers"),
        (Couples(), nn.CrossEntropyLoss(), "none of the known causes"),
        (nn.BatchNorm1d(4), masked_mean, "BatchNorm (1).*mean of means"),
        (Couples(), lambda a, b: a.sum() * float("nan"), "not finite"),
    ],
)
def test_other_causes_are_told_apart(layer, loss_fn, cause):
    x, y = data(40)
    if loss_fn is masked_mean:
        y[:9] = IGNORED
    report = check_accumulation(with_layer(layer), loss_fn, (x, y), 4)
    assert not report.equivalent
    assert all(part in report.cause for part in cause.split(".*"))


def test_the_right_weight_cures_a_mean_of_means():
    x, y = data(40)
    y[:9] = IGNORED
    assert check_accumulation(net(), masked_mean, (x, y), 4, weight=by_label).equivalent


def test_gradients_that_cancel_are_not_blamed_on_anything():
    """At a minimum the micro-batches' gradients cancel: rounding is large beside what is left."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(8, 4)
    target = torch.linalg.lstsq(torch.cat([x, torch.ones(8, 1)], 1), torch.randn(8, 1))
    with torch.no_grad():
        model.weight.copy_(target.solution[:4].T)
        model.bias.copy_(target.solution[4])
    y = x @ target.solution[:4] + target.solution[4]
    noise = torch.randn(8, 1)
    noise -= (
        torch.cat([x, torch.ones(8, 1)], 1)
        @ torch.linalg.lstsq(torch.cat([x, torch.ones(8, 1)], 1), noise).solution
    )
    report = check_accumulation(model, nn.MSELoss(), (x, y + noise), 4)
    assert report.equivalent


@pytest.mark.parametrize("fails", [False, True])
def test_checking_changes_nothing(fails):
    model = with_layer(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = digest(model)

    def loss_fn(output, target):
        if fails and len(output) == 4:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target)

    try:
        check_accumulation(model, loss_fn, data(12), 3)
    except KeyboardInterrupt:
        assert fails
    assert digest(model) == before


@pytest.mark.parametrize("layer", [nn.Identity(), nn.BatchNorm1d(4)])
def test_a_model_that_works_in_place_changes_neither_batch_nor_verdict(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ELU(inplace=True), nn.Linear(5, 4), layer, nn.Linear(4, 3)).double()
    x, y = data(12)
    kept = x.clone()
    report = check_accumulation(model, nn.CrossEntropyLoss(), (x, y), 4)
    assert torch.equal(x, kept)
    assert report.equivalent == isinstance(layer, nn.Identity)
    assert (report.cause or "BatchNorm (2)").split(":")[0] == "BatchNorm (2)"
    assert "dropout" not in (report.cause or "")


def test_inputs_that_require_a_gradient_get_none():
    x, y = data(12)
    x.requires_grad_()
    assert check_accumulation(net(), nn.CrossEntropyLoss(), (x, y), 4).equivalent
    assert x.grad is None and x.requires_grad


@pytest.mark.parametrize("steps", [0, 9, 1.5])
def test_checking_refuses_more_parts_than_rows(steps):
    with pytest.raises(ValueError, match=f"from 1 to the batch's number of rows, 8, got {steps}"):
        check_accumulation(net(), nn.CrossEntropyLoss(), data(8), steps)


def test_the_report_prints_and_turns_into_json():
    report = check_accumulation(with_layer(nn.BatchNorm1d(4)), nn.CrossEntropyLoss(), data(12), 3)
    assert str(report).startswith("NOT equivalent: BatchNorm (1): each part of the batch")
    assert report.to_dict()["equivalent"] is False
    assert set(report.parameters) == {
        name for name, _ in with_layer(nn.BatchNorm1d(4)).named_parameters()
    }
    assert max(report.parameters.values()) == report.error


@pytest.mark.gpu
def test_on_cuda():
    model, batch = with_layer(nn.BatchNorm1d(4)).cuda(), tuple(t.cuda() for t in data(12))
    assert "BatchNorm" in check_accumulation(model, nn.CrossEntropyLoss(), batch, 3).cause
    assert check_accumulation(model.eval(), nn.CrossEntropyLoss(), batch, 3).equivalent
