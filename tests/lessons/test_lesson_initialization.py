"""The lesson's data can be learned, its networks are as described, its pictures show data."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import same_color
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import init_report
from nbkit.lab import plots
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import judge
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.initialization import pictures, task

DATA = task.load_centred_digits()
LOOK = DATA.x_train[:64], DATA.y_train[:64]


@pytest.fixture
def axes():
    figure, axes = plt.subplots(1, 2)
    yield axes
    plt.close(figure)


def test_the_digits_are_centred_by_the_training_set_alone():
    assert DATA.x_train.mean(0).abs().max() < 1e-5
    assert DATA.x_train.std() == pytest.approx(1, abs=1e-4)
    assert DATA.x_test.mean(0).abs().max() > 0.01  # its own mean would have been taken off


def test_the_authors_are_always_the_same_ten_and_have_habits():
    data, again = task.make_author_data(), task.make_author_data()
    assert torch.equal(data.x_train, again.x_train) and torch.equal(data.y_test, again.y_test)
    assert data.y_train.bincount().tolist() == [150] * 10
    assert data.x_train.shape == (1500, 8) and data.x_train.max() < 200
    counts = torch.zeros(10, 200)
    for words, author in zip(data.x_train, data.y_train, strict=True):
        counts[author] += words.bincount(minlength=200)
    habits = (counts + 1).log() - (counts + 1).sum(1, keepdim=True).log()
    guesses = habits[:, data.x_test].sum(-1).argmax(0)
    assert (guesses == data.y_test).float().mean() > 0.8


@pytest.mark.parametrize("name", task.ACTIVATIONS)
def test_every_second_layer_of_the_net_is_its_activation(name):
    model = task.build_deep_net(3, name, width=8)
    assert [type(layer) for layer in model[1::2]] == [task.ACTIVATIONS[name]] * 3
    assert [layer.out_features for layer in model[::2]] == [8, 8, 8, 10]


def test_a_start_is_the_scheme_for_the_activation_times_the_gain():
    torch.manual_seed(0)
    model = task.build_deep_net(1, "tanh", width=4000)
    task.make_scaled_init("kaiming_normal", 3.0, "tanh")(model)
    assert model[0].weight.std().item() == pytest.approx(3 * 5 / 3 / math.sqrt(64), rel=0.02)
    assert not model[0].bias.any()


def test_the_reader_reads_eight_words():
    assert task.build_author_net()(task.make_author_data().x_train[:5]).shape == (5, 10)


def test_signal_and_gradient_are_drawn_layer_by_layer_and_stay_in_the_frame(axes):
    torch.manual_seed(0)
    model = task.build_deep_net(3)
    report = init_report(model, LOOK, cross_entropy)
    pictures.draw_signals(axes, report, label="own", color="red")
    assert list(axes[0].lines[0].get_ydata()) == [layer.forward_rms for layer in report.layers]
    assert list(axes[1].lines[0].get_ydata()) == [layer.backward_rms for layer in report.layers]

    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[2].weight, 1e20)
    nn.init.constant_(model[0].bias, 1.0)
    pictures.draw_signals(axes, init_report(model, LOOK, cross_entropy), label="odd", color="blue")
    odd = axes[0].lines[2].get_ydata()
    assert max(odd) == pictures.CEILING and min(odd) >= pictures.FLOOR


def test_names_of_arms_that_end_at_the_same_place_do_not_lie_on_each_other(axes):
    arms = {"one": {"lr": 0.1}, "two": {"lr": 0.1}}
    *_, runs = train_runs(
        lambda: task.build_deep_net(1), DATA, arms, range(2), steps=5, batch_size=16
    )
    pictures.draw_loss_race(
        axes[0], runs, {"one": plots.TECHNIQUE, "two": plots.BASELINE}, room=2.0
    )
    axes[0].figure.canvas.draw()
    first, second = [text.get_window_extent() for text in axes[0].texts]
    assert not first.overlaps(second)
    assert axes[0].get_xlim() == (1, 11)


def test_a_short_log_scale_has_plain_numbers_and_a_long_one_has_powers(axes):
    for ax, top in zip(axes, (3.0, 1e9), strict=True):
        ax.set(yscale="log", ylim=(0.3, top))
        pictures._write_plain_numbers(ax)
        ax.figure.canvas.draw()
    shown = [label.get_text() for label in axes[0].get_yticklabels(which="both")]
    assert {"1", "0.4"} <= set(shown)
    assert any("10^" in label.get_text() for label in axes[1].get_yticklabels())


def test_each_depth_has_its_interval_in_the_colour_of_its_verdict(axes):
    claim = Claim("id", "l", "s.", "w", "m", "ratio", "below", 8, margin=0.8)
    bounds = {2: (1.1, 1.0, 1.2), 8: (0.8, 0.7, 0.9), 20: (0.5, 0.4, 0.6)}
    verdicts = {depth: judge(claim, Interval(*b, 8)) for depth, b in bounds.items()}
    pictures.draw_effect_by_knob(axes[0], verdicts, x="hidden layers", y="ratio")
    drawn = [line for line in axes[0].lines if list(line.get_xdata()) == [20, 20]]
    assert list(drawn[0].get_ydata()) == [0.4, 0.6]
    assert same_color(drawn[0].get_color(), plots.VERDICTS["SUPPORTED"])
    told = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert told == ["refuted", "inconclusive", "supported"]


def test_one_depth_that_was_not_measured_leaves_the_others(axes):
    claim = Claim("id", "l", "s.", "w", "m", "ratio", "below", 8, margin=0.8)
    few = judge(claim, Interval(0.5, 0.4, 0.6, 3))
    pictures.draw_effect_by_knob(axes[0], {2: few}, x="x", y="y")
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["skipped"]


def test_every_run_is_a_dot_over_its_scale(axes):
    accuracies = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    colors = {"plain": plots.BASELINE, "norm": plots.TECHNIQUE}
    pictures.draw_accuracy_by_scale(axes[0], [0.5, 1.0], accuracies, colors)
    assert list(axes[0].lines[1].get_xdata()) == [0.5, 1.0]
    assert list(axes[0].lines[1].get_ydata()) == pytest.approx([0.2, 0.8])


def test_the_factor_lies_on_the_formula_and_the_shares_are_percent(axes):
    pictures.draw_signal_factors(axes[0], [1.0, 2.0], {"relu": [0.7, 1.4], "tanh": [0.9, 1.0]})
    assert list(axes[0].lines[0].get_ydata()) == pytest.approx([0.7071, 1.4142], abs=1e-3)
    assert list(axes[0].lines[1].get_ydata()) == [0.7, 1.4]
    layers = init_report(task.build_deep_net(2), LOOK, cross_entropy).layers
    pictures.draw_varying_shares(axes[1], {"a": layers, "b": layers})
    expected = [100 * layer.varying_fraction for layer in layers]
    assert list(axes[1].lines[0].get_ydata()) == pytest.approx(expected)


def test_a_report_is_of_the_network_of_seed_zero():
    torch.manual_seed(0)
    model = task.build_deep_net(2)
    expected = init_report(model, LOOK, cross_entropy)
    torch.manual_seed(5)
    found = task.report_init(lambda: task.build_deep_net(2), lambda model: None, LOOK)
    assert found.to_dict() == expected.to_dict()


def test_steps_are_counted_until_the_mean_of_the_window_is_below_the_target():
    losses = torch.tensor([[[4.0, 0.0, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0]]])
    assert task.count_steps_below(losses, 1.0, window=2) == [[3.0, 4.0]]
