"""On a parabola the share that a step delivers has a closed form."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from nbkit.base.state import digest
from nbkit.lessons.lr_finder.pictures import draw_delivery
from nbkit.lessons.lr_finder.task import measure_delivery


def test_on_a_parabola_it_is_one_minus_half_lr_times_curvature():
    """The loss of w·x against 0 with x = 3 is 9 w², of curvature 18."""
    model = nn.Linear(1, 1, bias=False).double()
    x, y = torch.full((4, 1), 3.0).double(), torch.zeros(4, 1).double()
    lrs = [1e-4, 1 / 18, 2 / 18, 0.3]
    assert measure_delivery(model, mse_loss, x, y, lrs) == pytest.approx([1 - lr * 9 for lr in lrs])


def test_it_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    x, y = torch.randn(8, 3), torch.zeros(8, 3)
    before = digest(model)
    measure_delivery(model, mse_loss, x, y, [0.1, 1.0])
    assert digest(model) == before


def test_where_nothing_is_promised_it_says_so():
    model = nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match="the gradient is zero here"):
        measure_delivery(model, mse_loss, torch.zeros(1, 1), torch.zeros(1, 1), [0.1])


def test_each_training_step_has_its_curve(ax):
    assert draw_delivery(ax, [0.1, 1.0], {1: [0.9, 0.5], 21: [0.8, -0.2]}) is ax
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.9, 0.5], [0.8, -0.2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["step 1", "step 21"]
