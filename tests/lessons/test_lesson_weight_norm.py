"""The measurements of weight_norm against plain references, and its pictures."""

import math
import statistics
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.weight_norm import live, pictures, task
from nbkit.lessons.weight_norm.exercise import ANSWERS

DATA = digits()


def make_started(**options):
    torch.manual_seed(0)
    model = task.make_small_net(DATA)()
    task.start_net(model, **options)
    return model


def test_both_arms_compute_the_same_at_the_start():
    plain, normed = make_started(scale=2.0), make_started(scale=2.0, normed=True)
    x = DATA.x_train[:16]
    assert torch.allclose(plain(x), normed(x), rtol=1e-4, atol=1e-5)
    assert len(list(normed.parameters())) == len(list(plain.parameters())) + 5  # five Linear layers


def test_a_start_is_kaimings_times_the_scale():
    weight = make_started(scale=3.0)[0].weight
    assert weight.std().item() == pytest.approx(3 * math.sqrt(2 / 64), rel=0.05)


@pytest.mark.parametrize("first", [0, 100, 1000])
def test_the_scales_of_any_neighbouring_seeds_fill_the_range(first):
    scales = sorted(math.log(task.find_scale(first + k), 4) for k in range(64))
    assert scales[0] >= -1 and scales[-1] <= 1
    gaps = [high - low for low, high in pairwise(scales)]
    assert max(gaps) < 4 * statistics.mean(gaps)


def test_each_seed_starts_at_its_own_scale():
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(task.make_small_net(DATA)())
        task.start_scaled(models[-1], normed=False)
    first, second = (model[2].weight.std().item() for model in models)
    wanted = task.find_scale(1) / task.find_scale(0)
    assert second / first == pytest.approx(wanted, rel=0.1)


def test_steps_are_counted_to_the_first_mean_below_the_target():
    losses = torch.tensor([[[3.0, 2.0, 1.0, 1.0, 9.0]], [[3.0, 3.0, 3.0, 3.0, 3.0]]])
    assert task.count_steps_below(losses, 1.2, window=2) == [[4.0], [5.0]]
    lost = torch.tensor([[[1.0, math.inf, math.inf]]])
    assert task.count_steps_below(lost, 1.2, window=2) == [[3.0]]


def test_failures_are_the_shares_below_the_passing_accuracy():
    accuracies = torch.tensor([[0.4, 0.6, 0.9, 0.9], [0.1, 0.1, 0.1, 0.9]])
    assert task.compare_failures(accuracies, 0.5).estimate == pytest.approx(1 / 4 - 3 / 4)


def test_a_cell_of_the_map_is_the_race_of_that_lr_and_scale(monkeypatch):
    monkeypatch.setattr(task, "RACE_STEPS", 40)
    claim = load_claims("weight_norm")["init-weight-norm-speeds"]
    seeds = range(3)
    cells = task.judge_speed_cells(claim, DATA, seeds, (0.1, 0.3), (1.0,))
    assert list(cells) == [(0.1, 1.0), (0.3, 1.0)]
    arms = task.make_arms(task.start_net, lr=0.3)
    assert list(arms) == ["weight norm", "plain"]
    wanted = task.race_to_loss(DATA, arms, seeds, target=0.5)
    assert cells[0.3, 1.0].effect.estimate == pytest.approx(wanted.estimate)


def test_v_grows_as_by_pythagoras():
    """One plain step: |v|² grows by lr² |gradient|², row by row."""
    model = make_started(normed=True)
    v = model[2].parametrizations.weight.original1
    before = v.detach().norm(dim=1)
    x, y = next(iter(DATA.batches(task.BATCH, seed=0)))
    (slope,) = torch.autograd.grad(cross_entropy(model(x), y), [v])
    after = (before.square() + 0.3**2 * slope.norm(dim=1).square()).sqrt()
    start, end = task.follow_lengths(DATA, 0.3, steps=1)
    assert start == pytest.approx(before.mean().item(), rel=1e-5)
    assert end == pytest.approx(after.mean().item(), rel=1e-5)
    assert after.mean() > before.mean()


@pytest.mark.parametrize(
    ("last", "word"),
    [(0.5, "learned"), (2.3, "little better than guessing"), (math.nan, "worse than guessing")],
)
def test_the_end_of_a_training_in_words(last, word):
    assert task.describe_scaled_end([9.0] * 10 + [last] * 10) == word


def test_the_right_answer_is_the_one_that_fails():
    g, v = torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    wrong = []
    for letter, norm_rows in task.NORMERS.items():
        if not torch.allclose(norm_rows(g, v), torch.tensor([[0.6, 0.8], [0.0, 2.0]])):
            wrong.append(letter)
    assert wrong == [ANSWERS["rows"].right]


def test_goals_are_announced():
    even = {"weight norm": 0, "plain": 0, live.RIVAL: 0}
    lower = "weight norm ends lower than plain"
    assert live.describe_norm_goal({**even, "weight norm": 2}, "", "plain") == "goal 1 reached: "
    assert live.describe_norm_goal(even, lower, "plain") == "goal 2 reached: "
    assert live.describe_norm_goal(even, lower, live.RIVAL) == ""
    assert live.describe_norm_goal(even, "no difference", "plain") == ""


def test_pictures_show_what_they_are_given(ax):
    arms = task.make_arms(task.start_net, lr=0.1)
    *_, runs = train_runs(task.make_small_net(DATA), DATA, arms, range(2), steps=5, batch_size=32)
    assert pictures.draw_normed_arms(ax, runs) is ax and ax.get_ylim() == (0.1, 10)

    figure, (left, right) = plt.subplots(1, 2)
    accuracies = torch.tensor([[0.9, 0.2], [0.5, 0.1]])
    pictures.draw_accuracy_by_scale(left, [0.5, 2.0], accuracies, passing=0.5)
    assert [round(y, 3) for y in left.lines[1].get_ydata()] == [0.9, 0.2]
    pictures.draw_lengths(right, {0.1: [2.0, 3.0]})
    assert list(right.lines[0].get_ydata()) == [1.0, 1.5]
    plt.close(figure)


def test_the_race_is_paired_by_seed():
    """Equal arms need equal steps with each seed."""
    twins = {name: {"lr": 0.1} for name in ("one", "other")}
    assert task.race_to_loss(DATA, twins, range(3), target=1.5).estimate == 1
    assert paired_ratio([2.0, 4.0], [1.0, 2.0]).estimate == pytest.approx(2)
    assert isinstance(task.make_small_net(DATA)(), nn.Sequential)
