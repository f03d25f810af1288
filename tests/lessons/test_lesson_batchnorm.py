"""The networks of the lesson batchnorm compute what an ordinary loop does; measuring is safe."""

from itertools import pairwise

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from nbkit import BNVerdict, bn_gap, digest, freeze_bn_, reestimate_bn_
from nbkit.lab import plots
from nbkit.lab.data import digits
from nbkit.lab.signal_data import signals
from nbkit.lessons.batchnorm import lab, pictures, task, transfer
from nbkit.lessons.batchnorm.side_by_side import SideBySide, train_networks

TRAINING = {"lr": 0.02, "steps": 5, "batch_size": 16}


@pytest.fixture
def data():
    return digits()


def side_by_side(data, seeds=(3, 7), **options):
    nets = SideBySide(seeds, **options)
    for _ in nets.train_networks(data, **TRAINING):
        pass
    return nets


def test_side_by_side_is_each_network_trained_alone(data):
    nets = side_by_side(data, depth=2, momentum=0.3)
    x, y = data.x_test, data.y_test
    evaluated = (
        nets.measure_accuracies(x, y),
        nets.measure_accuracies(x, y, train=True, batch_size=4),
    )
    for run, seed in enumerate(nets.seeds):
        alone = task.train_bn_net(seed, data, depth=2, momentum=0.3, **TRAINING)
        assert task.measure_accuracy(alone.eval(), x, y) == pytest.approx(float(evaluated[0][run]))
        assert task.measure_accuracy(alone.train(), x, y, 4) == pytest.approx(
            float(evaluated[1][run])
        )


def test_micro_batches_side_by_side_give_each_network_its_own_gradient(data):
    nets = SideBySide((3, 7), depth=1)
    x, y = next(iter(nets.stack_batches(data, steps=1, batch_size=8)))
    nets.sum_losses(x[:, :4], y[:, :4], torch.tensor([1.0, 0.5])).backward()
    last = list(nets.model.parameters())[-2]  # the weights of the last Linear, a matrix a run
    for run, seed in enumerate(nets.seeds):
        torch.manual_seed(seed)
        alone = task.build_bn_net(depth=1)
        assert torch.equal(x[run], next(iter(data.batches(8, seed=seed)))[0])
        nn.functional.cross_entropy(alone(x[run, :4]), y[run, :4]).backward()
        expected = alone[-1].weight.grad * (1.0, 0.5)[run]
        assert torch.allclose(last.grad[run].mT, expected, atol=1e-6)


def test_looking_changes_nothing(data):
    nets = side_by_side(data, depth=2)
    model = task.build_bn_net(depth=2)
    before = digest(nets.model), digest(model)
    nets.measure_accuracies(data.x_test, data.y_test, train=True, batch_size=4)
    task.measure_accuracy(model, data.x_test, data.y_test, 4)
    task.measure_input_mean(model, 4, data.x_train, channel=0)
    task.measure_spreads(model, data.x_test)
    assert (digest(nets.model), digest(model)) == before
    assert model.training
    assert nets.model.training


def test_each_network_may_have_its_own_lr(data):
    """A loss times its lr, and a step of 1, is a step of that lr."""
    nets = SideBySide((3, 7), depth=2)
    for _ in nets.train_networks(data, lr=[0.01, 0.05], steps=5, batch_size=16):
        pass
    for run, (seed, lr) in enumerate(zip((3, 7), (0.01, 0.05), strict=True)):
        alone = task.train_bn_net(seed, data, depth=2, lr=lr, steps=5, batch_size=16)
        weight = list(nets.model.parameters())[-2][run].mT
        assert torch.allclose(weight, alone[-1].weight, atol=1e-5)


def test_networks_take_the_inputs_of_their_data():
    nets = train_networks(signals(), (3,), momentum=0.1, depth=1, lr=0.02, steps=1, batch_size=8)
    assert nets.measure_accuracies(signals().x_test, signals().y_test).shape == (1,)


def test_without_tracking_eval_mode_is_train_mode(data):
    model = task.build_bn_net(depth=2, track=False)
    x, y = data.x_test, data.y_test
    in_train = task.measure_accuracy(model.train(), x, y, 10)
    assert task.measure_accuracy(model.eval(), x, y, 10) == in_train
    assert bn_gap(model, x).layers[0].verdict is BNVerdict.NO_STATISTICS


@pytest.mark.parametrize("size", [2, 7, 13, 23, 299, 300])
def test_no_sample_is_left_alone_and_none_is_lost(data, size):
    parts = list(task.split_evenly(data.x_test, data.y_test, size))
    assert torch.equal(torch.cat([x for x, _ in parts]), data.x_test)
    assert torch.equal(torch.cat([y for _, y in parts]), data.y_test)
    assert min(len(x) for x, _ in parts) >= 2
    assert max(len(x) for x, _ in parts) <= size


def test_the_halves_are_all_digits_once(data):
    low, high = task.take_classes(data, first=True), task.take_classes(data, first=False)
    assert len(low.x_test) + len(high.x_test) == len(data.x_test)
    assert set(low.y_train.tolist()) == set(high.y_train.tolist()) == set(range(5))
    assert torch.equal(low.x_test, data.x_test[data.y_test < 5])
    assert torch.equal(high.y_test + 5, data.y_test[data.y_test >= 5])


def test_an_lr_is_chosen_without_the_test_set(data):
    chosen_on = transfer.take_target(data, held_out=True)
    measured_on = transfer.take_target(data, held_out=False)
    assert len(chosen_on.x_train) == len(measured_on.x_train) == 100
    high = task.take_classes(data, first=False)
    assert torch.equal(measured_on.x_test, high.x_test)
    assert torch.equal(chosen_on.x_test, high.x_train[100:400])


def fine_tune_plainly(data, seed, *, lr, frozen):
    """One network in an ordinary loop: the reference for `fine_tune`."""
    low = task.take_classes(data, first=True)
    model = task.train_bn_net(seed, low, depth=2, classes=5, **TRAINING)
    target = transfer.take_target(data, held_out=False)
    torch.manual_seed(seed)
    model[-1] = nn.Linear(64, 5)
    if frozen:
        freeze_bn_(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    for x, y in target.batches(2, seed=seed, steps=4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    if not frozen:
        reestimate_bn_(model, [target.x_train])
    return task.measure_accuracy(model.eval(), target.x_test, target.y_test)


@pytest.mark.parametrize("frozen", [True, False])
def test_fine_tuning_side_by_side_is_each_network_tuned_alone(data, frozen):
    nets = transfer.pretrain(data, (3, 7), {"depth": 2, **TRAINING})
    target, before = transfer.take_target(data, held_out=False), digest(nets.model)
    options = {"lr": [0.001, 0.01], "frozen": frozen, "steps": 4}
    found = transfer.fine_tune(nets, target, **options)
    assert digest(nets.model) == before
    for run, (seed, lr) in enumerate(zip((3, 7), (0.001, 0.01), strict=True)):
        alone = fine_tune_plainly(data, seed, lr=lr, frozen=frozen)
        assert float(found[run]) == pytest.approx(alone, abs=0.01)


def test_each_arm_gets_the_lr_with_the_best_held_out_accuracy(data, monkeypatch):
    def fake(nets, target, *, lr, frozen, size):
        best = transfer.LRS[2 if frozen else 5]
        assert len(lr) == len(nets.seeds) == len(transfer.LRS) * len(transfer.TUNING)
        return torch.tensor([1.0 if one == best else 0.5 for one in lr])

    monkeypatch.setattr(transfer, "fine_tune", fake)
    assert transfer.tune_transfer(data, {"depth": 1, "lr": 0.02, "steps": 1, "batch_size": 8}) == {
        True: transfer.LRS[2],
        False: transfer.LRS[5],
    }


# ---- the live lab ----


@pytest.fixture
def short_lab(monkeypatch):
    monkeypatch.setattr(lab, "LOOKS", (2, 4))
    for cached in (lab.record_training, lab.measure_reestimated, lab.find_best_momentum):
        cached.cache_clear()
    yield
    for cached in (lab.record_training, lab.measure_reestimated, lab.find_best_momentum):
        cached.cache_clear()


@pytest.mark.parametrize("momentum", [0.01, 0.3])
def test_a_recording_has_the_statistics_of_a_training_with_that_momentum(data, short_lab, momentum):
    recording = lab.record_training(16, (3, 7))
    recording.restore(4, momentum)
    real = train_networks(data, (3, 7), momentum=momentum, depth=5, lr=0.02, steps=4, batch_size=16)
    found, expected = recording.nets.model.state_dict(), real.model.state_dict()
    for name, tensor in expected.items():
        if "num_batches" not in name:
            assert torch.allclose(found[name], tensor, atol=1e-5), name


def test_the_lab_draws_what_it_measures_and_its_axes_stay(data, short_lab):
    values = {"batch_size": 16, "shift": 0.0, "best_momentum": True, "seeds": range(2)}
    frames = []
    for momentum in (0.001, 0.5):
        fig = Figure()
        running = lab.draw_lab(fig, bn_momentum=momentum, **values)
        while True:
            try:
                next(running)
            except StopIteration as end:
                assert "seeds" in end.value or "re-estimated" in end.value
                break
        frames.append([(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes])
        names = {text.get_text() for text in fig.axes[0].texts}
        assert {"as trained", "re-estimated", "best momentum"} <= names
    assert frames[0] == frames[1]


@pytest.mark.parametrize(
    ("left", "again", "values", "said"),
    [
        ([0.9, 0.91, 0.92], [0.9, 0.92, 0.91], {}, "no difference of 5%"),
        ([0.9, 0.91, 0.92], [0.9, 0.92, 0.91], {"batch_size": 8}, "goal 1 reached: no difference"),
        ([0.6, 0.61, 0.62], [0.9, 0.91, 0.93], {}, "re-estimated is better by 30%"),
        (
            [0.6, 0.61, 0.62],
            [0.9, 0.91, 0.93],
            {"batch_size": 8, "bn_momentum": 0.9},
            "goal 2 reached",
        ),
        (
            [0.6, 0.61, 0.62],
            [0.9, 0.91, 0.93],
            {"shift": 0.5, "bn_momentum": 0.1},
            "goal 3 reached",
        ),
        ([0.1, 0.5, 0.9], [0.9, 0.5, 0.2], {}, "no difference"),
    ],
)
def test_the_status_line_has_a_margin_and_names_goals(left, again, values, said):
    settings = {"bn_momentum": 0.01, "batch_size": 64, "shift": 0.0} | values
    assert lab.describe_gain(left, again, **settings).startswith(said)


def test_a_shift_moves_every_grey_level_and_no_label(data):
    moved = task.brighten_images(data, 0.5)
    assert torch.equal(moved.x_train, data.x_train + 0.5)
    assert torch.equal(moved.x_test, data.x_test + 0.5)
    assert torch.equal(moved.y_test, data.y_test)


def test_the_first_batchnorm_takes_a_brightness_away(data):
    """Linear turns the brightness into one constant a channel, and BatchNorm subtracts the mean."""
    first = task.build_bn_net(depth=1)[:2].train()
    plain, moved = first(data.x_test), first(data.x_test + 0.5)
    assert torch.allclose(plain, moved, atol=1e-3)


def test_in_eval_mode_the_signal_shrinks_and_spreads_are_standard_deviations(data):
    model = task.build_bn_net(depth=2)
    shares, spreads = task.measure_modes(model, data)
    assert spreads["train"] == pytest.approx([1.0, 1.0], abs=0.02)
    # Untrained running statistics are mean 0 and variance 1: eval mode changes nothing but eps.
    with torch.no_grad():
        first = model[0](data.x_test)
    assert spreads["eval"][0] == pytest.approx(float(first.var(0).mean().sqrt()), rel=1e-3)
    assert set(shares) == {"train", "eval"}


def test_one_channel_is_followed_by_plain_moving_averages(data):
    batches, truth, running = task.follow_channel(data, [0.1, 1.0], lr=0.02)
    assert len(batches) == len(truth) == 80
    assert running[1.0][1:] == pytest.approx(batches)
    for (before, after), batch in zip(pairwise(running[0.1]), batches, strict=True):
        assert after == pytest.approx(0.9 * before + 0.1 * batch)


def test_the_freezes_of_the_bug_hunt(data):
    moved = set()
    for letter, freeze in task.FREEZES.items():
        model = task.build_bn_net(depth=1)
        freeze(model)
        model(data.x_train)
        if not model[1].running_mean.eq(0).all():
            moved.add(letter)
    assert moved == {"a"}


def test_bars_are_the_larger_gap_of_each_layer_and_long_ones_are_cut(data, ax):
    report = reestimate_bn_(task.build_bn_net(depth=3), [data.x_train])
    assert pictures.draw_layer_gaps(ax, {"as trained": report}, widest=2.0) is ax
    widest = [max(one.mean_gap, one.var_gap) for one in report.layers]
    assert [bar.get_width() for bar in ax.patches] == [min(gap, 2.0) for gap in widest]
    assert len(ax.texts) == sum(gap > 2.0 for gap in widest) > 0
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "layer 1",
        "layer 2",
        "layer 3",
    ]


def test_curves_have_the_colours_of_their_names(ax):
    looks = {
        name: [torch.full((2,), level), torch.full((2,), level + 0.1)]
        for name, level in (("as trained", 0.2), ("re-estimated", 0.8))
    }
    assert pictures.draw_accuracies(ax, [30, 60], looks) is ax
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert [line.get_color() for line in thick] == [plots.BASELINE, plots.TECHNIQUE]
    assert thick[0].get_ydata().tolist() == pytest.approx([0.2, 0.3])


def test_the_failure_shows_both_shares():
    fig = pictures.draw_failure({"train": 0.96, "eval": 0.3}, {"train": [1, 1], "eval": [0.3, 0.1]})
    left, right = fig.axes
    assert [text.get_text() for text in left.texts] == ["96% right", "30% right"]
    assert [list(line.get_ydata()) for line in right.lines] == [[1, 1], [0.3, 0.1]]


def test_moving_averages_show_what_they_are_given(ax):
    late = {m: [0.0, m, 2 * m] for m in (0.01, 0.1, 0.6)}
    assert pictures.draw_moving_averages(ax, [1.0, 2.0], [1.5, 1.5], late) is ax
    assert [list(line.get_ydata()) for line in ax.lines[1:4]] == list(late.values())
    assert list(ax.lines[-1].get_ydata()) == [1.5, 1.5]
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["each batch", *(f"momentum {m:g}" for m in late), "all the data"]
