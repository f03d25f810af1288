"""check_accumulation and its report: the error, and the cause that is named."""

from collections import UserDict

import pytest
import torch
from micro_batches import IGNORED, by_label, data, net
from torch import nn

from nbkit import EquivalenceCause as Cause
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
    assert report.equivalent and report.cause is Cause.NONE and report.causes == {}
    assert report.error < report.tolerance == torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize(
    ("layer", "causes"),
    [
        (nn.BatchNorm1d(4), {Cause.BATCHNORM: "BatchNorm (1) "}),
        (nn.BatchNorm1d(4, track_running_stats=False), {Cause.BATCHNORM: "BatchNorm (1) "}),
        (nn.Dropout(0.5), {Cause.DROPOUT: "Dropout (1) "}),
        (
            nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)),
            {Cause.BATCHNORM: "BatchNorm (1.0) ", Cause.DROPOUT: "Dropout (1.1) "},
        ),
        (nn.LayerNorm(4), {}),
        (nn.BatchNorm1d(4).eval(), {}),
        (nn.Dropout(0.0), {}),
    ],
)
def test_the_guilty_layer_is_named(layer, causes):
    model = with_layer(layer)
    report = check_accumulation(model, nn.CrossEntropyLoss(), data(12), 3)
    assert report.equivalent == (not causes)
    assert list(report.causes) == list(causes)
    assert all(report.causes[cause].startswith(start) for cause, start in causes.items())


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
    assert Cause.BATCHNORM in report.causes and Cause.DROPOUT not in report.causes


def test_a_net_too_small_to_tell_is_not_blamed_on_its_weights():
    """Two gradients of two numbers: some weights always fit four of them."""
    model = nn.Linear(1, 1).double()
    batch = (torch.arange(8.0).double()[:, None], torch.ones(8, 1).double())
    report = check_accumulation(model, lambda a, b: (a - b).pow(2).mean().sqrt(), batch, 4)
    assert report.cause is Cause.COUPLED_SAMPLES


class DrawsNoise(nn.Module):
    def forward(self, x):
        return x * nn.functional.dropout(torch.ones_like(x), 0.5)


class Couples(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize(
    ("layer", "loss_fn", "causes"),
    [
        (nn.Tanh(), nn.CrossEntropyLoss(reduction="sum"), [Cause.SUM_REDUCTION]),
        (nn.Tanh(), masked_mean, [Cause.MEAN_OF_MEANS]),
        (DrawsNoise(), nn.CrossEntropyLoss(), [Cause.RANDOM_NUMBERS]),
        (Couples(), nn.CrossEntropyLoss(), [Cause.COUPLED_SAMPLES]),
        (nn.BatchNorm1d(4), masked_mean, [Cause.BATCHNORM, Cause.MEAN_OF_MEANS]),
        (Couples(), lambda a, b: a.sum() * float("nan"), [Cause.NOT_FINITE]),
    ],
)
def test_other_causes_are_told_apart(layer, loss_fn, causes):
    x, y = data(40)
    if loss_fn is masked_mean:
        y[:9] = IGNORED
    report = check_accumulation(with_layer(layer), loss_fn, (x, y), 4)
    assert not report.equivalent
    assert list(report.causes) == causes


@pytest.mark.parametrize(
    "function_of_a_mean",
    [torch.sqrt, torch.log, torch.exp, torch.square],
    ids=["root", "logarithm", "perplexity", "square"],
)
def test_a_function_of_a_mean_is_no_mean_that_a_weight_would_cure(function_of_a_mean):
    """Its gradient is a weighted sum of the parts', but no count of terms gives these weights."""

    def loss_fn(output, target):
        return function_of_a_mean(nn.functional.mse_loss(output, target))

    torch.manual_seed(0)
    batch = torch.randn(24, 5).double(), torch.randn(24, 3).double()
    report = check_accumulation(net(), loss_fn, batch, 4)
    assert not report.equivalent
    assert list(report.causes) == [Cause.COUPLED_SAMPLES] and "weight=" not in report.advice


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_of_means_is_still_named(dtype):
    x, y = data(40, dtype)
    y[:9] = IGNORED
    report = check_accumulation(net(dtype), masked_mean, (x, y), 4)
    assert report.cause is Cause.MEAN_OF_MEANS and "Pass weight=" in report.advice


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)])
def test_a_part_of_one_row_is_batchnorms_fault(layer):
    model = with_layer(layer)
    before = digest(model)
    report = check_accumulation(model, nn.CrossEntropyLoss(), data(4), 4)
    assert not report.equivalent and report.error == float("inf")
    assert list(report.causes) == [Cause.BATCHNORM]
    assert report.advice.startswith("BatchNorm (1) gets one value a channel from a part")
    assert digest(model) == before
    frozen = with_layer(nn.BatchNorm1d(4).eval())
    assert check_accumulation(frozen, nn.CrossEntropyLoss(), data(4), 4).equivalent


def test_a_part_of_one_row_hides_no_other_cause():
    loss_fn = nn.CrossEntropyLoss(reduction="sum")
    report = check_accumulation(with_layer(nn.BatchNorm1d(4)), loss_fn, data(8), 7)
    assert list(report.causes) == [Cause.BATCHNORM, Cause.SUM_REDUCTION]
    assert report.advice.startswith("BatchNorm (1) gets one value")


class Language(nn.Module):
    """Takes keywords, as models of Hugging Face do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, input_ids, labels):
        scores = self.out(self.embed(input_ids)).flatten(0, 1)
        return {"loss": nn.functional.cross_entropy(scores, labels.flatten())}


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_dict_is_passed_as_keywords(kind):
    ids = torch.arange(20).view(4, 5) % 9
    batch = kind(input_ids=ids, labels=ids.roll(1, 1))
    report = check_accumulation(Language(), lambda output, given: output["loss"], batch, 2)
    assert report.equivalent
    pair = (batch, None)
    assert check_accumulation(Language(), lambda output, _: output["loss"], pair, 2).equivalent


class TakesADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3).double()

    def forward(self, inputs):
        return self.layer(inputs["x"])


def test_a_model_that_takes_the_dict_itself_gets_it():
    x, y = data(8)
    assert check_accumulation(TakesADict(), nn.CrossEntropyLoss(), ({"x": x}, y), 2).equivalent


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (data(8)[0], r"must be a pair \(x, y\), or a dict .* got a Tensor"),
        ((*data(8), torch.ones(8)), "got a tuple of 3. Put more inputs into x"),
        ("text", "got a str"),
        ({"input_ids": data(8)[1]}, "must be arguments .* input_ids: missing .* 'labels'"),
        ({"input_ids": data(8)[1], "labels": data(8)[1], "mask": data(8)[1]}, "argument 'mask'"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_refused(batch, message):
    model = Language()
    before = digest(model)
    with pytest.raises(TypeError, match=message):
        check_accumulation(model, lambda output, _: output["loss"], batch, 2)
    assert digest(model) == before


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
    assert list(report.causes) == ([] if report.equivalent else [Cause.BATCHNORM])
    assert report.equivalent or report.advice.startswith("BatchNorm (2) ")


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
    assert str(report).startswith("NOT equivalent: batchnorm (error ")
    assert "). BatchNorm (1) normalises each part of the batch" in str(report)
    told = report.to_dict()
    assert told["equivalent"] is False and told["cause"] == "batchnorm"
    assert told["advice"] == report.advice == told["causes"]["batchnorm"]
    assert set(report.parameters) == {
        name for name, _ in with_layer(nn.BatchNorm1d(4)).named_parameters()
    }
    assert max(report.parameters.values()) == report.error


@pytest.mark.gpu
def test_on_cuda():
    model, batch = with_layer(nn.BatchNorm1d(4)).cuda(), tuple(t.cuda() for t in data(12))
    assert check_accumulation(model, nn.CrossEntropyLoss(), batch, 3).cause is Cause.BATCHNORM
    assert check_accumulation(model.eval(), nn.CrossEntropyLoss(), batch, 3).equivalent
