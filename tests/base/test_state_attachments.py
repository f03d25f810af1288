"""What hangs on a model or an optimizer is back too: where digests agree, the next steps do."""

import collections
import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from nbkit import digest, freeze_bn_, guard_bn, preserve_state, rescale_bn_momentum_

OLD_NORMS = [
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning",
    "ignore:`torch.nn.utils.spectral_norm`:FutureWarning",
]
pytestmark = pytest.mark.filterwarnings(*OLD_NORMS)


class Double(nn.Module):
    def forward(self, x):
        return x * 2


class Noisy(nn.Linear):
    """A layer that keeps more than torch registers: numbers, a queue, sources of randomness."""

    def __init__(self):
        super().__init__(4, 4)
        self.scale = 1.0
        self.calls = 0
        self.queue = collections.deque([0.0], maxlen=3)
        self.table = {"shift": [torch.zeros(4)], "array": np.zeros(4)}
        self.draws = random.Random(0)
        self.numbers = np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)
        self.count = itertools.count()
        self.spare = [nn.Linear(4, 4)]  # in a list: not registered

    def forward(self, x):
        self.calls += 1
        self.queue.append(self.draws.random() + self.numbers.random())
        shift = self.table["shift"][0] + torch.from_numpy(self.table["array"]).float()
        noise = torch.randn(4, generator=self.generator) + next(self.count)
        x = super().forward(x) * self.scale + sum(self.queue) + shift + noise
        return x + self.spare[0](x)


def make_model():
    torch.manual_seed(0)
    layers = {
        "plain": nn.Linear(4, 4),
        "norm": nn.BatchNorm1d(4),
        "pruned": prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.25),
        "normed": parametrizations.weight_norm(nn.Linear(4, 4)),
        "spectral": parametrizations.spectral_norm(nn.Linear(4, 4)),
        "old_normed": nn.utils.weight_norm(nn.Linear(4, 4)),
        "old_spectral": nn.utils.spectral_norm(nn.Linear(4, 4)),
        "noisy": Noisy(),
    }
    return nn.Sequential(collections.OrderedDict(layers))


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(6, 4)).square().mean().backward()
    optimizer.step()


def make_training():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step(model, optimizer)
    return model, optimizer


def steps_from_here(model, optimizer):
    """Everything that two steps compute, from one random state, beginning as an epoch does."""
    torch.manual_seed(1)
    model.train()
    found = []
    for _ in range(2):
        step(model, optimizer)
        found += [p.detach().clone() for p in model.parameters()]
        found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found += [buffer.clone() for buffer in model.buffers()]
    model.eval()
    return [*found, model(torch.ones(2, 4)).detach(), *model.state_dict().values()]


def _patch_class(model, optimizer):
    Noisy.forward = lambda self, x: x


def _scale_class(model, optimizer):
    Noisy.extra = 1


def _freeze_and_thaw_momentum(model, optimizer):
    rescale_bn_momentum_(model, 4)
    with guard_bn(model) as guard:
        guard.check(torch.tensor(torch.nan))


def _hook_every_way(model, optimizer):
    layer = model.norm
    layer.register_forward_hook(lambda module, args, output: output * 2)
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    layer.register_forward_hook(lambda m, a, k, out: out + 1, with_kwargs=True, always_call=True)
    layer.register_full_backward_hook(lambda module, given, grads: (given[0] * 2,))
    layer.register_state_dict_post_hook(lambda module, state, *_: state.clear())


CHANGES = {
    "removed weight_norm": lambda m, o: parametrize.remove_parametrizations(m.normed, "weight"),
    "removed spectral_norm": lambda m, o: parametrize.remove_parametrizations(
        m.spectral, "weight", leave_parametrized=False
    ),
    "added weight_norm": lambda m, o: parametrizations.weight_norm(m.plain),
    "added spectral_norm": lambda m, o: parametrizations.spectral_norm(m.plain),
    "added orthogonal": lambda m, o: parametrizations.orthogonal(m.plain),
    "second parametrization": lambda m, o: parametrize.register_parametrization(
        m.normed, "weight", Double()
    ),
    "parametrization of the bias too": lambda m, o: parametrize.register_parametrization(
        m.normed, "bias", Double()
    ),
    "removed old weight_norm": lambda m, o: nn.utils.remove_weight_norm(m.old_normed),
    "removed old spectral_norm": lambda m, o: nn.utils.remove_spectral_norm(m.old_spectral),
    "added old weight_norm": lambda m, o: nn.utils.weight_norm(m.plain),
    "added old spectral_norm": lambda m, o: nn.utils.spectral_norm(m.plain),
    "pruned": lambda m, o: prune.random_unstructured(m.plain, "weight", 0.5),
    "pruned once more": lambda m, o: prune.random_unstructured(m.pruned, "weight", 0.5),
    "pruned twice more": lambda m, o: [
        prune.random_unstructured(m.pruned, "weight", 0.3) for _ in range(2)
    ],
    "pruned globally": lambda m, o: prune.global_unstructured(
        [(m.plain, "weight"), (m.pruned, "weight")], prune.L1Unstructured, amount=0.5
    ),
    "pruning made final": lambda m, o: prune.remove(m.pruned, "weight"),
    "mask": lambda m, o: m.pruned.weight_mask.zero_(),
    "module replaced": lambda m, o: setattr(m, "plain", nn.Linear(4, 4, bias=False)),
    "module added": lambda m, o: m.append(nn.Dropout()),
    "module deleted": lambda m, o: delattr(m, "norm"),
    "modules reordered": lambda m, o: m._modules.update(plain=m._modules.pop("plain")),
    "class swapped": lambda m, o: setattr(m.noisy, "__class__", nn.Linear),
    "class patched": _patch_class,
    "class attribute": _scale_class,
    "method patched": lambda m, o: setattr(m.plain, "forward", lambda x: x),
    "hooks": _hook_every_way,
    "hooks removed": lambda m, o: m.old_normed._forward_pre_hooks.clear(),
    "hook on a tensor": lambda m, o: m.plain.weight.register_hook(lambda grad: grad * 0),
    "hook after accumulation": lambda m, o: m.plain.weight.register_post_accumulate_grad_hook(
        lambda p: setattr(p, "grad", None)
    ),
    "hook on the optimizer": lambda m, o: o.register_step_pre_hook(lambda *_: o.zero_grad()),
    "requires_grad": lambda m, o: m.requires_grad_(False),
    "mode": lambda m, o: m.eval(),
    "persistence": lambda m, o: m.norm._non_persistent_buffers_set.add("running_mean"),
    "buffer": lambda m, o: m.register_buffer("new", torch.ones(1), persistent=False),
    "momentum": lambda m, o: setattr(m.norm, "momentum", 1.0),
    "eps deleted": lambda m, o: delattr(m.norm, "eps"),
    "attribute added": lambda m, o: setattr(m.norm, "new", 1),
    "scale": lambda m, o: setattr(m.noisy, "scale", 3.0),
    "queue": lambda m, o: m.noisy.queue.append(5.0),
    "tensor in a table": lambda m, o: m.noisy.table["shift"][0].add_(1),
    "list in a table": lambda m, o: m.noisy.table["shift"].insert(0, torch.ones(4)),
    "array in a table": lambda m, o: m.noisy.table["array"].fill(1),
    "random.Random": lambda m, o: m.noisy.draws.random(),
    "numpy's generator": lambda m, o: m.noisy.numbers.random(),
    "torch's generator": lambda m, o: torch.rand(1, generator=m.noisy.generator),
    "iterator": lambda m, o: next(m.noisy.count),
    "module in a list": lambda m, o: nn.init.zeros_(m.noisy.spare[0].weight),
    "attribute of a parameter": lambda m, o: setattr(m.plain.weight, "no_decay", True),
    "grads": lambda m, o: m.zero_grad(),
    "frozen BatchNorm": lambda m, o: freeze_bn_(m),
    "rescaled momentum": _freeze_and_thaw_momentum,
    "defaults": lambda m, o: o.defaults.update(lr=7.0),
    "attribute of the optimizer": lambda m, o: setattr(o, "new", 1),
    "step patched by a scheduler": lambda m, o: torch.optim.lr_scheduler.StepLR(o, 1),
    "double": lambda m, o: m.double(),
    "a step": step,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_undone(name):
    undisturbed = steps_from_here(*make_training())
    training = make_training()
    before = digest(*training)
    with preserve_state(*training):
        CHANGES[name](*training)
        assert digest(*training) != before
    assert digest(*training) == before
    outcome = steps_from_here(*training)
    assert all(torch.equal(a, b) for a, b in zip(outcome, undisturbed, strict=True))


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=4, unique=True))
def test_changes_in_any_order_are_undone(names):
    undisturbed = steps_from_here(*make_training())
    training = make_training()
    before = digest(*training)
    with preserve_state(*training):
        for name in names:
            try:
                CHANGES[name](*training)
            except (AttributeError, ValueError, RuntimeError, KeyError, TypeError):
                break  # what the one removed, the other cannot change
    assert digest(*training) == before
    outcome = steps_from_here(*training)
    assert all(torch.equal(a, b) for a, b in zip(outcome, undisturbed, strict=True))


# --- nbkit's own changes, undone by their handle after a block has brought them back ---


def test_an_undo_inside_a_block_can_be_repeated_after_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    frozen, rescaled = freeze_bn_(model), rescale_bn_momentum_(model, 4)
    with preserve_state(model):
        frozen.undo()
        rescaled.undo()
        assert model.train()[1].training and model[1].momentum == 0.1
    assert not model.train()[1].training and not model[1].weight.requires_grad
    assert model[1].momentum != 0.1
    frozen.undo()
    rescaled.undo()
    assert model.train()[1].training and model[1].weight.requires_grad
    assert model[1].momentum == 0.1


def test_an_undo_after_the_block_that_froze_does_nothing():
    model = nn.Sequential(nn.BatchNorm1d(2))
    before = digest(model)
    with preserve_state(model):
        frozen = freeze_bn_(model)
    model[0].weight.requires_grad_(False)
    frozen.undo()
    assert not model[0].weight.requires_grad
    model[0].weight.requires_grad_(True)
    assert digest(model) == before
