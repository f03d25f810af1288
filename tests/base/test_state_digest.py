"""A digest tells apart what differs, in any process; on CUDA everything is restored too."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from trainings import everything, in_a_scaled_step

from nbkit.base.state import digest, preserve_state


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([0x7FC0], dtype=torch.int16), torch.tensor([0x7FC1], dtype=torch.int16)),
        (torch.ones(1), torch.ones(1, dtype=torch.bfloat16)),
        (torch.ones(4).as_strided((2, 3), (1, 1)), torch.ones(4).as_strided((3, 2), (1, 1))),
        (torch.ones(3, 3), torch.ones(3, 3).t()),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(2)),
    ],
)
def test_a_digest_tells_apart(one, other):
    assert digest(one, rng=False) != digest(other, rng=False)
    bits = one.view(torch.bfloat16) if one.dtype is torch.int16 else one
    assert digest(bits, rng=False) == digest(copy.deepcopy(bits), rng=False)


def test_a_digest_tells_tied_weights_from_equal_ones():
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    equal = copy.deepcopy(tied)
    equal[1].weight = nn.Parameter(equal[0].weight.detach().clone())
    assert digest(tied, rng=False) == digest(copy.deepcopy(tied), rng=False)
    assert digest(tied, rng=False) != digest(equal, rng=False)


def test_a_digest_tells_names_apart():
    one, other = nn.Module(), nn.Module()
    one.register_buffer("mean", torch.ones(2))
    other.register_buffer("variance", torch.ones(2))
    assert digest(one, rng=False) != digest(other, rng=False)


def test_a_digest_is_the_same_in_another_process():
    """With another hash seed, and inside a scaled step: a scaler keeps id()s then."""
    code = "from trainings import *; print(digest(*in_a_scaled_step().objects))"
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", f"from nbkit.base.state import digest; {code}"]
    other = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
    assert other.strip() == digest(*in_a_scaled_step().objects)


# --- CUDA ---


@pytest.mark.parametrize("offload", [False, True])
def test_offloaded_copies_are_asked_for_on_the_cpu(offload):
    """By the call, as there may be no GPU whose memory could be measured."""
    asked = []

    class Asked(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.Tensor.to:
                asked.append(args[1])
            return function(*args, **(kwargs or {}))

    with Asked(), preserve_state(torch.ones(2), rng=False, offload=offload):
        pass
    assert asked == ["cpu" if offload else None]


def cuda_training():
    training = everything()
    model = training.model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(8, 4, device="cuda")).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.gpu
@pytest.mark.parametrize("offload", [False, True])
def test_on_cuda_everything_is_back_where_it_was(offload):
    model, optimizer = cuda_training()
    before = digest(model, optimizer)
    where = [p.data_ptr() for p in model.parameters()]
    with preserve_state(model, optimizer, offload=offload):
        start = digest()
        torch.rand(1, device="cuda")
        assert digest() != start
        optimizer.step()
        model.cpu()
    assert digest(model, optimizer) == before
    assert [p.data_ptr() for p in model.parameters()] == where


@pytest.mark.gpu
def test_cuda_draws_the_same_numbers_again():
    with preserve_state():
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), first)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", [False, True])
def test_offloaded_copies_take_no_gpu_memory(offload):
    weight = torch.ones(1 << 20, device="cuda")  # 4 MiB
    before = torch.cuda.memory_allocated()
    with preserve_state(weight, offload=offload):
        extra = torch.cuda.memory_allocated() - before
        weight.zero_()
    assert extra == (0 if offload else weight.nbytes)
    assert weight.min() == 1


@pytest.mark.gpu
def test_cuda_is_not_started():
    code = "import torch; from nbkit.base.state import digest, preserve_state\n"
    code += "with preserve_state(): digest()\n"
    code += "assert torch.cuda.is_available() and not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
