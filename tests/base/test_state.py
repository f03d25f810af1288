"""Everything is back, on every way out, for every kind of training; and a digest proves it."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from exits import EXITS, exit_name, leaving
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from trainings import ANYWHERE, MUTATIONS, everything, trainings

from nbkit.base.state import digest, preserve_state


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def identities(training):
    """Which object each tensor is, and where its memory starts."""
    return {
        name: (id(t), t.data_ptr() if isinstance(t, torch.Tensor) and t.numel() else None)
        for name, t in training.tensors().items()
    }


# --- what is covered ---


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_digest_sees_it_and_preserve_state_undoes_it(name, offload):
    undisturbed = everything().outcome()
    training = everything()
    before, tensors, ids = digest(*training.objects), training.tensors(), identities(training)
    with preserve_state(*training.objects, offload=offload):
        MUTATIONS[name](training)
        assert digest(*training.objects) != before
    assert digest(*training.objects) == before
    # A buffer that the block resized kept its storage, which may have moved in memory.
    assert name == "buffer resized" or identities(training) == ids
    assert all(now is tensors[key] for key, now in training.tensors().items())
    assert same(training.outcome(), undisturbed)


@settings(max_examples=60, deadline=None)
@given(
    make=trainings(),
    names=st.lists(st.sampled_from(ANYWHERE), max_size=4, unique=True),
    way_out=st.sampled_from(EXITS),
)
def test_any_training_goes_on_as_if_nothing_had_been(make, names, way_out):
    undisturbed = make().outcome()
    training = make()
    before, ids = digest(*training.objects), identities(training)
    with leaving(way_out) as leave, preserve_state(*training.objects):
        for name in names:
            MUTATIONS[name](training)
        leave()
    assert digest(*training.objects) == before
    assert identities(training) == ids
    assert same(training.outcome()[:-2], undisturbed[:-2])  # without random and numpy: not seeded


@pytest.mark.parametrize("way_out", EXITS, ids=exit_name)
def test_every_way_out_restores(way_out):
    training = everything()
    before = digest(*training.objects)
    with leaving(way_out) as leave, preserve_state(*training.objects):
        training.step()
        leave()
    assert digest(*training.objects) == before


def test_a_half_done_step_is_undone():
    training = everything()
    before = digest(*training.objects)
    with pytest.raises(ZeroDivisionError), preserve_state(*training.objects):
        training.model.norm.register_forward_hook(lambda *_: 1 / 0)
        training.step()
    assert digest(*training.objects) == before


def test_blocks_nest_and_a_function_can_be_wrapped():
    layer = nn.Linear(2, 2)
    before = digest(layer)

    @preserve_state(layer)
    def trial():
        layer.weight.data.zero_()
        between = digest(layer)
        with preserve_state(layer):
            layer.weight.data.add_(1)
        assert digest(layer) == between

    for _ in range(2):
        trial()
        assert digest(layer) == before


# --- random state ---


def test_without_rng_the_random_state_moves_on_and_does_not_count():
    torch.manual_seed(0)
    before, start = digest(rng=False), digest()
    with preserve_state(rng=False):
        torch.rand(1)
    assert digest() != start
    assert digest(rng=False) == before


def test_every_cuda_generator_is_restored(monkeypatch):
    """Two CPU generators stand in for two devices."""
    devices = tuple(torch.Generator().manual_seed(seed) for seed in (1, 2))
    monkeypatch.setattr(torch.cuda, "default_generators", devices)
    before = [generator.get_state() for generator in devices]
    with preserve_state():
        start = digest()
        for generator in devices:
            torch.rand(1, generator=generator)
            assert digest() != start
    assert same([generator.get_state() for generator in devices], before)


def test_cuda_that_the_block_started_begins_again_at_the_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.default_generator.manual_seed(7)
    with preserve_state():
        pass
    assert seeds == []
    with preserve_state():
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        torch.default_generator.manual_seed(8)
    assert seeds == [7]


def test_numpy_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with preserve_state():
        start = digest()
        np.random.rand()
        assert digest() == start


# --- refusals ---


class WithLock:
    def state_dict(self):
        return {"lock": __import__("threading").Lock()}

    def load_state_dict(self, state):
        raise AssertionError("nothing can be loaded")


REFUSED = {
    "list": (
        lambda: [nn.Linear(1, 1)],
        r"argument 2 \(list\) has no state .* Pass each one as a separate",
    ),
    "function": (lambda: print, r"\(builtin_function_or_method\) has no state"),
    "class": (
        lambda: nn.Linear,
        r"\(type\) has no state that could be put back. Accepted: an nn.M",
    ),
    "loader": (lambda: torch.utils.data.DataLoader([1]), r"\(DataLoader\) .* and load_state_dict"),
    "meta": (
        lambda: nn.Linear(1, 1, device="meta"),
        "Linear.weight .* no memory on meta: load its",
    ),
    "lazy": (lambda: nn.LazyLinear(1), "LazyLinear.weight .* no shape yet: run one batch"),
    "csr": (
        lambda: torch.eye(2).to_sparse_csr(),
        "torch.float32, torch.sparse_csr: expected a plain tensor, dense or",
    ),
    "fake": (
        lambda: FakeTensorMode().from_tensor(torch.ones(1)),
        "it is a FakeTensor, torch.float32",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.quint8),
        "it is a Tensor, torch.quint8, torch.strided: expected a plain",
    ),
    "lock": (
        WithLock,
        r"WithLock cannot .* \(cannot pickle '_thread.lock' object.*Expected tensors",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_restored_is_refused_before_the_block(case):
    make, message = REFUSED[case]
    layer, thing = nn.Linear(2, 2), make()
    before = digest(layer)
    for refuse in (preserve_state(layer, thing).__enter__, lambda: digest(layer, thing)):
        with pytest.raises(TypeError, match=message):
            refuse()
    assert digest(layer) == before


# --- when restoring fails, or is interrupted ---


class Stubborn:
    def __init__(self, on_load):
        self.on_load = on_load

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.on_load()


def test_all_the_rest_is_restored_when_one_piece_fails():
    layer = nn.Linear(2, 2)
    before = digest(layer)
    broken = [Stubborn(lambda: 1 / 0), Stubborn(lambda: [][0])]
    failing = pytest.raises(ExceptionGroup, match="everything back except")
    with failing as caught, preserve_state(layer, *broken):
        layer.weight.data.zero_()
        raise ValueError("in the block")
    assert digest(layer) == before
    assert {type(error) for error in caught.value.exceptions} == {ZeroDivisionError, IndexError}
    assert caught.value.exceptions[0].__notes__ == ["while restoring Stubborn"]
    assert str(caught.value.__context__) == "in the block"
    with pytest.raises(BaseExceptionGroup), preserve_state(layer, Stubborn(sys.exit)):
        layer.weight.data.zero_()
    assert digest(layer) == before


@pytest.fixture
def ctrl_c():
    """Python's own handler of Ctrl-C, which a job in the background starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_waits_until_everything_is_back(ctrl_c):
    layer = nn.Linear(2, 2)
    before = digest(layer)
    with pytest.raises(KeyboardInterrupt), preserve_state(layer, Stubborn(ctrl_c)):
        torch.rand(1)
        layer.weight.data.zero_()
    assert digest(layer) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_signals_are_left_alone(ctrl_c):
    layer = nn.Linear(2, 2)
    before = digest(layer)

    def work():
        with preserve_state(layer):
            layer.weight.data.zero_()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert digest(layer) == before


def test_a_load_state_dict_that_writes_elsewhere_does_not_have_the_last_word():
    training = everything()

    def disturb():
        torch.rand(1)
        training.optimizer.param_groups[0]["lr"] = 5.0
        training.optimizer.load_state_dict(training.optimizer.state_dict())
        training.model.train()

    training.model.eval()
    before, ids = digest(*training.objects), identities(training)
    with preserve_state(Stubborn(disturb), *training.objects):
        training.step()
    assert digest(*training.objects) == before
    assert identities(training) == ids
