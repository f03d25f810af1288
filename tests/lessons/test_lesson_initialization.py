"""The lesson's data can be learned, its networks are as described, its pictures show data."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import init_report
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.initialization import live, pictures, task

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


def test_the_factor_is_drawn_beside_the_formula(axes):
    pictures.draw_signal_factors(axes[0], [1.0, 2.0], {"relu": [0.7, 1.4], "tanh": [0.9, 1.0]})
    assert list(axes[0].lines[0].get_ydata()) == pytest.approx([0.7071, 1.4142], abs=1e-3)
    assert list(axes[0].lines[1].get_ydata()) == [0.7, 1.4]


def test_a_report_is_of_the_network_of_seed_zero():
    torch.manual_seed(0)
    model = task.build_deep_net(2)
    expected = init_report(model, LOOK, cross_entropy)
    torch.manual_seed(5)
    found = task.report_init(lambda: task.build_deep_net(2), lambda model: None, LOOK)
    assert found.to_dict() == expected.to_dict()


def test_first_gradients_are_those_of_two_networks_of_one_seed():
    """Both starts draw the same numbers, so each layer's weights differ by the factor alone."""
    norms = {0.25: [], 1.0: []}
    look = DATA.x_train[:256], DATA.y_train[:256]
    for seed in (0, 1, 2):
        for factor, found in norms.items():
            torch.manual_seed(seed)
            model = task.build_deep_net(3)  # draws first, as the lesson's network does
            for layer in model[::2]:
                nn.init.normal_(layer.weight, 0, factor * math.sqrt(2 / layer.in_features))
                nn.init.zeros_(layer.bias)
            cross_entropy(model(look[0]), look[1]).backward()
            found.append(model[0].weight.grad.norm().item())
    expected = paired_ratio(norms[0.25], norms[1.0])
    found = task.compare_first_gradients(DATA, [0, 1, 2], depth=3, factor=0.25)
    assert found.estimate == pytest.approx(expected.estimate, rel=1e-4)


def test_a_start_explodes_only_if_no_lr_saves_it(monkeypatch):
    huge = task.compare_explosions(DATA, [0, 1, 2], depth=20, factor=8)
    assert huge.estimate == 1.0
    # Without weights at all nothing can overflow, whatever the lr.
    assert task.compare_explosions(DATA, [0, 1, 2], depth=20, factor=0.5).estimate == 0.0
    # A single saving lr is enough: at an lr of 0 only the first loss is left to overflow.
    monkeypatch.setattr(task, "SGD_LRS", [0.1, 1e-30])
    assert task.compare_explosions(DATA, [0, 1, 2], depth=4, factor=8).estimate == 0.0


def test_starts_are_compared_each_at_its_best_lr():
    """With a grid of which one lr learns nothing, the other is chosen for both."""
    found = task.compare_starts(DATA, [0, 1, 2], depth=2, lrs=[1e-7, 0.003])
    arms = {}
    for name in ("kaiming_normal", "xavier_normal"):
        arms[name] = {"optimizer": "adam", "lr": 0.003, "init": name}
    *_, runs = train_runs(
        lambda: task.build_deep_net(2), DATA, arms, [0, 1, 2], steps=100, batch_size=32
    )
    expected = paired_ratio(*runs.evaluate(DATA.x_train, DATA.y_train)[0].tolist())
    assert found.estimate == pytest.approx(expected.estimate, rel=1e-3)


def test_the_spread_of_a_start_does_not_depend_on_how_it_draws():
    torch.manual_seed(0)
    normal, uniform, doubled = (task.build_deep_net(4) for _ in range(3))
    for layer in normal[::2]:
        nn.init.normal_(layer.weight, 0, 0.2)
    for layer in uniform[::2]:
        nn.init.uniform_(layer.weight, -0.2 * math.sqrt(3), 0.2 * math.sqrt(3))
    for layer in doubled[::2]:
        nn.init.normal_(layer.weight, 0, 0.4)
    assert task.compare_spreads(normal, uniform) < 1.25
    assert task.compare_spreads(doubled, uniform) == pytest.approx(2, rel=0.15)


def test_a_layer_of_relu_multiplies_by_its_gain_over_root_two():
    look = DATA.x_train[:256], DATA.y_train[:256]
    for gain in (1.0, 2.0):
        measured = task.measure_factor(gain, "relu", look)
        assert measured == pytest.approx(gain / math.sqrt(2), rel=0.1)


def test_only_pytorchs_own_start_lets_the_signal_vanish():
    vanishes = {}
    for letter, fill in task.FILLERS.items():
        vanishes[letter] = task.send_through(fill, LOOK[0]) < 1e-3
    assert vanishes == {"a": False, "b": True, "c": False}


def test_twenty_layers_learn_nothing_from_pytorchs_own_start():
    shallow, deep = task.train_default(2, DATA), task.train_default(20, DATA)
    assert sum(shallow[-10:]) < sum(shallow[:10]) / 2
    assert sum(deep[-10:]) > 0.9 * sum(deep[:10])


def test_depths_share_one_scale():
    figure = pictures.draw_depths({2: [2.3, 1.0], 20: [2.3, 2.3]})
    assert [ax.get_title() for ax in figure.axes] == ["2 hidden layers", "20 hidden layers"]
    assert [ax.get_ylim() for ax in figure.axes] == [(0, 3)] * 2
    plt.close(figure)


def run_lab(**changed):
    values = {
        "depth": 4,
        "scheme": "kaiming_normal",
        "gain": 1.0,
        "activation": "relu",
        "rival_at_its_best": False,
        "seeds": range(3),
    } | changed
    figure = plt.figure()
    fitting = live.draw_lab(figure, **values)
    while True:
        try:
            next(fitting)
        except StopIteration as end:
            return figure, end.value


def test_the_lab_trains_the_rival_at_its_own_lr_when_asked():
    for asked, names in ((False, {"yours", "PyTorch"}), (True, {"yours", "PyTorch", live.RIVAL})):
        figure, _ = run_lab(rival_at_its_best=asked)
        assert {text.get_text() for text in figure.axes[2].texts} - {"chance"} == names


def test_the_axes_of_the_lab_stay_where_they_are():
    one, other = run_lab(gain=0.25)[0].axes, run_lab(gain=4.0)[0].axes
    for ax, again in zip(one, other, strict=True):
        assert ax.get_ylim() == again.get_ylim()
