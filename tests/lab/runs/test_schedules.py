"""A schedule is torch's, as a function."""

import pytest
import torch

from nbkit.lab.runs.schedules import one_cycle


@pytest.mark.parametrize("total", [10, 37, 100])
@pytest.mark.parametrize("rise", [0.3, 0.5])
def test_one_cycle_is_torchs(total, rise):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=total, pct_start=rise, cycle_momentum=False
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < total:
            scheduler.step()
    factor = one_cycle(total_steps=total, rise=rise)
    assert [2.0 * factor(step) for step in range(total)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("words", [{"total_steps": 3}, {"total_steps": 9, "rise": 1.0}])
def test_one_cycle_refuses(words):
    with pytest.raises(ValueError, match="rise must be less than 1 and more than one update"):
        one_cycle(**words)
