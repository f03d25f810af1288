"""The updates that are counted are those which nbkit.accumulate makes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from nbkit import accumulate, updates


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 9), st.sampled_from(["flush", "drop"]))
def test_it_counts_the_windows_of_accumulate(batches, epochs, steps, last):
    made = 0
    for _ in range(epochs):
        for _window in accumulate(torch.ones(batches, 2), steps, last=last):
            made += 1
    if made == 0:
        with pytest.raises(ValueError, match="make none with last='drop'"):
            updates(batches, epochs, steps, last=last)
    else:
        assert updates(batches, epochs, steps, last=last) == made


def test_a_loader_counts_its_ragged_batch():
    loader = DataLoader(torch.zeros(10), batch_size=4)  # 4, 4, 2
    assert updates(loader, 5) == 15
    assert updates(loader, 5, accumulate=2) == 10
    assert updates(DataLoader(torch.zeros(10), batch_size=4, drop_last=True), 5) == 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


def test_a_loader_without_a_length_is_refused():
    with pytest.raises(TypeError, match="without a length .*Pass the number"):
        updates(DataLoader(Stream(), batch_size=4), 1)
    with pytest.raises(TypeError, match="without a length"):
        updates(iter([1, 2]), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "at least one batch"),
        (([], 1), "at least one batch"),
        ((3, 0), "epochs must be a whole number of at least 1, got 0"),
        ((3, 1.5), "epochs must be a whole number"),
        ((3, 1, 0), "accumulate must be a whole number"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        updates(*arguments)


def test_another_last_is_refused():
    with pytest.raises(ValueError, match='last must be "flush"'):
        updates(3, 1, last="keep")
