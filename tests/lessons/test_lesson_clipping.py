"""The tasks, the measurements and the pictures of 04_clipping do what the lesson says of them."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import clip_gradients_, digest
from nbkit.lab import plots
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.clipping import live, networks, pictures, task


@pytest.fixture
def batch():
    return next(iter(networks.make_adding_problem(9).batches(16, seed=0)))


@pytest.fixture
def model():
    torch.manual_seed(1)
    return networks.build_adder()


@pytest.fixture(scope="module")
def comparison():
    """Both arms at two lrs, so that it is quick; one of them is far too high."""
    data = networks.make_adding_problem(6)
    return task.train_both(
        networks.build_adder,
        data,
        task.SGD,
        [0.01, 3.0],
        [0, 1, 2],
        max_norm=0.5,
        steps=20,
        batch_size=16,
    )


# ---- the two tasks ----


def test_the_answer_is_the_sign_of_the_sum_of_the_two_marked_numbers():
    data = networks.make_adding_problem(7)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        numbers, markers, ones = x.unbind(-1)
        assert (markers[:, :3].sum(1) == 1).all() and (markers[:, 3:].sum(1) == 1).all()
        assert set(markers.unique().tolist()) == {0.0, 1.0} and (ones == 1).all()
        assert torch.equal(y, ((numbers * markers).sum(1) > 0).long())
        assert 0.4 < y.float().mean() < 0.6  # guessing costs log 2
    assert torch.equal(data.x_train, networks.make_adding_problem(7).x_train)


def test_the_adding_problem_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    networks.make_adding_problem(5)
    assert torch.equal(torch.rand(1), expected)


def test_a_sequence_too_short_for_two_marks_is_refused():
    with pytest.raises(ValueError, match="length must be at least 2, one number in each half, got"):
        networks.make_adding_problem(1)


def test_the_memory_computes_what_torchs_recurrent_layer_does(batch):
    x, _ = batch
    memory = networks.ReLUMemory(5)
    theirs = nn.RNN(3, 5, nonlinearity="relu", bias=False, batch_first=True)
    with torch.no_grad():
        memory.memory.copy_(torch.randn(5, 5))
        theirs.weight_ih_l0.copy_(memory.inputs)
        theirs.weight_hh_l0.copy_(memory.memory)
    torch.testing.assert_close(memory(x), theirs(x)[1][0])


def test_the_memory_remembers_at_the_start():
    memory = networks.ReLUMemory(4)
    assert (memory.inputs[:, -1] == 0).all() and memory.inputs[:, :2].abs().max() <= 0.5
    with torch.no_grad():
        memory.inputs[:, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0, 0], [0, 0]])
    x = torch.zeros(1, 6, 3)
    x[..., 2] = 1  # the bias: zero at the start
    x[0, 0, 0], x[0, 3, 1] = 0.25, 0.5
    assert memory(x).tolist() == [[0.25, 0.5, 0.0, 0.0]]


def test_a_unit_fires_if_one_sequence_turns_it_on(model, batch):
    x, _ = batch
    with torch.no_grad():
        model[0].inputs.zero_()
        model[0].inputs[0, 1] = 1.0  # on after the marks of every sequence
        model[0].inputs[3, 0], model[0].memory[3, 3] = 1.0, 0.0  # after a last number above 0
    assert networks.count_firing_units(model, x) == 2
    assert networks.count_firing_units(model, -x) == 1


@pytest.mark.parametrize("build", [networks.build_adder, networks.Transformer])
def test_both_networks_train_in_a_stack_as_they_do_alone(build):
    adds = build is networks.build_adder
    data = networks.make_adding_problem(6) if adds else networks.load_rows()
    arms, ends = {"a": {"lr": 0.1, "max_norm": 0.1}}, []
    for vectorize in (True, False):
        options = {"steps": 3, "batch_size": 8, "vectorize": vectorize}
        ends.append(list(train_runs(build, data, arms, [0, 1], **options))[-1].losses)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_rows_are_the_digits():
    from nbkit.lab.data import digits

    rows = networks.load_rows()
    assert rows.x_test.shape[1:] == (8, 8)
    assert torch.equal(rows.x_test.flatten(1), digits().x_test)


# ---- the measurement ----


def test_lost_is_no_better_than_guessing_or_not_finite():
    losses = torch.tensor([0.94, 0.96, math.inf, math.nan]) * math.log(10)
    assert task.find_lost_runs(losses, 10).tolist() == [False, True, True, True]


def test_each_arm_trains_at_its_best_lr_and_both_at_five_times_the_unclipped_one(comparison):
    assert comparison.found.lrs["no clipping"] == 0.01
    assert comparison.found.seeds == [100, 101, 102, 103]
    data = networks.make_adding_problem(6)
    arms = {
        "clipped": {"lr": comparison.found.lrs["clipped"], "momentum": 0.9, "max_norm": 0.5},
        "no clipping, too high": {"lr": 0.05, "momentum": 0.9},
        "clipped, too high": {"lr": 0.05, "momentum": 0.9, "max_norm": 0.5},
    }
    *_, runs = train_runs(networks.build_adder, data, arms, [0, 1, 2], steps=20, batch_size=16)
    for name, ends in zip(runs.arms, runs.final(), strict=True):
        torch.testing.assert_close(comparison.ends[name], ends)
    assert comparison.classes == 2


def test_a_comparison_is_the_mean_ratio_and_the_difference_of_lost_shares(comparison):
    ends = {
        "no clipping": torch.tensor([0.4, 0.6, 0.5]),
        "clipped": torch.tensor([0.2, 0.3, 0.4]),
        "no clipping, too high": torch.tensor([math.inf, 0.7, 0.3]),
        "clipped, too high": torch.tensor([0.3, 0.7, 0.2]),
    }
    made = task.Comparison(comparison.found, ends, classes=2)
    assert made.compare_losses().estimate == pytest.approx((0.5 * 0.5 * 0.8) ** (1 / 3))
    assert made.compare_lost().estimate == pytest.approx(1 / 3 - 2 / 3)


def test_a_cell_of_the_map_is_the_ratio_to_the_rival():
    data, size = networks.make_adding_problem(6), {"steps": 15, "batch_size": 16}
    rival = {"lr": 0.01, "momentum": 0.9}
    ratios = task.map_thresholds(data, rival, [0.01, 0.1], [0.2, 1e6], [0, 1, 2], **size)
    assert list(ratios) == [(0.01, 0.2), (0.01, 1e6), (0.1, 0.2), (0.1, 1e6)]
    assert ratios[0.01, 1e6].estimate == pytest.approx(1.0)  # a threshold that never acts
    ends = []
    for lr, limit in ((0.1, 0.2), (0.01, math.inf)):
        logs = []
        for seed in (0, 1, 2):
            model, sgd = task.start_adder(lr=lr, seed=seed)
            losses = []
            for x, y in data.batches(16, seed=seed, steps=15):
                losses.append(cross_entropy(model(x), y))
                sgd.zero_grad()
                losses[-1].backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
                sgd.step()
            logs.append(torch.stack(losses[-2:]).mean().log())
        ends.append(torch.stack(logs))
    expected = (ends[0] - ends[1]).mean().exp().item()
    assert ratios[0.1, 0.2].estimate == pytest.approx(expected, rel=1e-3)


# ---- one network ----


def test_a_recorded_training_is_torchs_own_loop():
    data = networks.make_adding_problem(6)
    settings = {"lr": 0.05, "max_norm": 0.3, "steps": 8}
    recorded = task.train_recorded(data, **settings, optimizer="sgd")
    torch.manual_seed(0)
    model = networks.build_adder()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    norms = []
    for x, y in data.batches(64, seed=0, steps=8):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
        sgd.step()
    assert recorded.history.norms == pytest.approx(norms)
    assert digest(recorded.model) == digest(model)
    adam = task.train_recorded(data, **settings, optimizer="adamw")
    assert digest(adam.model) != digest(model)


def test_the_lesson_breaks_a_network_and_clipping_spares_it():
    firing = {}
    for limit in (math.inf, 0.5):
        recorded = task.train_recorded(
            networks.make_adding_problem(10), lr=0.1, max_norm=limit, optimizer="sgd", steps=100
        )
        x = networks.make_adding_problem(10).x_test
        firing[limit] = networks.count_firing_units(recorded.model, x)
    assert firing[math.inf] < 8 <= firing[0.5]


def test_the_steepest_moment_is_the_one_of_the_longest_gradient():
    data, ends = networks.make_adding_problem(9), []
    for steps in (1, 5, 20):
        ends.append(task.find_steepest_step(data, lr=0.05, max_norm=0.5, steps=steps))
    assert ends[0][-1] <= ends[1][-1] <= ends[2][-1]
    model, x, y, norm = ends[2]
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    found = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert found == pytest.approx(norm, rel=1e-4)


def test_the_walk_starts_at_the_loss_and_falls_by_the_norm(model, batch):
    x, y = batch
    model, x = model.double(), x.double()
    before = digest(model)
    (here, near), firing = task.walk_along_gradient(model, x, y, [0.0, 1e-6])
    loss = cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert here == pytest.approx(loss.item())
    assert (here - near) / 1e-6 == pytest.approx(norm, rel=1e-3)
    assert firing[0] == networks.count_firing_units(model, x)
    assert digest(model) == before


def test_the_walk_ends_where_a_step_of_plain_sgd_would(model, batch):
    x, y = batch
    distance = 0.7
    (loss,), (units,) = task.walk_along_gradient(model, x, y, [distance])
    cross_entropy(model(x), y).backward()
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
    torch.optim.SGD(model.parameters(), lr=distance / norm).step()
    assert loss == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-4)
    assert units == networks.count_firing_units(model, x)


def test_the_first_gradient_is_handed_to_the_clip():
    data = networks.make_adding_problem(6)
    whole = task.clip_first_gradient(lambda model: None, data)
    cut = task.clip_first_gradient(lambda model: clip_gradients_(model, max_norm=0.1), data)
    assert whole.norm() > 0.1 and cut.norm() == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(cut / cut.norm(), whole / whole.norm())


def test_only_a_generator_stops_clipping_after_the_first_step():
    data = networks.make_adding_problem(10)
    assert task.clip_each_step(lambda model: model.parameters(), data) == [True, False, False]
    assert task.clip_each_step(lambda model: list(model.parameters()), data) == [True] * 3


# ---- the live labs ----


def run_lab(fit, **settings):
    """Run a fit to its end; return its status line and its axes."""
    figure, steps = plt.figure(), fit
    running = steps(figure, **settings)
    try:
        while True:
            next(running)
    except StopIteration as end:
        return end.value, figure.axes


LAB = {"lr": 0.1, "max_norm": 0.5, "optimizer": "sgd", "tuned_baseline": False}


def test_the_lab_draws_the_threshold_and_both_arms(monkeypatch):
    monkeypatch.setattr(live, "STEPS", 20)
    monkeypatch.setattr(live, "SIZE", {"steps": 20, "batch_size": 64})
    told, (left, right) = run_lab(live.draw_lab, **LAB, seeds=range(3))
    (threshold,) = [line for line in left.lines if line.get_linestyle() == "--"]
    assert list(threshold.get_ydata()) == [0.5, 0.5]
    assert {"clipped", "no clipping"} <= {text.get_text() for text in right.texts}
    assert right.get_title().startswith("lost of 3: ") and "ratio of losses" in told


def test_adamw_trains_other_networks_than_sgd(monkeypatch):
    monkeypatch.setattr(live, "STEPS", 20)
    monkeypatch.setattr(live, "SIZE", {"steps": 20, "batch_size": 64})
    ends = []
    for optimizer in ("sgd", "adamw"):
        _, (_, right) = run_lab(live.draw_lab, **{**LAB, "optimizer": optimizer}, seeds=range(3))
        ends.append([list(line.get_ydata()) for line in right.lines])
    assert ends[0] != ends[1]


def make_ends(**arms):
    return {name.replace("_", " "): torch.tensor(losses) for name, losses in arms.items()}


def test_the_status_line_says_which_goal_is_reached():
    low, high, lost = [0.30, 0.31, 0.32, 0.33], [0.50, 0.51, 0.53, 0.52], [0.7, 0.69, 0.72, 0.71]
    told = live.describe_lab(make_ends(no_clipping=lost, clipped=low))
    assert told == "goal 1 reached: lost without clipping 4 of 4, with it 0"
    told = live.describe_lab(make_ends(no_clipping=low, clipped=high))
    assert told.startswith("goal 2 reached")
    ends = make_ends(no_clipping=lost, clipped=low)
    assert live.describe_lab({**ends, "no clipping, best lr": torch.tensor(high)}).startswith(
        "goal 3 reached: clipped ends lower than best lr by more than 2 %"
    )
    assert "goal" not in live.describe_lab({**ends, "no clipping, best lr": torch.tensor(low)})
    assert "goal" not in live.describe_lab(make_ends(no_clipping=low, clipped=low))


def test_the_walks_dots_are_lr_times_norm_and_at_most_lr_times_threshold():
    told, (left, right) = run_lab(live.draw_walk, lr=0.1, max_norm=0.5)
    *_, norm, _, _ = live.prepare_walk()
    ends = [line.get_xdata()[0] for line in left.lines[1:]]
    assert ends == pytest.approx([0.1 * norm, 0.05])
    whole, clipped = (line.get_ydata()[0] for line in right.lines[1:])
    assert told == f"the whole step leaves {whole} units, the clipped one {clipped}"
    assert whole < clipped  # the picture's point


def test_a_step_beyond_the_frame_is_drawn_at_its_edge():
    _, (left, _) = run_lab(live.draw_walk, lr=1.0, max_norm=0.001)
    assert left.lines[2].get_xdata()[0] == pytest.approx(0.001)
    _, (left, _) = run_lab(live.draw_walk, lr=100.0, max_norm=100)
    assert left.lines[1].get_xdata()[0] == pytest.approx(live.DISTANCES[-1])


# ---- the pictures ----


def test_a_norm_above_the_threshold_gets_a_dot(ax):
    pictures.draw_norms(ax, [0.1, 2.0, math.inf], max_norm=1.0, firing=7)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[2, 3]]
    assert list(dots[0].get_ydata()) == [2.0, pictures.NORMS[1]]
    assert ax.get_title() == "clipped in 67% of steps; 7 of 16 units fire"
    assert [text.get_text() for text in ax.texts] == ["max_norm 1"]


def test_the_frame_of_the_losses_stays(ax):
    data = networks.make_adding_problem(4)
    arms = {"no clipping": {"lr": 0.01}, "clipped": {"lr": 0.01, "max_norm": 0.1}}
    frames = []
    for runs in train_runs(networks.build_adder, data, arms, [0, 1], steps=12, batch_size=8):
        if runs.step in (5, 12):
            pictures.draw_losses(ax, runs, steps=12)
            frames.append((ax.get_xlim(), ax.get_ylim()))
    assert frames[0] == frames[1]
    # The first line of the first arm: means of five steps, those left over are not drawn.
    means = runs.losses[0, 0, :10].view(2, 5).mean(1)
    assert list(ax.lines[0].get_ydata()) == pytest.approx(means.tolist())
    assert ax.lines[0].get_color() == plots.BASELINE


def shown(monkeypatch, show, *arguments):
    """Call a function that shows a figure; return the figure's axes."""
    monkeypatch.setattr(plt, "show", lambda: None)
    show(*arguments)
    return plt.gcf().axes


def test_the_collapse_is_drawn_over_the_steps(monkeypatch):
    losses = [torch.tensor(0.7, requires_grad=True), torch.tensor(0.6)]
    left, right = shown(monkeypatch, pictures.show_collapse, losses, [16, 5])
    assert list(left.lines[0].get_ydata()) == pytest.approx([0.7, 0.6])
    assert list(right.lines[0].get_ydata()) == [16, 5]
    assert right.get_title() == "5 of 16 after the last step"


def test_a_tuning_shows_both_arms_and_rings_the_best(monkeypatch, comparison):
    axes = shown(monkeypatch, pictures.show_tunings, {"task": comparison})
    plain, ring, clipped, _ = axes[0].lines[:4]
    assert (plain.get_color(), clipped.get_color()) == (plots.BASELINE, plots.TECHNIQUE)
    assert list(plain.get_xdata()) == [0.01, 3.0]
    assert list(ring.get_xdata()) == [0.01]
    assert ring.get_ydata()[0] == pytest.approx(float(comparison.found.scores[0, 0]))


def test_the_map_shows_a_cell_for_each_pair(monkeypatch):
    from nbkit.lab import judge, paired_ratio
    from nbkit.lab.evidence.register import load_claims

    claim = load_claims("clipping")["clipping-ends-lower"]
    cells = {}
    for lr in (0.1, 0.2):
        cells[lr, 1.0] = judge(claim, paired_ratio([0.3, 0.4, 0.5], [0.6, 0.7, 0.8]))
    (ax,) = shown(monkeypatch, pictures.show_map, cells)
    assert len(ax.patches) == 2 and ax.get_xlabel() == "lr" and ax.get_ylabel() == "max_norm"


def test_the_history_is_drawn_by_its_own_plot(monkeypatch):
    recorded = task.train_recorded(
        networks.make_adding_problem(4), lr=0.01, max_norm=9.0, optimizer="sgd", steps=3
    )
    (ax, *_) = shown(monkeypatch, pictures.show_history, recorded.history)
    drawn = [list(line.get_ydata()) for line in ax.lines]
    assert pytest.approx(recorded.history.norms) in drawn
