"""underflow_report: shares of lost gradients, against rounding each number by numpy."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbkit.base.state import digest
from nbkit.diagnosis import underflow_report


def layer_of(values):
    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.grad = torch.tensor([values], dtype=torch.float32)
    return layer


@given(
    st.lists(
        st.floats(-1e6, 1e6, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1.0, 1024.0, 65536.0]),
)
@settings(max_examples=200, deadline=None)
def test_fp16_agrees_with_numpy(values, scale):
    layer = underflow_report(layer_of(values), scales=[scale]).layers[0]
    nonzero = np.array([value for value in np.float32(values) if value != 0], dtype=np.float32)
    with np.errstate(over="ignore"):
        rounded = np.abs((nonzero * np.float32(scale)).astype(np.float16))
    n = max(len(nonzero), 1)
    assert layer.nonzero == len(nonzero)
    assert layer.fp16.zero == [(rounded == 0).sum() / n]
    assert layer.fp16.subnormal == [((rounded > 0) & (rounded < 2.0**-14)).sum() / n]
    assert layer.fp16.overflow == [np.isinf(rounded).sum() / n]


def test_the_edges_of_the_types():
    report = underflow_report(
        layer_of([2.0**-25, 2.0**-24, 2.0**-14, 65504.0, 65520.0]), scales=[1]
    )
    assert report.layers[0].fp16.zero == [0.2]
    assert report.layers[0].fp16.subnormal == [0.2]
    assert report.layers[0].fp16.overflow == [0.2]
    report = underflow_report(layer_of([2.0**-126, 2.0**-127, 2.0**-140, 3.39e38]), scales=[1])
    assert report.layers[0].bf16.zero == [0.25]
    assert report.layers[0].bf16.subnormal == [0.25]
    assert report.layers[0].bf16.overflow == [0.0]


def test_a_scale_saves_what_is_small_and_loses_what_is_large():
    layer = underflow_report(layer_of([1e-9, 1e-7, 1e-3, 1.0]), scales=[1, 2**8, 2**20]).layers[0]
    assert layer.fp16.zero == [0.25, 0.0, 0.0]
    assert layer.fp16.subnormal == [0.25, 0.5, 0.0]  # 2.6e-7 and 2.6e-5
    assert layer.fp16.overflow == [0.0, 0.0, 0.25]
    assert layer.bf16.zero == [0.0] * 3


def test_float64_gradients_are_read_as_they_are():
    layer = layer_of([1.0, 1.0]).double()
    layer.weight.grad = torch.tensor([[1e-60, 1e-3]], dtype=torch.float64)
    found = underflow_report(layer, scales=[1, 2.0**190]).layers[0]
    assert (found.nonzero, found.fp16.zero, found.bf16.zero) == (2, [0.5, 0.0], [0.5, 0.0])
    assert found.fp16.overflow == [0.0, 0.5]


@pytest.mark.parametrize("conjugate", [False, True])
def test_both_parts_of_a_complex_gradient_count(conjugate):
    model = nn.ParameterDict({"w": torch.ones(2, dtype=torch.complex64)})
    model["w"].grad = torch.tensor([1e-9 + 1e-3j, 1e-9j])
    if conjugate:
        model["w"].grad = model["w"].grad.conj()
    found = underflow_report(model, scales=[1]).layers[0]
    assert (found.nonzero, found.fp16.zero) == (3, [pytest.approx(2 / 3)])


def test_layers_are_modules_and_zeros_do_not_count():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)), nn.Linear(1, 1))
    for parameter in [*model[0].parameters(), model[1][0].bias]:
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[0, 0] = 1e-9
    model[0].bias.grad += 1.0
    model[1][0].bias.grad += math.nan
    first, second = underflow_report(model).layers
    assert (first.name, first.nonzero, first.fp16.zero[0]) == ("0", 3, pytest.approx(1 / 3))
    assert (second.name, second.nonzero, second.fp16.zero[0]) == ("1.0", 0, 0.0)


def test_a_parameter_of_the_model_itself():
    model = nn.ParameterDict({"w": torch.ones(2)})
    model["w"].grad = torch.ones(2)
    assert [layer.name for layer in underflow_report(model).layers] == ["w"]


def test_refusals():
    with pytest.raises(ValueError, match="no parameter has a gradient: call backward first."):
        underflow_report(nn.Linear(2, 1))
    for wrong in ([], [0.0], [1.0, -1.0], [math.nan]):
        with pytest.raises(ValueError, match="scales must be one or more numbers > 0, got"):
            underflow_report(layer_of([1.0]), scales=wrong)


def test_nothing_is_changed():
    layer = layer_of([1e-9, 1.0])
    before = digest(layer)
    underflow_report(layer)
    assert digest(layer) == before
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    before = digest(table)
    assert underflow_report(table).layers[0].nonzero == 3, "the two rows are summed"
    assert digest(table) == before


def test_it_shows():
    report = underflow_report(layer_of([1e-9, 1.0]), scales=[1, 2**17])
    head, row = str(report).splitlines()[1:]
    assert head == "layer   nonzero  fp16 x 2^0  fp16 x 2^17  bf16 x 2^0"
    assert row.split() == ["weight", "2", "50.0%", "inf", "0.0%"]
    shown = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert shown["layers"][0]["fp16"]["zero"] == [0.5, 0.0]


def test_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = underflow_report(layer_of([1e-9, 1.0]), scales=[1, 2**8]).plot(pyplot.subplots()[1])
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 256] and list(line.get_ydata()) == [0.5, 0.0]
    assert ax.get_xscale() == "log" and line.get_label() == "weight"
    pyplot.close(ax.figure)


@pytest.mark.gpu
def test_cuda_agrees_with_cpu():
    torch.manual_seed(0)
    layer = layer_of((torch.randn(1000) * 10 ** torch.empty(1000).uniform_(-12, 6)).tolist())
    assert underflow_report(layer).to_dict() == underflow_report(layer.cuda()).to_dict()
