"""The check of `pooled` passes the reference and fails the stub and plausible wrong versions."""

import itertools

import pytest
import torch

from nbkit.lab.exercise import load_exercise

POOLED = load_exercise("batchnorm", "pooled")


def mean_of_means(batches):
    """Give every batch the same weight, however few samples it has."""
    means, variances = zip(*((x.mean(0), x.var(0, unbiased=False)) for x in batches), strict=True)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


def weighted_but_without_the_variance_between(batches):
    """Weight each batch correctly, and forget that the batches differ."""
    count, total, spread = 0, 0.0, 0.0
    for x in batches:
        count += len(x)
        total = total + x.sum(0)
        spread = spread + len(x) * x.var(0, unbiased=False)
    return total / count, spread / count


def unbiased(batches):
    """Divide by one less than the count, as torch's running variance does."""
    xs = torch.cat(list(batches))
    return xs.mean(0), xs.var(0)


def squares_in_float32(batches):
    """Subtract two large numbers that are nearly equal: right on paper, wrong in float32."""
    count, total, squares = 0, 0.0, 0.0
    for x in batches:
        count += len(x)
        total = total + x.sum(0)
        squares = squares + (x**2).sum(0)
    mean = total / count
    return mean, squares / count - mean**2


def keeps_all(batches):
    xs = torch.cat(list(batches)).double()
    return xs.mean(0), xs.var(0, unbiased=False)


def moving_average(batches, momentum=0.1):
    """Average as BatchNorm does while it trains."""
    mean, var = 0.0, 1.0
    for x in batches:
        mean = (1 - momentum) * mean + momentum * x.mean(0)
        var = (1 - momentum) * var + momentum * x.var(0)
    return mean, var


def all_channels_together(batches):
    xs = torch.cat(list(batches)).double()
    return xs.mean().reshape(1), xs.var(unbiased=False).reshape(1)


def counts_first(batches):
    """Count in a first loop and divide in a second: the division is by zero."""
    count = sum(len(x) for x in batches)
    mean = sum(x.double().sum(0) for x in batches) / count
    return mean, sum((x**2).sum(0) for x in batches) / count - mean**2


def divides_by_the_second_count(batches):
    total = sum(x.double().sum(0) for x in batches)
    return total / sum(len(x) for x in batches), total


def goes_through_twice(batches):
    """Go through the batches twice: the second pass gets none."""
    count, total = 0, 0.0
    for x in batches:
        count += len(x)
        total = total + x.double().sum(0)
    spread = sum(((x - total / count) ** 2).sum(0) for x in batches)
    return total / count, spread / count


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (moving_average, "batches [[[0.0], [2.0]]] expected the mean [1.0], got [0.1]"),
        (unbiased, "batches [[[0.0], [2.0]]] expected the variance [1.0], got [2.0]"),
        (goes_through_twice, "expected one loop over them, got a second one"),
        (counts_first, "expected one loop over them, got a second one"),
        (divides_by_the_second_count, "The batches come once"),
        (all_channels_together, "expected the mean [1.0, 3.0], got [2.0]"),
        (mean_of_means, "[[10.0]]] expected the mean [4.0], got [5.5]"),
        (weighted_but_without_the_variance_between, "expected the variance [18.6667], got [0.6667"),
        (squares_in_float32, "expected the variance [0.3125]"),
        (keeps_all, "for 20 batches expected one or two in memory at a time, there were 20"),
        (lambda batches: None, "for pooled(<OnePass>) it returned None, which cannot be read"),
        (lambda batches: None, "expected: It returns the mean and the population variance"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in POOLED.check(wrong)


def test_the_reference_passes_and_the_stub_does_not():
    assert POOLED.check(POOLED.reference) is None
    assert POOLED.check(POOLED.stub) == (
        "for the batches [[[0.0], [2.0]]] expected the mean [1.0], got 0.0."
    )


def test_a_version_that_keeps_the_batch_it_counts_passes():
    """Chan's formula is the library's; the batch of the loop is still alive at the next."""

    def chan(batches):
        count, mean, m2 = 0, 0.0, 0.0
        for x in batches:
            own = x.double().mean(0)
            both, apart = count + len(x), own - mean
            m2 = m2 + ((x - own) ** 2).sum(0) + apart**2 * count * len(x) / both
            mean = mean + apart * len(x) / both
            count = both
        return mean, m2 / count

    assert POOLED.check(chan) is None


def test_an_error_of_a_version_with_one_loop_is_its_own():
    def divides(batches):
        for _ in batches:
            return 1 / 0

    assert "it raised ZeroDivisionError" in POOLED.check(divides)


def welford(batches):
    """Update mean and sum of squared deviations sample by sample."""
    count, mean, m2 = 0, 0.0, 0.0
    for x in batches:
        for row in x.double():
            count += 1
            delta = row - mean
            mean = mean + delta / count
            m2 = m2 + delta * (row - mean)
    return mean, m2 / count


def shifted(batches):
    """Subtract the first sample, so that float32 has digits enough."""
    iterator = iter(batches)
    first = next(iterator)
    origin, count, total, squares = first[0], 0, 0.0, 0.0
    for x in itertools.chain([first], iterator):
        moved = x - origin
        count, total = count + len(x), total + moved.sum(0)
        squares = squares + moved.square().sum(0)
    return origin + total / count, squares / count - (total / count) ** 2


def with_next(batches):
    """Ask for each batch by hand."""
    iterator, count, total, squares = iter(batches), 0, 0.0, 0.0
    while (x := next(iterator, None)) is not None:
        count += len(x)
        total = total + x.double().sum(0)
        squares = squares + x.double().square().sum(0)
    return total / count, squares / count - (total / count) ** 2


@pytest.mark.parametrize("right", [welford, shifted, with_next])
def test_other_right_versions_pass(right):
    assert POOLED.check(right) is None
