"""Optimizers, and what wraps or drives them, go on exactly as if the block had not been."""

import collections
import random
import threading
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler
from trainings import undone

from nbkit import digest, preserve_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # this part of torch scripts functions
    from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer


@pytest.fixture(scope="module", autouse=True)
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Preconditioned(torch.optim.Optimizer):
    """As Kron: a preconditioner and a chance of updating it, none of them in its state."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})
        self.chance = random.Random(0)
        self.updates = torch.tensor(0)
        self.factors = {}

    @torch.no_grad()
    def step(self):
        self.updates += 1
        for p in self.param_groups[0]["params"]:
            factor = self.factors.setdefault(p, torch.ones_like(p))
            if self.chance.random() < 0.5:
                factor.lerp_(p.grad.abs(), 0.5)
            p.sub_(p.grad / factor / self.updates)


class Lookahead:
    """No Optimizer, no state_dict: it holds one, and the slow weights."""

    def __init__(self, base):
        self.base, self.steps = base, 0
        self.slow = [p.detach().clone() for p in base.param_groups[0]["params"]]

    def zero_grad(self):
        self.base.zero_grad()

    @torch.no_grad()
    def step(self):
        self.base.step()
        self.steps += 1
        if self.steps % 3 == 0:
            for fast, slow in zip(self.base.param_groups[0]["params"], self.slow, strict=True):
                fast.copy_(slow.lerp_(fast, 0.5))


class PartOfIt(Lookahead):
    """Its state_dict leaves out the slow weights."""

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


OPTIMIZERS = {
    "PostLocalSGD": lambda m: PostLocalSGDOptimizer(
        sgd(m), PeriodicModelAverager(period=2, warmup_steps=4)
    ),
    "ZeRO": lambda m: ZeroRedundancyOptimizer(m.parameters(), torch.optim.Adam, lr=0.1),
    "ZeRO in buckets": lambda m: ZeroRedundancyOptimizer(
        m.parameters(), torch.optim.Adam, parameters_as_bucket_view=True, lr=0.1
    ),
    "preconditioned": lambda m: Preconditioned(m.parameters()),
    "Lookahead": lambda m: Lookahead(sgd(m)),
    "Lookahead with a state_dict": lambda m: PartOfIt(sgd(m)),
}


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()


def make_training(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = OPTIMIZERS[name](model)
    step(model, optimizer)
    return model, optimizer


@pytest.mark.filterwarnings("ignore")  # torch's own, of wrappers that set no defaults
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_are_the_same_after_the_block(name):
    def run(training):
        torch.manual_seed(1)
        for _ in range(10):
            step(*training)
        return torch.cat([t.flatten().clone() for t in training[0].state_dict().values()])

    undisturbed, training = run(make_training(name)), make_training(name)

    def change(*training):
        for _ in range(5):
            step(*training)

    undone(training, change)
    assert torch.equal(run(training), undisturbed)


def test_a_counter_of_the_averager_is_restored():
    _, optimizer = training = make_training("PostLocalSGD")
    before = optimizer.state_dict()["step"]
    undone(training, step)
    assert optimizer.state_dict()["step"] == before == 1


# --- objects with a state_dict that leaves some out, and without any ---


class Average:
    """An average of weights whose state_dict is a copy and leaves out how many there were."""

    def __init__(self, model):
        self.model, self.count = model, 0
        self.shadow = [p.detach().clone() for p in model.parameters()]
        self.lock = threading.Lock()

    def state_dict(self):
        return {"shadow": [each.clone() for each in self.shadow]}

    def load_state_dict(self, state):
        self.shadow = [each.clone() for each in state["shadow"]]


def test_what_a_state_dict_leaves_out_is_restored_too():
    average = Average(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    shadow = average.shadow

    def change(average):
        average.count += 1
        average.shadow[0].add_(1)
        average.model.eval()

    undone([average], change)
    assert average.count == 0 and average.model.training
    assert average.shadow is shadow


def test_a_note_that_load_state_dict_leaves_for_the_next_iteration_stays():
    class Loader:
        note, iterator = None, iter(())

        def __init__(self):
            self.note = None

        def __iter__(self):
            self.iterator = iter(range(self.note["at"] if self.note else 0, 9))
            self.note = None
            return self.iterator

        def state_dict(self):
            return {"at": self.iterator.__reduce__()[-1]}

        def load_state_dict(self, state):
            self.note = state

    loader = Loader()
    assert next(iter(loader)) == 0
    with preserve_state(loader):
        next(loader.iterator)
    assert next(iter(loader)) == 1


def test_a_load_state_dict_that_writes_into_tensors_does_not_have_the_last_word():
    weight = torch.ones(2)

    class Zeroing:
        def state_dict(self):
            return {"weight": weight}

        def load_state_dict(self, state):
            weight.zero_()

    with preserve_state(Zeroing()):
        weight.fill_(3)
    assert weight.tolist() == [1, 1]


def test_samplers_draw_the_same_again():
    sampler = RandomSampler(range(9), generator=torch.Generator().manual_seed(0))
    batches = BatchSampler(sampler, 2, drop_last=False)
    shards = DistributedSampler(range(9), num_replicas=2, rank=0)
    first = []
    undone([batches], lambda batches: first.extend(batches))
    assert list(batches) == first
    undone([shards], lambda shards: shards.set_epoch(3))
    assert shards.epoch == 0


# --- what cannot be put back is refused by name ---


class Holder(nn.Module):
    def __init__(self, thing):
        super().__init__()
        self.parts = {"things": [thing]}


@pytest.mark.parametrize("make", [lambda: (n for n in [1]), lambda: memoryview(b"a")])
def test_an_attribute_that_cannot_be_copied_is_refused(make):
    thing = make()
    for refuse in (digest, lambda model: preserve_state(model).__enter__()):
        with pytest.raises(TypeError, match=r"Holder.parts.things\[0\] cannot be put back: it is"):
            refuse(Holder(thing))


def test_a_file_that_is_read_is_refused_and_a_log_stays_as_it_is(tmp_path):
    path = tmp_path / "log"
    with path.open("w") as log:
        holder = Holder(log)
        with preserve_state(holder):
            holder.parts["things"][0].write("a line")
    assert path.read_text() == "a line"
    with path.open() as read, pytest.raises(TypeError, match="open file"):
        digest(Holder(read))


def test_handles_stay_the_same_objects():
    lock = threading.Lock()
    holder = Holder(lock)
    undone([holder], lambda holder: holder.parts["things"].clear())
    assert holder.parts["things"][0] is lock


def test_what_a_hook_collects_is_kept():
    seen, layer = [], nn.Linear(2, 2)
    with preserve_state(layer):
        layer.register_forward_hook(lambda *_: seen.append("forward"))
        layer(torch.ones(1, 2))
    layer(torch.ones(1, 2))
    assert seen == ["forward"]


def test_a_queue_in_an_attribute_is_the_same_queue():
    holder = Holder(collections.deque([1], maxlen=2))
    queue = holder.parts["things"][0]
    undone([holder], lambda holder: holder.parts["things"].append(queue.popleft()))
    assert holder.parts["things"] == [queue] and list(queue) == [1]
