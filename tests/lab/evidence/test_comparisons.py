import math

import pytest

from nbkit.lab.evidence.comparisons import compare_losses, first_step


@pytest.mark.parametrize(
    ("losses", "others", "start"),
    [
        ([1.0, 1.1], [2.0, 2.1], "a ends lower than b by more than 5 %: ratio of losses 0.512 ["),
        ([2.0, 2.1], [1.0, 1.1], "a ends higher than b by more than 5 %: ratio of losses "),
        ([1.0, 2.0], [2.0, 1.0], "no difference of more than 5 % that these 2 seeds can see: "),
        ([1.0, math.inf], [2.0, 1.0], "a diverged with 1 of 2 seeds, b with 0 of 2"),
        ([math.nan, math.inf], [2.0, math.inf], "a diverged with 2 of 2 seeds, b with 1 of 2"),
    ],
)
def test_compare_says_which_ends_lower(losses, others, start):
    assert compare_losses("a", losses, "b", others).startswith(start)


# Without noise the interval has no width: it stands where the ratio is.
@pytest.mark.parametrize("ratio", [1.0, 1.0001, 1.03, 1.049, 1 / 1.049, 0.97])
def test_a_difference_below_the_margin_is_none_however_certain(ratio):
    line = compare_losses("a", [ratio, 2 * ratio, 3 * ratio], "b", [1.0, 2.0, 3.0])
    assert line.startswith("no difference of more than 5 % that these 3 seeds can see")


@pytest.mark.parametrize(("ratio", "side"), [(1.06, "higher"), (1 / 1.06, "lower")])
def test_a_difference_above_the_margin_is_one(ratio, side):
    line = compare_losses("a", [ratio, 2 * ratio, 3 * ratio], "b", [1.0, 2.0, 3.0])
    assert line.startswith(f"a ends {side} than b by more than 5 %")


def test_the_margin_can_be_another():
    line = compare_losses("a", [1.03, 2.06], "b", [1.0, 2.0], margin=1.02)
    assert line.startswith("a ends higher than b by more than 2 %")


@pytest.mark.parametrize("margin", [1.0, 0.95, math.inf, math.nan])
def test_a_comparison_without_a_margin_is_refused(margin):
    with pytest.raises(ValueError, match="a ratio of losses above 1, such as 1.05 for 5 %, got"):
        compare_losses("a", [1.0, 2.0], "b", [1.0, 2.0], margin=margin)


def test_first_step():
    steps = [5, 10, 15]
    assert first_step([0.1, 0.9, 0.95], steps, at_least=0.9) == 10
    assert first_step([0.1, math.nan, 0.2], steps, at_least=0.9) == math.inf
    with pytest.raises(ValueError, match="got 2 values and 3 steps"):
        first_step([0.1, 0.2], steps, at_least=0.9)
