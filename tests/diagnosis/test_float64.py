"""find_float64: operation, line and shape of all that makes float64, and of nothing else."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from nbkit.amp import Amp
from nbkit.base.state import digest
from nbkit.diagnosis import Float64Use, find_float64, float64


class Scaled(nn.Module):
    """A model with a line of its own."""

    def __init__(self, by):
        super().__init__()
        self.inner, self.by = nn.Linear(3, 3), by

    def forward(self, x):
        return self.by(self.inner(x))  # the line


def uses(by, x=None, target=None, loss_fn=None):
    x = torch.randn(4, 3) if x is None else x
    batch = x if target is None else (x, target)
    return find_float64(Scaled(by), batch, loss_fn)


def ops(found):
    return [(use.phase, use.op, use.shape) for use in found]


# What creates it


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (lambda x: x.double(), ("aten._to_copy", (4, 3))),
        (lambda x: x.mean(dtype=torch.float64), ("aten.mean", ())),
        (lambda x: x * torch.from_numpy(np.ones(3)), ("aten.mul", (4, 3))),
        (lambda x: torch.cat([x, torch.from_numpy(np.ones((1, 3)))]), ("aten.cat", (5, 3))),
        (
            lambda x: x + torch.arange(3) * torch.tensor(2.0, dtype=torch.float64),
            ("aten.mul", (3,)),
        ),
        (lambda x: x.sum() * torch.tensor(2.0, dtype=torch.float64), ("aten.mul", ())),
        (lambda x: x.to(torch.complex128), ("aten._to_copy", (4, 3))),
    ],
)
def test_an_operation_that_creates_it(by, expected):
    found = [(use.op, use.shape) for use in uses(by) if use.phase == "forward"]
    assert found[0] == expected


@pytest.mark.parametrize(
    "by",
    [
        lambda x: x,
        lambda x: x * np.float64(2.0),
        lambda x: x * 2.0 + float(np.pi),
        lambda x: x * torch.tensor(2.0, dtype=torch.float64),
        lambda x: x / torch.tensor(np.float64(3.0)),
        lambda x: x * torch.from_numpy(np.ones((), dtype=np.float64)),
        lambda x: x + torch.arange(3),
        lambda x: x.half().float().bfloat16().float(),
        lambda x: x.mean().double(),
        lambda x: torch.full((3,), np.float64(2.0)) * x,
        lambda x: x * torch.from_numpy(np.ones(3)).float(),
        lambda x: x * torch.tensor(np.ones(3)).float(),
        lambda x: x * x.new_tensor(np.ones(3)),  # float32, as x is
        lambda x: x * torch.from_numpy(np.ones(3))[0],
        lambda x: (x.mean().double() * torch.tensor(2.0, dtype=torch.float64)).exp() * x,
    ],
)
def test_what_does_not_promote_is_not_listed(by):
    assert uses(by) == []
    assert str(uses(by)) == "no float64"


def test_once_there_it_is_not_listed_again():
    found = uses(lambda x: (x.double() + 1).exp().sum(dim=0) * torch.tensor(2.0))
    assert ops(found) == [("forward", "aten._to_copy", (4, 3))]


def test_in_place_on_float64_creates_nothing():
    found = uses(lambda x: torch.ones(4, 3, dtype=torch.float64).add_(x).copy_(x).detach())
    assert ops(found) == [("forward", "aten.ones", (4, 3))]


# From elsewhere: no operation was seen to create it

WEIGHTS = torch.tensor([1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "by",
    [
        lambda x: (x.mean() * WEIGHTS).sum(),
        lambda x: (x.mean() * WEIGHTS.detach()[:]).sum(),
        lambda x: (x.mean() * torch.tensor([1.0, 2.0], dtype=torch.float64)).sum(),
        lambda x: (x.mean() * torch.tensor(WEIGHTS.numpy())).sum(),
        lambda x: x.mean() * torch.from_numpy(WEIGHTS.numpy()),
        lambda x: x.mean() * WEIGHTS + WEIGHTS,
        lambda x: WEIGHTS * 3 * x.mean(),
    ],
)
def test_an_array_from_elsewhere_is_listed_at_its_first_operation(by):
    assert ops(uses(by)) == [("forward", "aten.mul", (2,))]


def test_an_array_of_float64_numbers():
    scalars = [torch.tensor(2.0, dtype=torch.float64)] * 2
    assert ops(uses(lambda x: x.mean() * torch.stack(scalars))) == [("forward", "aten.stack", (2,))]
    assert ops(uses(lambda x: x.mean() * scalars[0].expand(2))) == [("forward", "aten.mul", (2,))]


def test_an_array_that_is_reduced_to_a_number():
    found = uses(lambda x: x.mean() + WEIGHTS.mean())
    assert ops(found) == [("forward", "aten.mean", ()), ("forward", "aten.add", ())]


@pytest.mark.parametrize(("phase", "where"), [("loss", "the loss"), ("forward", "the output")])
def test_an_array_that_is_the_result_itself(phase, where):
    def given(*_):
        return torch.from_numpy(WEIGHTS.numpy())

    loss_fn = given if phase == "loss" else None
    found = uses(lambda x: x if loss_fn else given(), target=torch.ones(4), loss_fn=loss_fn)
    assert list(found) == [Float64Use(phase, "result", where, (2,))]


def test_a_buffer_is_not_listed_again():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weights", WEIGHTS)

        def forward(self, x):
            two = torch.tensor(2.0, dtype=torch.float64)  # a number: nothing becomes float64 by it
            return (x.mean() * self.weights.view(1, 2) * two).exp()

    assert ops(find_float64(Mean(), torch.ones(3))) == [("given", "buffer", (2,))]


def test_float64_all_the_way_with_sparse_gradients():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2), nn.Softmax(1)).double()
    found = find_float64(model, torch.tensor([1, 1, 2]), lambda output: output.log().mean())
    assert {use.phase for use in found} == {"given"}


# In the loss and in backward


LOSSES = {
    "mse": (nn.functional.mse_loss, "aten.mse_loss", []),  # its backward rounds by itself
    "l1": (nn.functional.l1_loss, "aten.sub", []),
    "bce": (
        nn.functional.binary_cross_entropy_with_logits,
        "aten.binary_cross_entropy_with_logits",
        ["aten.sub"],
    ),
}


def refused(loss_fn, target):
    """Whether torch itself refuses the backward pass: torch 2.11 does for the mean square."""
    try:
        loss_fn(torch.rand(4, 3, requires_grad=True), target).backward()
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize("loss", LOSSES)
def test_a_float64_target(loss):
    loss_fn, forward, backward = LOSSES[loss]
    target = torch.rand(4, 3, dtype=torch.float64)
    backward = ["stopped"] if refused(loss_fn, target) else backward
    found = uses(lambda x: x, target=target, loss_fn=loss_fn)
    assert found[0] == Float64Use("given", "target", "target", (4, 3))
    assert [use.op for use in found if use.phase == "loss"] == [forward]
    assert [use.op for use in found if use.phase == "backward"] == backward
    made = [use for use in found[1:] if use.op != "stopped"]
    assert {use.where for use in made} == {"the loss function"}


def test_only_the_backward_of_an_own_function_makes_it():
    class Leaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return (gradient.double() * 2).float()

    found = uses(Leaky.apply)
    assert ops(found) == [("backward", "aten._to_copy", (4, 3))]
    assert "return (gradient.double() * 2).float()" in found[0].where


def test_under_autocast():
    target = torch.rand(4, 3, dtype=torch.float64)
    with Amp("bf16", "cpu").autocast():
        found = uses(lambda x: x, target=target, loss_fn=nn.functional.mse_loss)
    assert "loss" in [use.phase for use in found]


# Where


def test_the_line_of_the_users_code():
    class Leak(nn.Module):
        def forward(self, x):
            weights = torch.linspace(0, 1, 3, dtype=torch.float64)
            y = x * weights
            return nn.functional.softmax(y, dim=1)

    found = find_float64(Leak(), torch.randn(2, 3, requires_grad=True))
    first = Leak.forward.__code__.co_firstlineno
    name = "test_float64.py"
    assert found[0].where == (
        f"{name}:{first + 1} weights = torch.linspace(0, 1, 3, dtype=torch.float64)"
    )
    assert found[1].where == f"{name}:{first + 2} y = x * weights"
    backward = [use.where for use in found if use.phase == "backward"]
    assert set(backward) <= {f"{name}:{first + 2} y = x * weights"}


def test_backward_names_the_line_whose_gradient_it_is():
    def squared_error(output, target):
        error = nn.functional.binary_cross_entropy_with_logits(output, target)
        return error.float()

    target = torch.rand(4, 3, dtype=torch.float64)
    found = uses(lambda x: x, target=target, loss_fn=squared_error)
    line = squared_error.__code__.co_firstlineno + 1
    where = f"test_float64.py:{line} error = "
    where += "nn.functional.binary_cross_entropy_with_logits(output, target)"
    assert {use.where for use in found if use.phase == "backward"} == {where}


def compiled(path):
    """A module whose code is in a file of this name."""
    code = "class Cell(nn.Module):\n    def forward(self, x):\n        return x.double()\n"
    namespace = {"nn": nn}
    exec(compile(code, path, "exec"), namespace)
    return namespace["Cell"]()


def test_in_a_notebook_the_line_is_found():
    found = find_float64(compiled("/tmp/ipykernel_1/2.py"), torch.ones(2))
    assert found[0].where.startswith("2.py:3")


def test_inside_torchs_modules_the_module_is_named():
    model = nn.Sequential(nn.Identity(), nn.Sequential(compiled(f"{float64.TORCH}nn/new.py")))
    assert find_float64(model, torch.ones(2))[0].where == "1.0 (Cell)"


def test_repetitions_are_counted():
    def loop(x):
        for _ in range(5):
            x = x.double().float()
        return x

    found = [use for use in uses(loop) if use.phase == "forward"]
    assert [(use.op, use.count) for use in found] == [("aten._to_copy", 5)]


# What is given


def test_parameters_buffers_and_inputs():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64))
    found = find_float64(model, (torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 0])), loss_fn)
    assert [(use.op, use.where) for use in found] == [
        ("parameter", "0.weight"),
        ("parameter", "0.bias"),
        ("parameter", "1.weight"),
        ("parameter", "1.bias"),
        ("buffer", "1.running_mean"),
        ("buffer", "1.running_var"),
        ("buffer", "loss_fn.weight"),
        ("input", "input"),
    ], "a model wholly in float64 creates none"


def test_an_input_that_the_model_cannot_take():
    found = find_float64(nn.Linear(3, 3), torch.randn(2, 3, dtype=torch.float64))
    assert (found[0].op, found[0].where) == ("input", "input")
    assert found[1].op == "stopped" and "dtype" in found[1].where


def test_class_weights_that_the_loss_cannot_take():
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64))
    found = find_float64(nn.Linear(3, 3), (torch.randn(2, 3), torch.tensor([0, 1])), loss_fn)
    assert [(use.phase, use.op) for use in found] == [("given", "buffer"), ("loss", "stopped")]
    assert found[0].where == "loss_fn.weight"


def test_a_failure_that_has_nothing_to_do_with_it():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        find_float64(nn.Linear(3, 3), torch.randn(2, 4))


def test_batches_of_every_kind():
    class Named(nn.Module):
        def forward(self, a, b):
            return {"sum": a + b.double(), "rest": [a]}

    found = find_float64(Named(), {"a": torch.ones(2), "b": torch.ones(2)})
    assert ops(found)[0] == ("forward", "aten._to_copy", (2,))
    found = find_float64(Named(), {"a": torch.ones(2), "b": torch.ones(2).double()})
    assert ops(found)[0] == ("given", "input", (2,)) and found[0].where == "input['b']"


# Nothing is changed


def test_nothing_is_changed():
    model = nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.ReLU(inplace=True)
    )
    x, y = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    model(x).sum().backward()
    before, hooks = digest(model, x), [len(m._forward_hooks) for m in model.modules()]
    assert find_float64(model, (x, y), nn.MSELoss()) == []
    assert digest(model, x) == before
    with pytest.raises(RuntimeError):
        find_float64(model, (torch.zeros(4, 2), y), nn.MSELoss())
    assert digest(model, x) == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks


def test_an_input_is_not_changed_in_place():
    x = torch.tensor([-1.0, 2.0])
    find_float64(nn.ReLU(inplace=True), x)
    assert x.tolist() == [-1.0, 2.0]


def test_it_shows():
    found = uses(lambda x: x.double())
    lines = str(found).splitlines()
    assert lines[0] == "float64 comes in at 1 places"
    assert lines[1].split() == ["phase", "op", "shape", "count", "where"]
    assert "aten._to_copy" in lines[2] and "<td>aten._to_copy</td>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["uses"][0]["shape"] == [4, 3]


@pytest.mark.gpu
def test_cuda():
    target = torch.rand(4, 3, dtype=torch.float64, device="cuda")
    model = Scaled(lambda x: x).cuda()
    loss_fn = nn.functional.binary_cross_entropy_with_logits
    found = find_float64(model, (torch.randn(4, 3), target), loss_fn)
    assert {use.phase for use in found} == {"given", "loss", "backward"}
    assert all(use.where == "the loss function" for use in found if use.phase == "backward")
