"""Each kind of optimizer, scheduler, scaler and object of one's own is taken back as a whole."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from trainings import undone

from nbkit.base.state import digest, preserve_state


def trained(make_optimizer, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model.parameters(), **options)
    step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = (model(torch.randn(4, 3)) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("name", ["LBFGS", "Adagrad", "RMSprop", "Rprop", "NAdam", "Adafactor"])
def test_any_optimizer_goes_on_as_if_nothing_had_been(name):
    disturbed, undisturbed = (trained(getattr(torch.optim, name), lr=0.1) for _ in range(2))
    undone(disturbed, step)
    for training in (disturbed, undisturbed):
        torch.manual_seed(1)
        step(*training)
    assert digest(*disturbed) == digest(*undisturbed)


def test_groups_and_states_are_still_the_same_objects():
    _, optimizer = trained(torch.optim.SGD, lr=0.1, momentum=0.9)

    def containers():
        groups, state = optimizer.param_groups, optimizer.state
        return groups, groups[0], groups[0]["params"], state, *state.values()

    def change(optimizer):
        optimizer.load_state_dict(optimizer.state_dict())  # torch exchanges all of them
        optimizer.state.clear()

    before = containers()
    undone([optimizer], change)
    assert all(one is other for one, other in zip(before, containers(), strict=True))


class Wrapper(torch.optim.Optimizer):
    """As sharpness-aware minimisation is often written: an optimizer that drives another one."""

    def __init__(self, params, **options):
        super().__init__(params, options)
        self.base = torch.optim.SGD(self.param_groups, **options)

    def step(self, closure):
        closure()
        self.base.step()


def test_an_optimizer_inside_an_optimizer_is_restored():
    model, optimizer = trained(Wrapper, lr=0.1, momentum=0.9)
    undone([optimizer], lambda optimizer: optimizer.base.state.clear())
    undone([model, optimizer], step)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=9),
    "WarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [1]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_brings_its_optimizer(name):
    model, optimizer = trained(torch.optim.SGD, lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    optimizer.step()
    groups, weight = [dict(group) for group in optimizer.param_groups], model.weight.clone()

    def change(scheduler):
        for _ in range(3):
            optimizer.step()
            scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])

    undone([scheduler], change)
    assert optimizer.param_groups == groups
    assert torch.equal(model.weight, weight)


def test_a_scheduler_made_in_the_block_leaves_no_trace_in_the_groups():
    _, optimizer = trained(torch.optim.SGD, lr=0.1)
    undone([optimizer], lambda optimizer: lr_scheduler.StepLR(optimizer, 1))
    assert "initial_lr" not in optimizer.param_groups[0]


def test_a_scaler_that_was_never_used_is_as_if_never_used():
    scaler = torch.amp.GradScaler("cpu")
    undone([scaler], lambda scaler: scaler.scale(torch.ones(())))
    assert scaler._scale is None


def test_a_step_left_between_unscale_and_update_can_be_taken_again():
    model, optimizer = trained(torch.optim.SGD, lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scale = scaler._scale
    for _ in range(2):  # torch raises at the second unscale_() where the first is remembered
        with pytest.raises(ValueError), preserve_state(model, optimizer, scaler):
            scaler.unscale_(optimizer)
            scaler._scale.fill_(2.0)
            raise ValueError
    assert scaler._scale is scale and scale.item() == 65536


def test_a_scaler_that_is_off_is_accepted():
    with preserve_state(torch.amp.GradScaler("cpu", enabled=False)):
        pass


# --- objects of one's own ---


class Keeper:
    """Its state_dict is what it lives on, and it lives on what it is handed."""

    def __init__(self, **kept):
        self.kept = kept

    def state_dict(self):
        return self.kept

    def load_state_dict(self, state):
        self.kept = state


def test_tensors_of_an_object_keep_their_identity():
    tensor = torch.ones(2)
    keeper = Keeper(tensor=tensor, deep=[{"tensor": tensor}])
    undone([keeper], lambda keeper: keeper.kept["tensor"].zero_())
    undone([keeper], lambda keeper: keeper.kept.update(tensor=torch.zeros(2), deep=None))
    assert keeper.kept["tensor"] is keeper.kept["deep"][0]["tensor"] is tensor


def test_an_object_that_copies_what_it_is_handed_gets_what_was_there():
    class Copier(Keeper):
        def load_state_dict(self, state):
            self.kept = {key: tensor.clone() for key, tensor in state.items()}

    copier = Copier(tensor=torch.ones(2))
    undone([copier], lambda copier: copier.kept["tensor"].zero_())
    assert copier.kept["tensor"].tolist() == [1, 1]


def test_what_an_object_was_handed_is_its_own():
    """A block in a block: the outer copy must not have become the object's state in between."""
    keeper = Keeper(deep=[1])
    with preserve_state(keeper):
        with preserve_state(keeper):
            keeper.kept["deep"].append(2)
        keeper.kept["deep"].append(3)
    assert keeper.kept == {"deep": [1]}


def test_objects_inside_a_state_are_copied_as_pickle_would():
    keeper = Keeper(
        array=np.ones(2),
        draws=random.Random(0),
        numbers=frozenset({1.5, np.float32(2)}),
        kind=torch.float16,
        function=len,
    )
    undone([keeper], lambda keeper: keeper.kept["array"].fill(0))
    undone([keeper], lambda keeper: keeper.kept["draws"].random())
    undone([keeper], lambda keeper: keeper.kept.update(kind=torch.float32))
    undone([keeper], lambda keeper: keeper.kept.update(function=max))
    assert keeper.kept["array"].tolist() == [1, 1]
    assert keeper.kept["draws"].random() == random.Random(0).random()


def test_a_loader_draws_the_same_batches_again_by_its_generator():
    loader = torch.utils.data.DataLoader(range(9), shuffle=True, generator=torch.Generator())
    with preserve_state(loader.generator):
        first = torch.cat(list(loader))
    assert torch.equal(torch.cat(list(loader)), first)
