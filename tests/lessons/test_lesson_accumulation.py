"""What lesson 6 brings along: its networks, its mistakes, its account of memory, its pictures."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch.nn.functional import cross_entropy

from nbkit.lab.cost.memory import memory_report
from nbkit.lab.data import digits
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.accumulation import lab, memory, pictures, task


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


def test_pieces_without_weights_add_up_to_a_step_so_many_times_as_long(data):
    x, y = data.x_train[:16], data.y_train[:16]
    model, optimizer = task.start_training(0, lr=1.0)
    gradient = flat_gradient(model, x, y)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    task.step_in_pieces(model, optimizer, x, y, pieces=4)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(before - after, 4 * gradient, atol=1e-5)


def test_an_accumulated_epoch_is_the_epoch_of_large_batches(data):
    large, optimizer = task.start_training(0)
    for x, y in task.shuffle_epoch(data, 64, seed=0):
        optimizer.zero_grad()
        cross_entropy(large(x), y).backward()
        optimizer.step()
    small, optimizer = task.start_training(0)
    task.accumulate_epoch(small, optimizer, task.shuffle_epoch(data, 8, seed=0), 8)
    assert task.have_equal_weights(large, small)


def test_a_step_is_worth_what_its_units_say(data):
    brings = task.measure_step_worth(data, [0], [0.01, 0.05])
    (one,), (eight,) = brings.values()
    assert float(one.max()) == pytest.approx(1.0)
    # A short step brings what its lr promises, noisy or not.
    assert float(eight[0]) == pytest.approx(float(one[0]), rel=0.3)


def test_one_stepper_of_the_bug_hunt_is_wrong():
    def step_plainly(n, k):
        """Count the micro-batches of a window, from 0 at its start."""
        steps, seen = [], 0
        for i in range(n):
            seen += 1
            if seen == k or i == n - 1:
                steps.append(i)
                seen = 0
        return steps

    wrong = set()
    for letter, stepper in task.STEPPERS.items():
        for n in range(1, 20):
            if stepper(n, 4) != step_plainly(n, 4):
                wrong.add(letter)
    assert wrong == {"a"}


@pytest.mark.parametrize("size", [4, 16])
def test_the_trace_peaks_at_the_activations_of_a_micro_batch(data, size):
    model = memory.build_conv_net(8, 2)
    x, y = data.x_train[:16].clone(), data.y_train[:16].clone()
    levels = memory.trace_activations(model, x, y, size)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(gradient, flat_gradient(model, x, y), atol=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    part = x[:size].clone(), y[:size].clone()
    expected = memory_report(model, part, cross_entropy, optimizer).activations
    assert levels[0] == levels[-1] == 0
    # The report counts the loss, too, and the trace the weight of the micro-batch.
    assert max(levels) == pytest.approx(expected, rel=0.02)
    # As many hills as micro-batches: the level comes back to (nearly) nothing after each.
    assert sum(1 for low in levels[1:] if low == 0) >= 1


# ---- the live lab and the third claim ----


def test_the_lab_draws_both_ways_on_axes_that_stay():
    frames = []
    for scale in (1.0, 16.0):
        figure = plt.figure()
        running = lab.draw_lab(
            figure, micro_batch=32, micro_batches=4, lr=0.05, scale=scale, seeds=range(2)
        )
        with pytest.raises(StopIteration) as end:
            while True:
                next(running)
        assert "accumulated" in end.value.value or "no difference" in end.value.value
        left = figure.axes[0]
        frames.append((left.get_xlim(), left.get_ylim()))
        assert {"accumulated", "a step each"} <= {text.get_text() for text in left.texts}
        plt.close(figure)
    assert frames[0] == frames[1]


def test_the_best_lr_is_chosen_by_other_seeds_and_measured_on_all_samples(monkeypatch, data):
    monkeypatch.setattr(lab, "BUDGET", 128)
    lab.measure_at_best.cache_clear()
    asked = {}

    def spy(make_net, data, arms, lrs, seeds, **options):
        asked.update(seeds=list(seeds), lrs=list(lrs), **options)
        return type("Found", (), {"arms": {"sgd": {"lr": 0.1, "momentum": 0.0}}})

    monkeypatch.setattr(lab, "tuned", spy)
    found = lab.measure_at_best("digits", 64, (0, 1), 0.0)
    lab.measure_at_best.cache_clear()
    assert asked["seeds"] == [100, 101, 102, 103] and asked["steps"] == 2
    for seed, loss in zip((0, 1), found, strict=True):
        model, optimizer = task.start_training(seed, lr=0.1)
        for x, y in data.batches(64, seed=seed, steps=2):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        expected = cross_entropy(model(data.x_train), data.y_train).detach()
        assert loss == pytest.approx(float(expected), rel=1e-3)


def test_smaller_micro_batches_shrink_activations_alone(data):
    x, y = data.x_train[:64], data.y_train[:64]
    model = memory.build_conv_net(8, 2)
    small, large = (memory.measure_step_memory(model, x, y, size) for size in (8, 64))
    assert 7 < large.activations / small.activations <= 8
    assert small.batch == large.batch == 64 * (64 * 4 + 8)  # the window waits whole
    for part in ("parameters", "gradients", "optimizer_state"):
        assert getattr(small, part) == getattr(large, part)


def test_the_seed_draws_the_network():
    def shapes(seed):
        return [p.shape for p in memory.draw_conv_net(seed).parameters()]

    assert shapes(3) == shapes(3)
    assert len({str(shapes(seed)) for seed in range(8)}) > 4
    assert memory.draw_conv_net(0)(torch.zeros(2, 64)).shape == (2, 10)


def test_losses_are_averaged_over_whole_windows(data):
    training = train_runs(
        task.build_net, data, {"arm": {"lr": 0.1}}, range(2), steps=7, batch_size=8
    )
    *_, runs = training
    found = pictures.average_by_window(runs, 3)
    assert found.shape == (2, 2)
    assert torch.allclose(found[:, 1], runs.losses[0, :, 3:6].mean(-1))


# ---- pictures: the data that they show ----


def test_curves_stand_over_the_examples_seen_and_divergence_at_the_edge(ax):
    curves = {"a step each": torch.full((2, 4), 0.5), "accumulated": torch.full((2, 4), torch.inf)}
    pictures.draw_by_examples(ax, curves, 16, examples=64)
    assert list(ax.lines[0].get_xdata()) == [16, 32, 48, 64]
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert set(thick[1].get_ydata()) == {pictures.HIGHEST}
    assert ax.get_ylim() == (pictures.LOWEST, pictures.HIGHEST)


def test_the_memory_picture_names_both_peaks(ax):
    pictures.draw_memory_over_time(ax, [0, 4096, 0], [0, 1024, 0, 1024, 0])
    assert [text.get_text() for text in ax.texts] == ["one batch: 4 KiB", "micro-batches: 1 KiB"]


def test_pieces_have_a_curve_each():
    figure = pictures.draw_pieces({1: [2.0, 1.0], 8: [2.3, 9.0]})
    curves = [list(line.get_ydata()) for line in figure.axes[0].lines[:2]]
    assert curves == [[2.0, 1.0], [2.3, 4.0]]
    plt.close(figure)


def test_the_worth_of_a_step_stands_beside_what_is_needed(ax):
    brings = {"one": [torch.tensor([0.5, 1.0])], "eight": [torch.tensor([1.0, 3.0])]}
    pictures.draw_step_worth(ax, [0.1, 1.0], brings, needed=8)
    assert [8.0, 8.0] in [list(line.get_ydata()) for line in ax.lines]
