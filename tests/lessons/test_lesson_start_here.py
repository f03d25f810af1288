"""The lesson's intervals are those of the library, and its pictures show the numbers."""

from types import SimpleNamespace

import pytest
import torch

from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lessons.start_here import pictures, task


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
