"""find_nonfinite: the first module whose output is not finite, in forward and in backward."""

import json
import math

import pytest
import torch
from torch import nn

from nbkit.amp import Amp
from nbkit.base.state import digest
from nbkit.diagnosis import find_nonfinite


class Do(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def chain(*functions):
    layers = [nn.Linear(3, 3), *map(Do, functions), nn.Linear(3, 3)]
    torch.manual_seed(0)
    for layer in (layers[0], layers[-1]):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


X = torch.tensor([[1.0, 2.0, 0.0]])


def test_a_finite_model():
    assert find_nonfinite(chain(torch.tanh), (X, X), nn.MSELoss()) is None
    assert find_nonfinite(chain(torch.tanh), X) is None


# Forward


def test_the_first_module_in_forward_and_its_inputs():
    found = find_nonfinite(chain(torch.sin, lambda x: 1 / x, torch.log), X)
    assert (found.phase, found.module) == ("forward", "2 (Do)")
    (given,), (output,) = found.inputs, found.outputs
    assert (given.name, given.shape, given.dtype, given.nonfinite) == (
        "input",
        (1, 3),
        "float32",
        0,
    )
    assert given.largest == pytest.approx(math.sin(2), rel=1e-5)
    assert (output.name, output.nonfinite) == ("output", 1)
    assert output.largest == pytest.approx(1 / math.sin(1), rel=1e-5)


def test_the_innermost_module_is_named():
    model = nn.Sequential(nn.Identity(), nn.Sequential(chain(lambda x: x / 0)))
    assert find_nonfinite(model, X).module == "1.0.1 (Do)"


def test_arithmetic_of_the_parents_own():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = nn.Linear(3, 3)

        def forward(self, x):
            return self.child(x) * 1e30 * 1e30

    assert find_nonfinite(nn.Sequential(Parent()), X).module == "0 (Parent)"
    assert find_nonfinite(Parent(), X).module == "the model (Parent)"


def test_the_modules_own_parameters_are_shown():
    model = chain(torch.sin)
    model[2].weight.data.fill_(3e38)
    found = find_nonfinite(model, torch.full((1, 3), math.pi / 2))
    assert found.module == "2 (Linear)"
    assert [each.name for each in found.inputs] == ["input", "weight", "bias"]
    assert found.inputs[1].largest == pytest.approx(3e38)


def test_inputs_are_those_before_a_module_works_in_place():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.div_(0)

    found = find_nonfinite(nn.Sequential(nn.Identity(), InPlace()), X.clone())
    assert found.module == "1 (InPlace)"
    assert (found.inputs[0].nonfinite, found.inputs[0].largest) == (0, 2.0)


def test_a_module_in_a_compiled_part_is_named():
    part = torch.compile(chain(lambda x: x / 0), backend="eager")
    model = nn.Sequential(part)
    model(X)
    assert find_nonfinite(model, X).module == "0._orig_mod.1 (Do)"


def test_outputs_in_dicts_and_tuples():
    model = Do(lambda x: {"a": [x, x / 0], "b": (x.long(), x > 0)})
    found = find_nonfinite(model, X)
    assert [(each.name, each.nonfinite) for each in found.outputs] == [
        ("output['a'][0]", 0),
        ("output['a'][1]", 3),
        ("output['b'][0]", 0),
        ("output['b'][1]", 0),
    ]


def test_overflow_in_fp16():
    model = chain(lambda x: x, torch.relu)
    model[0].weight.data *= 1e5
    assert find_nonfinite(model, X) is None
    with Amp("fp16", "cpu").autocast():
        found = find_nonfinite(model, X)
    assert (found.phase, found.module, found.outputs[0].dtype) == (
        "forward",
        "0 (Linear)",
        "float16",
    )


# Given, loss


@pytest.mark.parametrize("where", ["parameter 0.weight", "buffer 1.running_var", "input", "target"])
def test_what_was_there_before(where):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    spoiled = {
        "parameter 0.weight": model[0].weight.data,
        "buffer 1.running_var": model[1].running_var,
        "input": x,
        "target": y,
    }[where]
    spoiled.view(-1)[0] = math.nan
    found = find_nonfinite(model, (x, y), nn.MSELoss())
    assert found.phase == "given" and found.module.startswith(where)
    assert found.outputs[0].nonfinite == 1


def test_in_the_loss():
    found = find_nonfinite(chain(), (X, X), lambda output, target: (output.sum() - 3).log())
    assert (found.phase, found.module) == ("loss", "the loss function")
    assert found.inputs[0].largest == 2.0 and found.outputs[0].nonfinite == 1


# Backward


def test_the_first_module_in_backward():
    x = torch.tensor([[1.0, 0.0, 4.0]])
    model = chain(torch.relu, torch.sqrt, torch.tanh)
    found = find_nonfinite(model, x)
    assert (found.phase, found.module, found.op) == ("backward", "2 (Do)", "SqrtBackward0")
    assert [each.nonfinite for each in found.inputs] == [0]
    assert [each.nonfinite for each in found.outputs] == [1]


def test_backward_in_the_loss_function():
    found = find_nonfinite(chain(), (X, X), lambda output, target: output.sqrt().sum())
    assert (found.phase, found.module, found.op) == (
        "backward",
        "the loss function",
        "SqrtBackward0",
    )


def test_backward_in_a_parents_own_arithmetic():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = chain(), chain()

        def forward(self, x):
            return self.second(self.first(x).sqrt())

    found = find_nonfinite(nn.Sequential(nn.Identity(), Parent()), X)
    assert (found.module, found.op) == ("1 (Parent)", "SqrtBackward0")


def test_backward_through_modules_that_work_in_place():
    model = nn.Sequential(chain(), nn.ReLU(True), Do(lambda x: x**0.5), Do(lambda x: x.mul_(2)))
    found = find_nonfinite(model, X)
    assert (found.module, found.op) == ("2 (Do)", "PowBackward0")


def test_a_loss_scale_that_is_too_large():
    model = chain(torch.tanh)
    model[2].weight.data *= 10  # 65536 / 3 fits into fp16, ten times that does not
    with Amp("fp16", "cpu").autocast():
        assert find_nonfinite(model, X, lambda output: output.float().mean()) is None
        found = find_nonfinite(model, X, lambda output: output.float().mean(), loss_scale=65536.0)
    assert (found.phase, found.module) == ("backward", "2 (Linear)")


@pytest.mark.parametrize("sparse", [True, False])
def test_backward_into_an_embedding(sparse):
    """Its gradient may be sparse; the rows of the first token come twice, and sum to infinity."""
    model = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), Do(torch.tanh))
    nn.init.zeros_(model[0].weight)
    tokens = torch.tensor([1, 1, 4])
    assert find_nonfinite(model, tokens) is None
    found = find_nonfinite(model, tokens, lambda output: (output * 3e38).sum())
    assert (found.phase, found.module, found.op) == (
        "backward",
        "0 (Embedding)",
        "EmbeddingBackward0",
    )
    (given,), (output,) = found.inputs, found.outputs
    assert (given.shape, given.nonfinite) == ((3, 3), 0)
    assert (output.shape, output.dtype, output.nonfinite) == ((5, 3), "float32", 3)


def test_an_output_that_needs_no_gradient():
    assert find_nonfinite(Do(lambda x: x.argmax(dim=1)), X) is None


# Nothing is changed; it shows


@pytest.mark.parametrize("bad", [None, torch.log, lambda x: (x - x).sqrt(), lambda x: x.foo])
def test_nothing_is_changed(bad):
    functions = [] if bad is None else [bad]
    model = nn.Sequential(chain(*functions), nn.BatchNorm1d(3), nn.Dropout(0.5))
    x = torch.randn(4, 3, requires_grad=True)
    nn.functional.mse_loss(model[0][0](x), x).backward()
    before = digest(model, x)
    try:
        found = find_nonfinite(model, (x, torch.zeros(4, 3)), nn.MSELoss())
    except AttributeError as error:
        assert "foo" in str(error)
    else:
        assert (found is None) == (bad is None)
    assert digest(model, x) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_shows():
    found = find_nonfinite(chain(lambda x: (x - x).sqrt()), X)
    lines = [line.split() for line in str(found).splitlines()]
    assert str(found).startswith(
        "backward: first not finite in 1 (Do), gradient of SqrtBackward0\n"
    )
    assert lines[1] == ["tensor", "shape", "dtype", "largest", "finite", "not", "finite"]
    assert lines[2][:2] == ["in", "gradient"] and lines[3][-1] == "3"
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.gpu
def test_cuda():
    model = chain(torch.relu, torch.sqrt, torch.tanh).cuda()
    found = find_nonfinite(model, torch.tensor([[1.0, 0.0, 4.0]]))
    assert (found.phase, found.module, found.op) == ("backward", "2 (Do)", "SqrtBackward0")
    before = digest(model)
    assert find_nonfinite(chain(torch.log).cuda(), X).module == "1 (Do)"
    assert digest(model) == before
