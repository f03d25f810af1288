"""The networks of the lesson batchnorm compute what an ordinary loop does; measuring is safe."""

import math

import pytest
import torch
from torch import nn

from nbkit import BNVerdict, bn_gap, digest, reestimate_bn_
from nbkit.lab import plots
from nbkit.lab.data import digits
from nbkit.lessons.batchnorm import pictures, task

TRAINING = {"lr": 0.02, "steps": 5, "batch_size": 16}


@pytest.fixture
def data():
    return digits()


def side_by_side(data, seeds=(3, 7), **options):
    nets = task.SideBySide(seeds, **options)
    for _ in nets.train_networks(data, **TRAINING):
        pass
    return nets


def plain_gap(model, x):
    """Combine the two gaps of the library's report into one number."""
    layers = reestimate_bn_(model, x.split(100)).layers
    return sum(math.hypot(one.mean_gap, one.var_gap) for one in layers) / len(layers)


def test_side_by_side_is_each_network_trained_alone(data):
    nets = side_by_side(data, depth=2, momentum=0.3)
    x, y = data.x_test, data.y_test
    evaluated = (
        nets.measure_accuracies(x, y),
        nets.measure_accuracies(x, y, train=True, batch_size=4),
    )
    gaps = nets.measure_gaps(data.x_train)
    for run, seed in enumerate(nets.seeds):
        alone = task.train_bn_net(seed, data, depth=2, momentum=0.3, **TRAINING)
        assert task.measure_accuracy(alone.eval(), x, y) == pytest.approx(float(evaluated[0][run]))
        assert task.measure_accuracy(alone.train(), x, y, 4) == pytest.approx(
            float(evaluated[1][run])
        )
        assert plain_gap(alone, data.x_train) == pytest.approx(float(gaps[run]), rel=1e-3)


def test_micro_batches_side_by_side_give_each_network_its_own_gradient(data):
    nets = task.SideBySide((3, 7), depth=1)
    x, y = next(iter(nets.stack_batches(data, steps=1, batch_size=8)))
    nets.sum_losses(x[:, :4], y[:, :4]).backward()
    last = list(nets.model.parameters())[-2]  # the weights of the last Linear, a matrix a run
    for run, seed in enumerate(nets.seeds):
        torch.manual_seed(seed)
        alone = task.build_bn_net(depth=1)
        assert torch.equal(x[run], next(iter(data.batches(8, seed=seed)))[0])
        nn.functional.cross_entropy(alone(x[run, :4]), y[run, :4]).backward()
        assert torch.allclose(last.grad[run].mT, alone[-1].weight.grad, atol=1e-6)


def test_looking_changes_nothing(data):
    nets = side_by_side(data, depth=2)
    model = task.build_bn_net(depth=2)
    before = digest(nets.model), digest(model)
    nets.compare_statistics(data, test_batch=4)
    nets.measure_gaps(data.x_train[:200])
    task.measure_accuracy(model, data.x_test, data.y_test, 4)
    task.measure_input_mean(model, 4, data.x_train, channel=0)
    assert (digest(nets.model), digest(model)) == before
    assert model.training
    assert nets.model.training


def test_three_ways_are_running_reestimated_and_the_batch_s_own(data):
    nets = side_by_side(data, depth=3, momentum=0.01)
    (running, again, own), report = nets.compare_statistics(data, test_batch=300)
    x, y = data.x_test, data.y_test
    assert torch.equal(running, nets.measure_accuracies(x, y))
    assert torch.equal(own, nets.measure_accuracies(x, y, train=True))
    nets.reestimate_statistics(data.x_train[:500])
    assert torch.equal(again, nets.measure_accuracies(x, y))
    assert len(report.layers) == 3


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


def test_the_halves_are_all_digits_once_and_fine_tuning_gets_few(data):
    low, high = task.take_half(data, first=True), task.take_half(data, first=False, train=100)
    assert len(low.x_test) + len(high.x_test) == len(data.x_test)
    assert set(low.y_train.tolist()) == set(high.y_train.tolist()) == set(range(5))
    assert len(high.x_train) == len(high.y_train) == 100
    assert torch.equal(low.x_test, data.x_test[data.y_test < 5])
    assert torch.equal(high.y_test + 5, data.y_test[data.y_test >= 5])


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


def test_both_ways_keeps_the_seeds_together():
    pairs = task.measure_both_ways(
        lambda seed, way, extra: 10 * seed + way + extra, [1, 2], extra=5
    )
    assert pairs == ([16, 26], [15, 25])


def test_bars_are_the_gaps_of_the_report_and_one_picture_does_not_pile_on_the_last(data, ax):
    before = reestimate_bn_(task.build_bn_net(depth=3), [data.x_train])
    for _ in range(2):
        assert pictures.draw_layer_gaps(ax, {"running": before}) is ax
    assert [bar.get_width() for bar in ax.patches] == [one.mean_gap for one in before.layers]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "BatchNorm 1",
        "BatchNorm 2",
        "BatchNorm 3",
    ]


def test_three_curves_in_the_colours_of_their_names(ax):
    looks = [[torch.full((2,), level + step / 100) for level in (0.1, 0.5, 0.9)] for step in (1, 2)]
    colors = {"running": plots.BASELINE, "re-estimated": plots.TECHNIQUE, "own": plots.BEST}
    assert pictures.draw_accuracies(ax, [6, 12], looks, colors) is ax
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert [line.get_color() for line in thick] == list(colors.values())
    assert thick[0].get_ydata().tolist() == pytest.approx([0.11, 0.12])
    named = {text.get_text(): text.get_color() for text in ax.texts if text.get_text()}
    assert named == colors


def test_dots_pairs_and_averages_show_what_they_are_given(ax):
    assert (
        pictures.draw_seed_dots(ax, [2, 4], [[0.1, 0.3, 0.2], [0.5, 0.6, 0.7]], "black", "n", at=1)
        is ax
    )
    assert ax.lines[-1].get_ydata().tolist() == pytest.approx([0.2, 0.6])
    assert ax.texts[0].xy == pytest.approx((4, 0.6))
    ax.clear()
    assert pictures.draw_seed_pairs(ax, {"without": [1.0, 2.0], "with": [3.0, 4.0]}) is ax
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 3], [2, 4], [1, 2], [3, 4]]
    assert [line.get_color() for line in ax.lines[2:]] == [plots.BASELINE, plots.TECHNIQUE]
    ax.clear()
    late = {m: [0.0, m, 2 * m] for m in (0.01, 0.1, 0.6)}
    assert pictures.draw_moving_averages(ax, [1.0, 2.0], [1.5, 1.5], late) is ax
    assert [list(line.get_ydata()) for line in ax.lines[1:4]] == list(late.values())
    assert list(ax.lines[-1].get_ydata()) == [1.5, 1.5]
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["each batch", *(f"momentum {m:g}" for m in late), "all the data"]


def test_a_gap_of_networks_without_running_statistics_is_refused(data):
    nets = task.SideBySide((3,), depth=1, track=False)
    with pytest.raises(ValueError, match="a gap needs running statistics"):
        nets.measure_gaps(data.x_train[:100])
