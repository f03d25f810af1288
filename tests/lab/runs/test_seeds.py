"""Many runs as one program: the numbers of separate runs, paired, and deaf to each other."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.initialization import initialize_
from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.arms import make_rule, read_arms
from nbkit.lab.runs.assembly import make_update
from nbkit.lab.runs.programs import Plan, identify_program
from nbkit.lab.runs.seeds import Runs, train_runs

SEEDS = (3, 1, 4)
ARMS = {
    "plain": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "scheduled": {"lr": 0.2, "momentum": 0.5, "schedule": lambda step: 1 / (step + 1)},
}


def small():
    return mlp(depth=2, width=16)


def exact(data: Data) -> Data:
    return Data(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)


def run(make_model=small, data=None, arms=ARMS, seeds=SEEDS, steps=20, **options) -> Runs:
    """All the steps of it."""
    data = data or digits()
    options = {"batch_size": 32, **options}
    *_, runs = train_runs(make_model, data, arms, seeds, steps=steps, **options)
    return runs


# Equal to separate runs


def test_separate_runs_are_the_loop_written_by_hand():
    runs = run(vectorize=False)
    for row, arm in enumerate(ARMS.values()):
        for column, seed in enumerate(SEEDS):
            torch.manual_seed(seed)
            model = small()
            sgd = torch.optim.SGD(model.parameters(), arm["lr"], arm.get("momentum", 0))
            schedule = arm.get("schedule", lambda step: 1.0)
            scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, schedule)
            losses = []
            for x, y in digits().batches(32, seed=seed, steps=20):
                sgd.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                sgd.step()
                scheduler.step()
                losses.append(loss.item())
            assert runs.losses[row, column].tolist() == losses


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str
)
def test_stacked_runs_are_separate_runs(dtype, tolerance):
    data = digits() if dtype == torch.float32 else exact(digits())
    together, apart = (
        run(lambda: small().to(dtype), data, steps=50, vectorize=vectorize)
        for vectorize in (True, False)
    )
    assert together.losses.dtype == dtype and together.losses.shape == (3, 3, 50)
    torch.testing.assert_close(together.losses, apart.losses, rtol=tolerance, atol=0)
    torch.testing.assert_close(together.final(), apart.final(), rtol=tolerance, atol=0)
    for one, other in zip(
        together.evaluate(data.x_test, data.y_test),
        apart.evaluate(data.x_test, data.y_test),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=0, check_dtype=False)


RULES = {
    "adam": {"lr": 0.01, "optimizer": "adam"},
    "nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "decayed": {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1},
    "clipped": {"lr": 0.3, "max_norm": 0.2},
    "smoothed": {"lr": 0.1, "label_smoothing": 0.2},
    "plain": {"lr": 0.1, "max_norm": math.inf},
    "adam, all": {
        "lr": 0.02,
        "optimizer": "adam",
        "betas": (0.5, 0.9),
        "eps": 1e-3,
        "weight_decay": 0.1,
        "max_norm": 0.1,
        "schedule": lambda step: 1 / (step + 1),
    },
    "adamw": {"lr": 0.01, "optimizer": "adamw"},
    "adamw, all": {
        "lr": [0.01, 0.02, 0.03],
        "optimizer": "adamw",
        "weight_decay": 1.0,
        "label_smoothing": 0.1,
        "schedule": lambda step: 1 / (step + 1),
    },
}


def by_hand(arm, seed, column, steps):
    """Losses of one run, written with nothing of the kit but the order of its batches."""
    arm = dict(arm)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind = kind[arm.pop("optimizer", "sgd")]
    max_norm, smoothing = arm.pop("max_norm", math.inf), arm.pop("label_smoothing", 0.0)
    schedule = arm.pop("schedule", lambda step: 1.0)
    lr = arm["lr"][column] if isinstance(arm["lr"], list) else arm["lr"]
    torch.manual_seed(seed)
    model = small().double()
    optimizer = kind(model.parameters(), **{**arm, "lr": lr})
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    losses = []
    for x, y in exact(digits()).batches(32, seed=seed, steps=steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y, label_smoothing=smoothing)
        loss.backward()
        if max_norm < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("vectorize", "steps"), [(True, 50), (False, 10)])
def test_every_optimizer_and_option_is_torchs_own(vectorize, steps):
    """All arms in one call: two programs, and in each of them arms that leave its options out."""
    make = lambda: small().double()  # noqa: E731
    runs = run(make, exact(digits()), RULES, steps=steps, vectorize=vectorize)
    for row, arm in enumerate(RULES.values()):
        for column, seed in enumerate(SEEDS):
            expected = torch.tensor(by_hand(arm, seed, column, steps), dtype=torch.float64)
            torch.testing.assert_close(runs.losses[row, column], expected, rtol=1e-10, atol=0)


def test_a_norm_that_overflows_clips_only_where_clipping_is_wanted():
    """The second run's norm is beyond float32: it is measured in float64, as one model's is."""
    rules = [
        make_rule(lr=1e-30),
        make_rule(lr=1e-30, max_norm=1.0),
        make_rule(lr=1.0, max_norm=5.0),
    ]
    weights = torch.zeros(3, 2)
    update = make_update(rules, [weights], steps=1)
    update(0, [torch.tensor([[1e30, 1e30], [1e30, 1e30], [3.0, 4.0]])])
    half = 1e-30 / math.sqrt(2)
    expected = torch.tensor([[-1.0, -1.0], [-half, -half], [-3.0, -4.0]])
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_every_optimizer_and_option_agrees_in_float32():
    together, apart = (run(arms=RULES, steps=50, vectorize=way) for way in (True, False))
    torch.testing.assert_close(together.losses, apart.losses, rtol=1e-4, atol=0)
    x, y = digits().x_test, digits().y_test
    torch.testing.assert_close(
        together.evaluate(x, y)[0], apart.evaluate(x, y)[0], rtol=1e-4, atol=0
    )


class Residual(nn.Module):
    """A forward of one's own, around layers of torch."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Last(nn.Module):
    """The last output of a recurrent layer over the rows of the picture."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


def pictures():
    """No bias just before a BatchNorm: its gradient is 0, and Adam makes steps of the rounding."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8), nn.Tanh()),
        *(Residual(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 10)),
    )


def sequence():
    return nn.Sequential(
        nn.Unflatten(1, (8, 8)),
        *(nn.Conv1d(8, 6, 3, bias=False), nn.BatchNorm1d(6), nn.GELU(), nn.MaxPool1d(2)),
        *(nn.AvgPool1d(2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 10)),
    )


def transformer():
    return nn.Sequential(
        *(nn.Embedding(17, 6, padding_idx=0), Residual(nn.LayerNorm(6), Attention())),
        *(Residual(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), nn.Flatten()),
        nn.Linear(96, 10),
    )


def recurrent(layer):
    def make():
        return nn.Sequential(
            nn.Unflatten(1, (8, 8)), Last(layer(8, 8, batch_first=True)), nn.Linear(8, 10)
        )

    return make


class Times(Last):
    """The outputs of a recurrent layer at all times."""

    def forward(self, x):
        return self.layer(x)[0]


class Loop(Last):
    """The outputs of a cell at all times."""

    def forward(self, x):
        state, outputs = None, []
        for now in x.unbind(1):
            state = self.layer(now, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


def cell(layer):
    def make():
        return nn.Sequential(
            nn.Unflatten(1, (4, 16)), Loop(layer(16, 6)), nn.Flatten(), nn.Linear(24, 10)
        )

    return make


def deep_lstm():
    lstm = nn.LSTM(16, 4, 2, batch_first=True, bidirectional=True)
    return nn.Sequential(nn.Unflatten(1, (4, 16)), Times(lstm), nn.Flatten(), nn.Linear(32, 10))


def norms():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, bias=False)),
        *(nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4, bias=False)),
        *(nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.LayerNorm(32, elementwise_affine=False), nn.Linear(32, 10)),
    )


NETS = {
    "pictures": pictures,
    "sequence": sequence,
    "transformer": transformer,
    "rnn": recurrent(nn.RNN),
    "gru": recurrent(nn.GRU),
    "lstm": recurrent(nn.LSTM),
    "deep lstm": deep_lstm,
    "rnn cell": cell(nn.RNNCell),
    "gru cell": cell(nn.GRUCell),
    "lstm cell": cell(nn.LSTMCell),
    "norms": norms,
}
THREE = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "max_norm": 1.0},
    "adam": {"lr": 0.003, "optimizer": "adam"},
    "adamw": {"lr": 0.003, "optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.1},
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str
)
@pytest.mark.parametrize("name", NETS)
def test_a_net_of_any_layers_is_trained_and_evaluated_as_in_separate_runs(name, dtype, tolerance):
    data = digits()
    x_train, x_test = (x.to(dtype) for x in (data.x_train, data.x_test))
    if name == "transformer":  # grey levels as tokens
        x_train, x_test = ((16 * x[:, 24:40]).long() for x in (x_train, x_test))
    data = Data(x_train, data.y_train, x_test, data.y_test)
    together, apart = (
        run(lambda: NETS[name]().to(dtype), data, THREE, (0, 1), 50, vectorize=way, batch_size=8)
        for way in (True, False)
    )
    torch.testing.assert_close(together.losses, apart.losses, rtol=tolerance, atol=0)
    found, expected = (runs.evaluate(data.x_test, data.y_test)[0] for runs in (together, apart))
    torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=0)


def test_a_parameter_that_nothing_uses_stays_what_it_is():
    """As in torch: no gradient, no decay. And a frozen one is not decayed either."""

    def make():
        model = small()
        model[0].weight.requires_grad_(False)
        model.register_parameter("unused", nn.Parameter(torch.ones(3)))
        return model

    arms = {"sgd": {"lr": 0.1, "weight_decay": 0.5, "max_norm": 0.1}}
    together, apart = (run(make, arms=arms, vectorize=way) for way in (True, False))
    torch.testing.assert_close(together.losses, apart.losses, rtol=1e-4, atol=0)


def test_frozen_and_missing_biases_are_as_in_separate_runs():
    def make():
        model = nn.Sequential(nn.Linear(64, 8, bias=False), nn.Tanh(), nn.Linear(8, 10))
        model[2].bias.requires_grad_(False)
        return model

    together, apart = run(make), run(make, vectorize=False)
    torch.testing.assert_close(together.losses, apart.losses, rtol=1e-4, atol=0)


@pytest.mark.parametrize("vectorize", [True, False])
def test_an_arm_may_have_an_lr_for_each_seed(vectorize):
    lrs = [0.02, 0.1, 0.3]
    together = run(arms={"each": {"lr": lrs}}, vectorize=vectorize)
    for column, (seed, lr) in enumerate(zip(SEEDS, lrs, strict=True)):
        alone = run(arms={"one": {"lr": lr}}, seeds=[seed], vectorize=vectorize)
        torch.testing.assert_close(together.losses[0, column], alone.losses[0, 0])


def test_images_are_flattened_in_each_run():
    data = digits()
    images = Data(
        data.x_train.view(-1, 8, 8), data.y_train, data.x_test.view(-1, 8, 8), data.y_test
    )
    flat = run(data=data)
    shaped = run(lambda: nn.Sequential(nn.Flatten(), small()), images)
    assert torch.equal(flat.losses, shaped.losses)
    assert torch.equal(
        flat.evaluate(data.x_test, data.y_test)[0], shaped.evaluate(images.x_test, data.y_test)[0]
    )


# Paired


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_same_seed_gives_every_arm_the_same_weights_and_the_same_batches(vectorize):
    """At lr 0 a run's losses say its first weights and its batches, and nothing else."""
    still = {"one": {"lr": 0.0}, "two": {"lr": 0.0, "momentum": 0.9}, "three": {"lr": 0.0}}
    losses = run(arms=still, vectorize=vectorize).losses
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    assert len(set(losses[0, :, 0].tolist())) == len(SEEDS)
    assert len(set(losses[0, 0].tolist())) > 1


class Extended(nn.Module):
    """Layers that nothing uses, drawn before or after the others."""

    def __init__(self, *, shared_first):
        super().__init__()
        parts = {"body": small, "extra": lambda: nn.Linear(64, 64)}
        for name in parts if shared_first else reversed(parts):
            self.add_module(name, parts[name]())

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("shared_first", [True, False])
def test_a_model_of_an_arms_own_shares_the_weights_that_it_draws_first(shared_first):
    own = {"lr": 0.0, "model": lambda: Extended(shared_first=shared_first)}
    losses = run(arms={"plain": {"lr": 0.0}, "extended": own}, steps=5).losses
    same = torch.isclose(losses[0], losses[1], rtol=1e-5, atol=0)
    assert same.all() if shared_first else not same.any()


def test_a_seed_means_the_same_run_beside_other_seeds_and_arms():
    alone = run(arms={"plain": {"lr": 0.1}}, seeds=[1])
    beside = run()
    torch.testing.assert_close(alone.losses[0, 0], beside.losses[0, 1], rtol=1e-5, atol=0)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = run().losses
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(run().losses, first)


# Where each arm starts


def constant(model):
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)


STARTS = {
    "default": {"lr": 0.1},
    "constant": {"lr": 0.1, "init": constant},
    "kaiming": {"lr": 0.1, "init": "kaiming_normal"},
    "small": {"lr": 0.1, "init": "kaiming_normal", "gain": 0.1},
    "each": {"lr": 0.1, "init": "xavier_uniform", "gain": [0.5, 1.0, 2.0]},
    "deep": {"lr": 0.1, "model": lambda: mlp(depth=3, width=8)},
    "residual": {"lr": 0.1, "model": lambda: nn.Sequential(Residual(nn.Linear(64, 64)), small())},
}


@pytest.mark.parametrize("vectorize", [True, False])
def test_every_arm_may_start_from_its_own_weights_and_its_own_model(vectorize):
    first = run(arms=STARTS, steps=3, vectorize=vectorize).losses[..., 0]
    for row, arm in enumerate(STARTS.values()):
        for column, seed in enumerate(SEEDS):
            torch.manual_seed(seed)
            model, init, gain = arm.get("model", small)(), arm.get("init"), arm.get("gain")
            if isinstance(init, str):
                gain = gain[column] if isinstance(gain, list) else gain
                initialize_(model, init, gain=gain)
            elif init:
                init(model)
            x, y = next(iter(digits().batches(32, seed=seed)))
            expected = cross_entropy(model(x), y).detach()
            torch.testing.assert_close(first[row, column], expected, rtol=1e-5, atol=0)


def test_arms_of_different_models_train_as_if_each_were_alone():
    together = run(arms=STARTS)
    for row, (name, arm) in enumerate(STARTS.items()):
        alone = run(arms={name: arm})
        torch.testing.assert_close(together.losses[row], alone.losses[0], rtol=1e-4, atol=0)
        x, y = digits().x_test, digits().y_test
        found, expected = together.evaluate(x, y)[0][row], alone.evaluate(x, y)[0][0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_arms_that_start_alike_share_one_built_model_and_one_program():
    built = []

    def make():
        built.append(1)
        return small()

    arms = {"a": {"lr": 0.1}, "b": {"lr": 0.2, "weight_decay": 0.1}, "c": STARTS["kaiming"]}
    rules = read_arms(arms, 2, steps=1)
    run(make, arms=arms, seeds=(0, 1), steps=1)
    assert len(built) == 4
    plans = [Plan(small(), rule, digits().batches(8, seed=0)) for rule in rules]
    assert len({identify_program(plan) for plan in plans}) == 1


# A run that diverges


@pytest.mark.parametrize("lr", [1e10, 1e30])
def test_a_run_that_diverges_leaves_the_others_bit_for_bit_what_they_were(lr):
    def others(wild):
        runs = run(arms={"wild": {"lr": wild, "momentum": 0.9}, **ARMS}, steps=30)
        loss, accuracy = runs.evaluate(digits().x_test, digits().y_test)
        return runs.diverged, torch.cat([runs.losses.flatten(1), loss, accuracy], 1)[1:]

    diverged, beside_wild = others(lr)
    tame_diverged, beside_tame = others(0.01)
    assert diverged[0].all() and not diverged[1:].any() and not tame_diverged.any()
    assert beside_wild.isfinite().all()
    assert torch.equal(beside_wild, beside_tame)


@pytest.mark.parametrize("wild", [{"lr": 1e30}, {"lr": 1e30, "max_norm": 1e20}])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_diverges_disturbs_no_other_arm_of_its_program(optimizer, wild):
    kin = [name for name, arm in RULES.items() if arm.get("optimizer", "sgd")[:4] == optimizer[:4]]
    arms = {name: RULES[name] for name in kin}

    def others(first):
        both = {"optimizer": optimizer, "label_smoothing": 0.1, "weight_decay": 0.1}
        return run(arms={"first": {**both, **first}, **arms}).losses

    beside_wild, beside_tame = others(wild), others({"lr": 0.01, "max_norm": 1.0})
    assert not beside_wild[0, :, -1].isfinite().any()
    assert torch.equal(beside_wild[1:], beside_tame[1:])


@pytest.mark.parametrize("name", ["pictures", "sequence", "lstm"])
def test_a_net_that_diverges_disturbs_no_other(name):
    def others(lr):
        runs = run(NETS[name], arms={"first": {"lr": lr}, "plain": {"lr": 0.05}}, batch_size=8)
        loss, _ = runs.evaluate(digits().x_test, digits().y_test)
        return runs.losses[0, :, -1], torch.cat([runs.losses[1], loss[1, :, None]], 1)

    (ended, beside_wild), (_, beside_tame) = others(1e38), others(0.01)
    assert not ended.isfinite().any() and torch.equal(beside_wild, beside_tame)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_run_that_diverges_is_inf_from_there_on(vectorize):
    arms = {"wild": {"lr": 1e30}, "plain": {"lr": 0.1}}
    runs = run(arms=arms, vectorize=vectorize)
    assert runs.diverged.tolist() == [[True] * 3, [False] * 3]
    finite = runs.losses.isfinite()
    assert finite[1].all()
    for run_finite in finite[0].tolist():
        ended = run_finite.index(False)
        assert 1 <= ended < 5 and not any(run_finite[ended:])
    assert runs.losses[0, :, -1].tolist() == [math.inf] * 3
    loss, accuracy = runs.evaluate(digits().x_test, digits().y_test)
    assert loss[0].tolist() == [math.inf] * 3 and accuracy[0].tolist() == [0] * 3
    assert runs.final()[0].tolist() == [math.inf] * 3 and runs.final()[1].isfinite().all()


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_run_whose_last_update_broke_it_predicts_nothing(vectorize):
    runs = run(arms={"wild": {"lr": 1e30}}, steps=1, vectorize=vectorize)
    assert runs.losses.isfinite().all()  # taken before that update
    loss, accuracy = runs.evaluate(digits().x_test, digits().y_test)
    assert loss.tolist() == [[math.inf] * 3] and accuracy.tolist() == [[0] * 3]


@pytest.mark.parametrize("ending", [math.inf, math.nan, -math.inf])
def test_a_loss_that_becomes_finite_again_does_not_bring_the_run_back(ending):
    runs = Runs(["arm"], [0, 1], 3, lambda x: x, torch.zeros(()))
    for losses in [[1.0, 1.0], [ending, 2.0], [3.0, 3.0]]:
        runs._record_losses(torch.tensor(losses))
    assert runs.losses.tolist() == [[[1, math.inf, math.inf], [1, 2, 3]]]


# An iterator


def test_it_yields_the_same_object_grown_and_can_be_abandoned():
    iterator = train_runs(small, digits(), ARMS, SEEDS, steps=10, batch_size=32)
    first = next(iterator)
    assert first.step == 1 and first.losses.shape == (3, 3, 1)
    kept = first.losses.clone()
    second = next(iterator)
    assert second is first and second.losses.shape == (3, 3, 2)
    assert torch.equal(second.losses[..., :1], kept)
    iterator.close()
    assert first.evaluate(digits().x_test, digits().y_test)[0].shape == (3, 3)


def test_evaluating_on_the_way_changes_nothing():
    watched = None
    for watched in train_runs(small, digits(), ARMS, SEEDS, steps=20, batch_size=32):
        watched.evaluate(digits().x_test, digits().y_test)
    assert torch.equal(watched.losses, run().losses)


@pytest.mark.parametrize("vectorize", [True, False])
def test_evaluate_is_the_mean_over_all_samples(vectorize):
    data = digits()
    runs = run(arms={"still": {"lr": 0.0}}, steps=1, vectorize=vectorize)
    loss, accuracy = runs.evaluate(data.x_train, data.y_train)  # more than one chunk
    for column, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        logits = small()(data.x_train)
        expected = cross_entropy(logits, data.y_train)
        torch.testing.assert_close(loss[0, column], expected, rtol=1e-5, atol=0)
        right = (logits.argmax(1) == data.y_train).float().mean()
        assert accuracy[0, column].item() == pytest.approx(right.item())


def test_final_is_the_mean_of_the_last_losses():
    runs = run()
    assert torch.equal(runs.final(), runs.losses[..., 18:].mean(-1))
    assert torch.equal(runs.final(tail=1), runs.losses.mean(-1))
    assert torch.equal(runs.final(tail=0.01), runs.losses[..., -1])


def test_runs_say_their_arms_and_seeds():
    runs = run(steps=1, seeds=range(2))
    assert runs.arms == ("plain", "momentum", "scheduled") and runs.seeds == (0, 1)


# One by one


class Odd(nn.Module):
    """Nothing that is batched: a convolution, BatchNorm and Dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
        )
        self.layers[2].eval()
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(144, 10))

    def forward(self, x):
        return self.head(self.layers(x))


def test_any_model_is_trained_one_by_one_and_evaluated_without_dropout():
    runs = run(Odd, vectorize=False, steps=5, seeds=[0])
    again, (loss, _) = (runs.evaluate(digits().x_test, digits().y_test) for _ in range(2))
    assert torch.equal(again[0], loss) and loss.isfinite().all()


def test_evaluating_gives_each_layer_its_mode_back():
    modes = []

    class Watched(Odd):
        def forward(self, x):
            modes.append((self.head.training, self.layers[2].training))
            return super().forward(x)

    arms = {"a": {"lr": 0.1}}
    for runs in train_runs(Watched, digits(), arms, [0], steps=2, batch_size=8, vectorize=False):
        runs.evaluate(digits().x_test, digits().y_test)
    assert modes == [(True, False), (False, False)] * 2


def test_what_is_not_batched_is_refused_at_the_call_with_the_way_out():
    with pytest.raises(ValueError, match=r"cannot batch a Dropout that drops.*vectorize=False"):
        train_runs(Odd, digits(), ARMS, SEEDS, steps=5, batch_size=8)


# What is refused


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "arms must hold at least one, such as"),
        ({"a": {"momentum": 0.9}}, "'a' must have lr and may have optimizer, .*, got momentum"),
        ({"a": {}}, "arm 'a' must have lr .*, got nothing"),
        ({"a": {"lr": 1, "dampening": 1}}, "may have optimizer, .*schedule.*, got lr, dampening"),
        ({"a": {"lr": 1, "optimizer": "soap"}}, "one of adagrad, adam, .*sgd, got 'soap'"),
        ({"a": {"lr": 1, "betas": (0.9, 0.99)}}, "betas is for adam, adamw, .* with sgd"),
        ({"a": {"lr": 1, "eps": 1e-6}}, "eps is for adagrad, adam, .* with sgd"),
        ({"a": {"lr": 1, "optimizer": "adam", "momentum": 0}}, "momentum is for .*sgd.* with adam"),
        ({"a": {"lr": 1, "optimizer": "lion", "eps": 1}}, "eps is for .*, and .* with lion"),
        ({"a": {"lr": 1, "optimizer": "rmsprop", "alpha": 1}}, "alpha must be .* below 1, got 1"),
        ({"a": {"lr": 1, "optimizer": "nadam", "momentum_decay": -1}}, "momentum_decay .*got -1"),
        ({"a": {"lr": 1, "optimizer": "muon", "adjust_lr_fn": "rms"}}, "adjust_lr_fn .*got 'rms'"),
        ({"a": {"lr": 1, "lr_factors": 0.5}}, r"lr_factors must be a function \(name, .* got 0.5"),
        ({"a": {"lr": 1, "nesterov": True}}, "nesterov needs a momentum above 0"),
        ({"a": {"lr": 1, "weight_decay": -1}}, "weight_decay must be finite .*, got -1"),
        ({"a": {"lr": 1, "weight_decay": [0, 1]}}, "must have one weight_decay, or 3, got 2"),
        ({"a": {"lr": 1, "gain": 2.0}}, "gain is for a scheme: give init its name"),
        ({"a": {"lr": 1, "init": constant, "gain": 2.0}}, "gain is for a scheme"),
        ({"a": {"lr": 1, "init": "he"}}, "scheme must be one of zeros.*got 'he'"),
        ({"a": {"lr": 1, "max_norm": 0}}, "'a': max_norm must be above 0, got 0"),
        ({"a": {"lr": 1, "max_norm": None}}, "'a': max_norm must be a number, got None"),
        ({"a": {"lr": 1, "label_smoothing": 1.5}}, "label_smoothing must be from 0 to 1, got 1.5"),
        ({"a": {"lr": 1, "optimizer": "adam", "eps": -1}}, "eps must be finite .*, got -1"),
        ({"a": {"lr": 1, "optimizer": "adam", "betas": (0.9, 1)}}, r"betas must .*got \(0.9, 1\)"),
        ({"a": {"lr": 1, "optimizer": "adam", "betas": 0.9}}, "betas must be two .*, got 0.9"),
        ({"a": {"lr": -1}}, "finite and at least 0, got lr=-1"),
        ({"a": {"lr": math.nan}}, "lr=nan"),
        ({"a": {"lr": [0.1, 0.2]}}, "'a' must have one lr, or 3, got 2"),
        ({"a": {"lr": [0.1, None, 0.2]}}, "'a': lr must be a number, got None"),
        ({"a": {"lr": 1, "momentum": -0.5}}, "momentum must be finite .*, got -0.5"),
        ({"a": {"lr": 1, "schedule": lambda step: 2.0 - step}}, "scheduled from -2.0 to 2.0"),
    ],
)
def test_arms_that_cannot_be_read_are_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        train_runs(small, digits(), arms, SEEDS, steps=5, batch_size=8)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_no_seed_and_one_seed_twice_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds must be different whole numbers, at least one"):
        train_runs(small, digits(), ARMS, seeds, steps=5, batch_size=8)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size must be from 1 to 1497"):
        train_runs(small, digits(), ARMS, SEEDS, steps=5, batch_size=2000)


def test_one_model_for_all_seeds_is_refused():
    model = small()
    with pytest.raises(ValueError, match="make_model must build a new model at each call"):
        train_runs(lambda: model, digits(), ARMS, SEEDS, steps=5, batch_size=8)


@pytest.mark.parametrize("tail", [0, 1.5, -1])
def test_a_tail_that_is_no_share_is_refused(tail):
    with pytest.raises(ValueError, match="tail must be above 0 and at most 1"):
        run(steps=1).final(tail)


# On a GPU


@pytest.mark.gpu
def test_on_a_gpu_the_runs_are_the_same():
    data = exact(digits())
    make = lambda: small().double()  # noqa: E731
    here, there = run(make, data), run(make, data.to("cuda"))
    assert there.losses.is_cuda and there.diverged.is_cuda
    torch.testing.assert_close(there.losses.cpu(), here.losses, rtol=1e-8, atol=0)
    loss, accuracy = there.evaluate(*(t.cuda() for t in (data.x_test, data.y_test)))
    expected = here.evaluate(data.x_test, data.y_test)
    torch.testing.assert_close(loss.cpu(), expected[0], rtol=1e-8, atol=0)
    assert torch.equal(accuracy.cpu(), expected[1])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["pictures", "gru"])
def test_on_a_gpu_other_layers_and_optimizers_are_those_of_separate_runs(name):
    data = exact(digits()).to("cuda")
    together, apart = (
        run(lambda: NETS[name]().double(), data, THREE, (0, 1), 20, vectorize=way)
        for way in (True, False)
    )
    torch.testing.assert_close(together.losses, apart.losses, rtol=1e-8, atol=0)


@pytest.mark.gpu
def test_on_a_gpu_a_run_that_diverges_leaves_the_others_bit_for_bit_what_they_were():
    wild, tame = (
        run(data=digits("cuda"), arms={"wild": {"lr": lr}, **ARMS}).losses for lr in (1e30, 0.01)
    )
    assert not wild[0, :, -1].isfinite().any() and torch.equal(wild[1:], tame[1:])
