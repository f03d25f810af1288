"""What lesson 6 brings along: its networks, its mistakes, its account of memory, its pictures."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.accumulation import pictures, task


@pytest.fixture(scope="module")
def data():
    return digits()


def flat_gradient(model, x, y):
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_network_and_another_one_does_not():
    assert task.have_equal_weights(task.start_training(0)[0], task.start_training(0)[0])
    assert not task.have_equal_weights(task.start_training(0)[0], task.start_training(1)[0])


def test_an_epoch_holds_every_sample_once_and_ends_ragged(data):
    batches = task.shuffle_epoch(data, 8, seed=0)
    assert [len(y) for _, y in batches] == [8] * 187 + [1]
    seen = torch.cat([x for x, _ in batches])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, data.x_train.tolist()))
    assert torch.equal(batches[3][0], task.shuffle_epoch(data, 8, seed=0)[3][0])


def test_micro_gradients_are_those_of_a_plain_loop(data):
    model, _ = task.start_training(0)
    x, y = data.x_train[:27], data.y_train[:27]
    together = task.compute_micro_gradients(model, x, y, size=8)
    assert together.shape[0] == 3
    for row, start in zip(together, (0, 8, 16), strict=True):
        alone = flat_gradient(model, x[start : start + 8], y[start : start + 8])
        assert torch.allclose(row, alone, atol=1e-6)


def test_the_mean_decrease_is_that_of_plain_steps(data):
    model, _ = task.start_training(0)
    x, y = data.x_train[:64], data.y_train[:64]
    gradients = task.compute_micro_gradients(model, x, y, size=32)
    found = task.measure_mean_decrease(model, gradients, x, y, [0.1, 0.3])

    before = [p.detach().clone() for p in model.parameters()]
    for lr, decrease in zip([0.1, 0.3], found, strict=True):
        left = []
        for gradient in gradients:
            trial = task.build_net()
            trial.load_state_dict(model.state_dict())
            pieces = gradient.split([p.numel() for p in trial.parameters()])
            with torch.no_grad():
                for p, g in zip(trial.parameters(), pieces, strict=True):
                    p -= lr * g.view_as(p)
                left.append(cross_entropy(trial(x), y))
        with torch.no_grad():
            expected = cross_entropy(model(x), y) - torch.stack(left).mean()
        assert decrease == pytest.approx(float(expected), abs=1e-5)
    assert all(map(torch.equal, before, model.parameters()))


SIZES, EXACT, THIRDS = [8, 8, 2], [8 / 18, 8 / 18, 2 / 18], [1 / 3] * 3


def test_the_right_weights_have_the_windows_gradient_and_each_mistake_does_not(data):
    windows = list(data.batches(18, seed=0, steps=1))

    def error(model, weights, step_after):
        return task.train_in_a_way(model, windows, SIZES, weights, step_after)

    assert error(task.start_training(0)[0], EXACT, [3]) < 1e-5
    assert error(task.start_training(0)[0], THIRDS, [3]) > 0.1
    assert error(task.start_training(0)[0], EXACT, [2, 3]) > 0.1
    torch.manual_seed(0)
    assert error(task.build_batchnorm_net(), EXACT, [3]) > 0.1


def test_a_step_too_early_is_one_more_step(data):
    (window,) = data.batches(18, seed=0, steps=1)
    counts = [
        len(list(task.accumulate_window(task.build_net(), window, SIZES, EXACT, after)))
        for after in ([3], [2, 3])
    ]
    assert counts == [1, 2]


def test_smaller_micro_batches_shrink_activations_alone(data):
    x, y = data.x_train[:64], data.y_train[:64]
    model = task.build_conv_net(8, 2)
    small, large = (task.measure_step_memory(model, x, y, size) for size in (8, 64))
    assert 7 < large.activations / small.activations <= 8
    assert small.batch == large.batch == 64 * (64 * 4 + 8)  # the window waits whole
    for part in ("parameters", "gradients", "optimizer_state"):
        assert getattr(small, part) == getattr(large, part)


def test_the_seed_draws_the_network():
    def shapes(seed):
        return [p.shape for p in task.draw_conv_net(seed).parameters()]

    assert shapes(3) == shapes(3)
    assert len({str(shapes(seed)) for seed in range(8)}) > 4
    assert task.draw_conv_net(0)(torch.zeros(2, 64)).shape == (2, 10)


def test_losses_are_averaged_over_whole_windows(data):
    training = train_runs(
        task.build_net, data, {"arm": {"lr": 0.1}}, range(2), steps=7, batch_size=8
    )
    *_, runs = training
    found = pictures.average_by_window(runs, 3)
    assert found.shape == (2, 2)
    assert torch.allclose(found[:, 1], runs.losses[0, :, 3:6].mean(-1))


# ---- pictures: the data that they show ----


def test_curves_stand_over_the_examples_seen(ax):
    curves = {"one": torch.full((2, 4), 0.5), "other": torch.full((2, 2), 1.0)}
    pictures.draw_by_examples(ax, curves, 16, {"one": "red", "other": "blue"})
    assert [list(line.get_xdata()) for line in ax.lines[:1]] == [[16, 32, 48, 64]]
    assert {text.get_text() for text in ax.texts if text.get_text()} == {"one", "other"}


def test_a_curve_that_diverged_has_no_name_at_its_end(ax):
    curves = {"one": torch.full((2, 4), torch.inf), "other": torch.full((2, 4), 1.0)}
    pictures.draw_by_examples(ax, curves, 16, {"one": "red", "other": "blue"})
    assert {text.get_text() for text in ax.texts if text.get_text()} == {"other"}


def test_the_smoothness_is_relative_to_one_micro_batch(ax):
    pictures.draw_smoothness(ax, [1, 2, 4], {"arm": (torch.tensor([[8.0, 4.0, 2.0]] * 2), "red")})
    assert list(ax.lines[-1].get_ydata()) == [1.0, 0.5, 0.25]


def test_the_mistakes_have_a_dot_for_each_seed(data):
    figure, axes = plt.subplots(1, 2)
    pictures.draw_mistakes(
        axes, {"right": [1e-7, 2e-7], "wrong": [0.5, 0.7]}, {"right": [0.2, 0.3]}
    )
    assert [list(line.get_xdata()) for line in axes[0].lines] == [[1e-7, 2e-7], [0.5, 0.7]]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["right", "wrong"]
    plt.close(figure)


def test_the_search_shows_losses_by_lr_by_examples_and_by_steps():
    figure, axes = plt.subplots(1, 3)
    searched = {"a": torch.rand(2, 3, 4) + 0.1, "b": torch.rand(2, 3, 4) + 0.1}
    best = {name: losses[0] for name, losses in searched.items()}
    pictures.draw_lr_search(
        axes, [0.1, 1.0], searched, best, {"a": 8, "b": 64}, {"a": "red", "b": "blue"}
    )
    assert list(axes[1].lines[0].get_xdata()) == [512, 1024, 1536, 2048]
    assert list(axes[2].lines[0].get_xdata()) == [64, 128, 192, 256]
    plt.close(figure)


def test_the_memory_pictures_add_up(ax, data):
    x, y = data.x_train[:16], data.y_train[:16]
    model: nn.Module = task.build_conv_net(8, 2)
    pictures.draw_memory_bars(ax, model, x, y, size=4)
    total = task.measure_step_memory(model, x, y, 4).total / 1024
    fixed, growing = ax.patches[2:]
    assert fixed.get_width() + growing.get_width() == pytest.approx(total)
    ax.clear()
    pictures.draw_memory_curve(ax, model, x, y, sizes=[4, 16])
    assert ax.lines[0].get_ydata()[0] == pytest.approx(total)


def test_the_worth_of_a_step_stands_beside_what_is_needed(ax):
    brings = {"one": [torch.tensor([0.5, 1.0])], "eight": [torch.tensor([1.0, 3.0])]}
    pictures.draw_step_worth(ax, [0.1, 1.0], brings, needed=8)
    assert [8.0, 8.0] in [list(line.get_ydata()) for line in ax.lines]
