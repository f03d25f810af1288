"""The lesson's intervals are those of the library, and its pictures show the numbers."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch

from nbkit.lab import plots
from nbkit.lab.data import digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.start_here import live, pictures, task


def test_every_pair_of_ends_is_listed_once_with_the_lower_end_first():
    found = task.list_intervals([0.1, 0.3, 0.45, 0.55, 0.8, 2.0])
    assert len(found) == len(set(found)) == 15
    assert all(low < high for low, high in found)


def test_a_longer_sample_contains_the_shorter_one():
    ours, theirs = [0.4, 0.5, 0.45, 9.0], [1.0, 1.1, 0.9, 1.0]
    found = task.measure_growing_samples(ours, theirs, [3, 4])
    assert found == [paired_ratio(ours[:3], theirs[:3]), paired_ratio(ours, theirs)]


def test_each_seeds_two_losses_are_joined(ax):
    final = torch.tensor([[0.1, 0.2], [0.3, 0.6]])  # (momentum and without, seeds)
    assert pictures.draw_paired_losses(ax, SimpleNamespace(final=lambda: final)) is ax
    drawn = [list(line.get_ydata()) for line in ax.lines]
    assert drawn == [pytest.approx([0.3, 0.1]), pytest.approx([0.6, 0.2])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["without", "momentum"]


def test_each_interval_stands_over_its_number_of_seeds(ax):
    intervals = [Interval(0.5, 0.2, 0.9, 3), Interval(0.6, 0.5, 0.7, 8)]
    assert pictures.draw_growing_samples(ax, [3, 8], intervals) is ax
    assert [list(line.get_xdata()) for line in ax.lines] == [[3, 3], [3], [8, 8], [8]]
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.2, 0.9], [0.5], [0.5, 0.7], [0.6]]


def test_both_arms_share_an_lr_unless_the_rival_has_its_own():
    same = task.compare_both(digits(), [0, 1, 2], momentum=0.9, lr=0.1)
    own = task.compare_both(digits(), [0, 1, 2], momentum=0.9, lr=0.1, rival_lr=0.5)
    net, arms = task.make_digit_net(digits()), {"a": {"lr": 0.1, "momentum": 0.9}, "b": {"lr": 0.5}}
    *_, runs = train_runs(net, digits(), arms, [0, 1, 2], steps=task.STEPS, batch_size=task.BATCH)
    ours, theirs = runs.final().tolist()
    assert own.estimate == pytest.approx(paired_ratio(ours, theirs).estimate, rel=1e-4)
    assert own.estimate > same.estimate  # plain SGD likes the larger lr


def test_each_arm_is_tuned_on_the_same_grid():
    found = task.tune_momentum_arms(digits(), 0.9)
    assert set(found) == {"momentum", "without"} and set(found.values()) <= set(task.GRID)
    assert found["without"] > found["momentum"]


def test_a_single_seed_reports_its_own_ratio():
    alone = task.compare_single_seeds(digits(), [5], 0.4)
    both = task.compare_single_seeds(digits(), [4, 5], 0.4)
    assert alone == pytest.approx(both[1:], rel=1e-4)


def test_only_the_best_of_n_is_decided_by_one_lucky_seed():
    lucky, ones = torch.ones(8), torch.ones(8)
    lucky[3] = 0.1
    found = {letter: float(report(lucky, ones)) for letter, report in task.REPORTS.items()}
    assert found == pytest.approx({"a": 0.1, "b": 0.1 ** (1 / 8), "c": 1.0})


def test_people_with_one_seed_are_drawn_on_their_side(ax):
    assert pictures.draw_single_seeds(ax, [0.5, 2.0]) is ax
    helps, harms = ax.lines[:2]
    assert (helps.get_marker(), helps.get_color()) == ("o", plots.TECHNIQUE)
    assert (harms.get_marker(), harms.get_color()) == ("s", plots.BASELINE)
    assert all(ax.get_ylim()[0] < y < ax.get_ylim()[1] for y in (0.5, 2.0))


def run_lab(**changed):
    values = {"lr": 0.1, "momentum": 0.9, "count": 8, "rival_at_its_best": False} | changed
    figure = plt.figure()
    fitting = live.draw_lab(figure, **values)
    while True:
        try:
            next(fitting)
        except StopIteration as end:
            return figure, end.value


def test_the_lab_judges_the_first_claim_by_its_own_seeds():
    assert run_lab(count=3)[1].startswith("SKIPPED: 3 of the 8 seeds it needs")
    assert run_lab()[1].startswith("SUPPORTED")


def test_the_rival_at_its_best_is_named_with_its_lr():
    told = run_lab(rival_at_its_best=True)[1]
    assert f"plain SGD at its best lr, {task.find_rival_lr():.2g}" in told


def test_the_axes_of_the_lab_stay_where_they_are():
    one, other = run_lab(lr=0.001)[0].axes, run_lab(lr=1.0)[0].axes
    for ax, again in zip(one, other, strict=True):
        assert (ax.get_xlim(), ax.get_ylim()) == (again.get_xlim(), again.get_ylim())
