"""Trainings of every kind, small, and what a trial run may do to them."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nbkit.base.state import digest, preserve_state


def undone(things, change):
    """Run a change inside a block: a digest sees it there, and it is gone after."""
    before = digest(*things)
    with preserve_state(*things):
        change(*things)
        assert digest(*things) != before
    assert digest(*things) == before


class Net(nn.Module):
    """Linear layers with what makes restoring hard: each thing where the recipe asks for it."""

    def __init__(self, *, depth=2, norm=True, tied=True, frozen=True, dropout=0.3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_parameter("absent", None)
        if tied:
            self.layers[-1].weight = self.layers[0].weight
        if frozen:
            self.layers[0].bias.requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        for layer in self.layers:
            x = self.drop(torch.relu(self.norm(layer(x))))
        return x


class Ema:
    """An object of somebody's own: it hands out what it holds, and keeps what it is handed."""

    def __init__(self, model):
        self.kept = {"shadow": [p.detach().clone() for p in model.parameters()], "names": {"a"}}

    def state_dict(self):
        return self.kept

    def load_state_dict(self, state):
        self.kept.clear()
        self.kept.update(state)


@dataclass
class Training:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    others: tuple = ()

    @property
    def objects(self):
        return (self.model, self.optimizer, *self.others)

    def step(self):
        self.optimizer.zero_grad()
        self.model(torch.randn(8, 4)).square().mean().backward()
        self.optimizer.step()

    def tensors(self):
        """Every tensor that must stay the same object, by where it is found."""
        found = dict(self.model.named_parameters(remove_duplicate=False))
        found |= dict(self.model.named_buffers(remove_duplicate=False))
        found |= {f"{name}.grad": p.grad for name, p in self.model.named_parameters()}
        for n, state in enumerate(self.optimizer.state.values()):
            found |= {f"state {n} {key}": value for key, value in state.items()}
        found |= {f"lr {n}": group["lr"] for n, group in enumerate(self.optimizer.param_groups)}
        return found

    def outcome(self):
        """What two more steps make of it, with the next random number of each source."""
        self.step()
        self.step()
        numbers = [torch.rand(()), random.random(), np.random.rand()]
        return [t.clone() for t in self.tensors().values() if isinstance(t, torch.Tensor)] + numbers


def everything():
    """One training with all that is covered, after two steps: the same one at every call."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Net()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": trained[:1]}, {"params": trained[1:]}], lr=0.01)
    optimizer.param_groups[1]["lr"] = torch.tensor(0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=50)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    others = (scheduler, scaler, Ema(model), torch.Generator().manual_seed(0), torch.ones(3))
    training = Training(model, optimizer, others)
    training.step()
    training.step()
    return training


def _scale(t):
    t.others[1].scale(torch.ones(()))
    t.others[1].unscale_(t.optimizer)  # update() is never reached: the step stays unfinished


def in_a_scaled_step():
    training = everything()
    _scale(training)
    training.others[2].kept["names"] |= set("abcdefgh")
    return training


def _replace_lr(t):
    t.optimizer.param_groups[1]["lr"] = torch.tensor(0.5)


def _load_itself(t):
    state = t.optimizer.state_dict()
    state["param_groups"][0]["lr"] = 7.0
    t.optimizer.load_state_dict(state)


def _backward_through_a_buffer(t):
    t.model.norm.running_mean.add_(
        t.model.norm.weight
    )  # now a result of autograd, no longer a leaf


# What a block may do, one thing each. A digest has to see it, preserve_state has to undo it.
MUTATIONS = {
    "a step": lambda t: t.step(),
    "weight": lambda t: t.model.layers[0].weight.data.add_(1),
    "frozen weight": lambda t: t.model.layers[0].bias.data.add_(1),
    "buffer": lambda t: t.model.norm.running_var.add_(1),
    "non-persistent buffer": lambda t: t.model.calls.add_(1),
    "buffer in the graph": _backward_through_a_buffer,
    "grad": lambda t: t.model.norm.weight.grad.add_(1),
    "grad dropped": lambda t: t.model.zero_grad(set_to_none=True),
    "grad made": lambda t: setattr(t.model.layers[0].bias, "grad", torch.ones(4)),
    "grad exchanged": lambda t: setattr(t.model.norm.weight, "grad", torch.ones(4)),
    "frozen": lambda t: t.model.norm.weight.requires_grad_(False),
    "thawed": lambda t: t.model.layers[0].bias.requires_grad_(True),
    "training flag": lambda t: t.model.norm.eval(),
    "weight moved": lambda t: setattr(t.model.norm.weight, "data", torch.zeros(4)),
    "buffer resized": lambda t: t.model.norm.running_mean.resize_(1000),
    "buffer freed": lambda t: t.model.norm.running_mean.set_(torch.zeros(0)),
    "dtype": lambda t: t.model.half(),
    "parameter exchanged": lambda t: setattr(t.model.norm, "weight", nn.Parameter(torch.ones(4))),
    "parameter deleted": lambda t: delattr(t.model.norm, "weight"),
    "parameter added": lambda t: t.model.register_parameter(
        "new_weight", nn.Parameter(torch.ones(1))
    ),
    "parameter untied": lambda t: setattr(
        t.model.layers[1], "weight", nn.Parameter(t.model.layers[1].weight.detach().clone())
    ),
    "buffer exchanged": lambda t: setattr(t.model.norm, "running_mean", torch.ones(4)),
    "buffer to None": lambda t: setattr(t.model.norm, "running_mean", None),
    "buffer added": lambda t: t.model.register_buffer("new_buffer", torch.ones(1)),
    "buffer made persistent": lambda t: t.model._non_persistent_buffers_set.clear(),
    "module exchanged": lambda t: setattr(t.model, "drop", nn.Identity()),
    "module appended": lambda t: t.model.layers.append(nn.ReLU()),
    "module parametrized": lambda t: weight_norm(t.model.layers[0]),
    "optimizer state": lambda t: t.optimizer.state[t.model.norm.weight]["exp_avg"].add_(1),
    "optimizer state exchanged": lambda t: t.optimizer.state[t.model.norm.weight].update(step=1),
    "optimizer state emptied": lambda t: t.optimizer.state.clear(),
    "optimizer state added": lambda t: t.optimizer.state[torch.ones(1)].update(step=1),
    "optimizer loaded": _load_itself,
    "lr": lambda t: t.optimizer.param_groups[0].update(lr=1.0),
    "tensor lr": lambda t: t.optimizer.param_groups[1]["lr"].fill_(1),
    "tensor lr exchanged": _replace_lr,
    "group key added": lambda t: t.optimizer.param_groups[0].update(new=1),
    "group key removed": lambda t: t.optimizer.param_groups[0].pop("weight_decay"),
    "group added": lambda t: t.optimizer.add_param_group({"params": [t.model.layers[0].bias]}),
    "group reordered": lambda t: t.optimizer.param_groups[1]["params"].reverse(),
    "group removed": lambda t: t.optimizer.param_groups.pop(),
    "scheduler": lambda t: t.others[0].step(),
    "scaler": lambda t: t.others[1].set_growth_interval(7),
    "scaler in a step": _scale,
    "own object's tensor": lambda t: t.others[2].kept["shadow"][0].add_(1),
    "own object's list": lambda t: t.others[2].kept["shadow"].pop(),
    "own object's set": lambda t: t.others[2].kept["names"].add("b"),
    "generator": lambda t: torch.rand(1, generator=t.others[3]),
    "tensor": lambda t: t.others[4].add_(1),
    "random state of torch": lambda t: torch.rand(1),
    "random state of random": lambda t: random.random(),
    "random state of numpy": lambda t: np.random.rand(),
}

# Those that any training of `trainings` can suffer.
ANYWHERE = [
    "a step", "weight", "frozen weight", "non-persistent buffer", "grad dropped", "thawed",
    "parameter added", "buffer added", "module exchanged", "optimizer state emptied",
    "optimizer state added", "lr", "group key added", "random state of torch",
]  # fmt: skip


@st.composite
def trainings(draw):
    """A recipe: called, it makes the same small training each time."""
    net = draw(
        st.fixed_dictionaries(
            {"depth": st.integers(1, 3)}
            | {key: st.booleans() for key in ("norm", "tied", "frozen")}
            | {"dropout": st.sampled_from([0.0, 0.5])}
        )
    )
    kind, options = draw(
        st.sampled_from([("SGD", {}), ("SGD", {"momentum": 0.9}), ("AdamW", {"amsgrad": True})])
    )
    steps, seed = draw(st.integers(0, 2)), draw(st.integers(0, 99))

    def make():
        torch.manual_seed(seed)
        model = Net(**net)
        training = Training(
            model, getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
        )
        for _ in range(steps):
            training.step()
        return training

    return make
