"""Which gradients there are: each parameter once, by name, from whatever holds them."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from nbkit.base.gradients import named_parameters, read_gradients
from nbkit.clipping import ClipReport


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def test_every_source_gives_the_same_parameters_in_the_same_order(model):
    sources = {
        "model": model,
        "generator": model.parameters(),
        "list": list(model.parameters()),
        "pairs": model.named_parameters(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "named optimizer": torch.optim.SGD(model.named_parameters(), lr=0.1),
    }
    for name, source in sources.items():
        found = list(named_parameters(source).values())
        assert [id(p) for p in found] == [id(p) for p in model.parameters()], name


def test_names():
    layer = nn.Linear(2, 1)
    plain = torch.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias]}], lr=0.1)
    named = torch.optim.SGD(layer.named_parameters(), lr=0.1)
    assert list(named_parameters(layer)) == ["weight", "bias"]
    assert list(named_parameters(layer.parameters())) == ["0", "1"]
    assert list(named_parameters(plain)) == ["group0.0", "group1.0"]
    assert list(named_parameters(named)) == ["weight", "bias"]
    assert list(named_parameters(layer.weight)) == ["0"]


def test_a_tied_parameter_counts_once(model):
    model[1].weight = model[0].bias = nn.Parameter(torch.ones(2))
    for source in (model, list(model.parameters()) * 2, [model[0].bias, model[1].weight]):
        found = [id(p) for p in named_parameters(source).values()]
        assert found.count(id(model[0].bias)) == 1


def test_an_exhausted_generator_is_refused(model):
    parameters = model.parameters()
    torch.optim.SGD(parameters, lr=0.1)
    with pytest.raises(ValueError, match=r"got no parameters. A generator can be read only once"):
        named_parameters(parameters)


def test_two_parameters_of_one_name_are_refused(model):
    both = itertools.chain(model[0].named_parameters(), model[1].named_parameters())
    with pytest.raises(ValueError, match="two different parameters are both called 'weight'"):
        named_parameters(both)


@pytest.mark.parametrize(
    "wrong", [["weight"], [1.0], [None], [("weight", 1.0)], [(1, torch.ones(1))]]
)
def test_what_holds_no_parameters_is_refused(wrong):
    with pytest.raises(TypeError, match="expected a model, an optimizer, parameters or"):
        named_parameters(wrong)


def test_a_parameter_without_gradient_does_not_count(model):
    model(torch.ones(1, 3)).sum().backward()
    model[0].weight.grad = None
    assert list(read_gradients(named_parameters(model))) == ["0.bias", "1.weight", "1.bias"]


def test_rows_of_a_sparse_gradient_that_repeat_are_summed():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    values = read_gradients(named_parameters(table))["weight"]
    assert values.tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert not table.weight.grad.is_coalesced(), "reading changes nothing"


def report(norms):
    total = torch.linalg.vector_norm(torch.tensor(norms)).item()
    names = tuple(f"layer{i}" for i in range(len(norms)))
    return ClipReport(torch.tensor([total, 0.5, *norms]), names, "max_norm=1")


def test_the_report_as_table_is_sorted_and_cut():
    lines = str(report([float(i) for i in range(12)])).splitlines()
    assert lines[0] == (
        "gradient norm 22.5, max_norm=1: clipped, by 0.5 at most; the 10 largest of 12 norms:"
    )
    assert lines[2].split() == ["layer11", "11"]
    assert len(lines) == 12


def test_the_report_as_strict_json():
    shown = report([3.0, math.inf, math.nan])
    assert shown.nonfinite == ("layer1", "layer2")
    assert "not finite: layer1, layer2" in str(shown)
    assert json.loads(json.dumps(shown.to_dict(), allow_nan=False)) == {
        "rule": "max_norm=1",
        "total_norm": None,
        "clipped": True,
        "coefficient": 0.5,
        "norms": {"layer0": 3.0, "layer1": None, "layer2": None},
        "nonfinite": ["layer1", "layer2"],
    }


def test_the_report_reads_the_device_once():
    class Counted(torch.Tensor):
        reads = 0

        def tolist(self):
            Counted.reads += 1
            return super().tolist()

    shown = ClipReport(torch.tensor([5.0, 1.0, 3.0, 4.0]).as_subclass(Counted), ("a", "b"), "")
    assert Counted.reads == 0
    assert (shown.total_norm, shown.clipped, shown.norms) == (5.0, False, {"a": 3.0, "b": 4.0})
    str(shown), shown.to_dict(), shown.nonfinite
    assert Counted.reads == 1
