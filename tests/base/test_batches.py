"""Rows of a batch: lists of samples against lists of parts, mappings, and what cannot be told."""

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch

from nbkit import accumulate, shard
from nbkit.base.batches import count_rows, join_rows, split_rows


@dataclass
class Batch:
    x: torch.Tensor
    names: list


def images(count, channels=3):
    return [torch.full((channels, 4, 4), float(i)) for i in range(count)]


def t(*shape):
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


# The batch, its rows, and the first of two halves.
COUNTED = {
    "images in a list": ((images(8), [0] * 8), 8, (images(4), [0] * 4)),
    "zip gives tuples": ((tuple(images(4)), (5, 6, 7, 8)), 4, (tuple(images(2)), (5, 6))),
    "two images": ((images(2), [0, 1]), 2, (images(1), [0])),
    "as many images as channels": ((images(3), [0, 1, 2]), 3, (images(1), [0])),
    "ragged": (([t(5), t(2), t(4)], t(3, 1)), 3, ([t(5)], t(1, 1))),
    "numbers beside a tensor": ({"x": t(4, 7), "n": [5, 3, 7, 2]}, 4, {"x": t(2, 7), "n": [5, 3]}),
    "tensors without dimensions": ((t(2, 3), list(t(2))), 2, (t(1, 3), [t(1)[0]])),
    "strings": ({"x": t(2, 3), "text": ["a", "b"]}, 2, {"x": t(1, 3), "text": ["a"]}),
    "texts alone": (["a", "b"], 2, ["a"]),
    "token lists": ({"ids": [[1, 2, 3], [4, 5]], "y": [0, 1]}, 2, {"ids": [[1, 2, 3]], "y": [0]}),
    "square token lists": ({"ids": [[1, 2], [3, 4]]}, 2, {"ids": [[1, 2]]}),
    "records": (
        (images(2), [{"boxes": t(1, 4)}, {"boxes": t(5, 4)}]),
        2,
        (images(1), [{"boxes": t(1, 4)}]),
    ),
    "two parts": (([t(8, 3), t(8, 2)], t(8)), 8, ([t(4, 3), t(8, 2)[:4]], t(4))),
    "two views of two samples": (([t(2, 3), t(2, 3)], t(2)), 2, ([t(1, 3), t(1, 3)], t(1))),
    "a pair of two samples": ([t(2, 3), t(2, 3)], 2, [t(1, 3), t(1, 3)]),
    "three of one shape": ([t(8, 3)] * 3, 8, [t(4, 3)] * 3),
    "user dict": (UserDict(x=t(6, 2), y=t(6), z=t(6)), 6, UserDict(x=t(3, 2), y=t(3), z=t(3))),
    "dataclass": (Batch(t(2, 3), ["a", "b"]), 2, Batch(t(1, 3), ["a"])),
    "a number for all": ((t(4), 0.5, None, [None]), 4, (t(2), 0.5, None, [None])),
}


@pytest.mark.parametrize("case", COUNTED)
def test_samples_are_counted_and_divided(case):
    batch, count, half = COUNTED[case]
    assert count_rows(batch) == count
    first = split_rows(batch, 2)[0]
    assert type(first) is type(batch)
    assert str(first) == str(half)


@pytest.mark.parametrize("case", COUNTED)
def test_the_pieces_hold_every_sample_once(case):
    batch, count, _ = COUNTED[case]
    pieces = split_rows(batch, count)
    assert [count_rows(piece) for piece in pieces] == [1] * count
    # Of twice as many pieces every other one is empty, and the last holds the last row.
    assert str(split_rows(batch, 2 * count)[-1]) == str(pieces[-1])
    assert str(split_rows(batch, 1)) == str([batch])


@pytest.mark.parametrize(
    "batch",
    [
        images(8),
        images(4),
        {"images": images(6)},
        [(image, 0) for image in images(8)],
        [{"x": image, "y": 0} for image in images(8)],
    ],
    ids=["images", "few images", "in a dict", "pairs", "dicts"],
)
def test_samples_that_may_be_parts_are_refused(batch):
    """Each image has three channels: that is no number of samples."""
    with pytest.raises(ValueError, match=r"may hold 3 or \d samples.*Stack the samples"):
        count_rows(batch)
    with pytest.raises(ValueError, match=r"cannot count .* Say how many there are with weight="):
        next(accumulate([batch], 1))


def test_three_parts_or_three_samples_cannot_be_divided():
    batch = ([t(3, 5)] * 3, t(3))
    assert count_rows(batch) == 3
    with pytest.raises(ValueError, match="may hold the samples, or 3 parts of each"):
        split_rows(batch, 3)


def test_numbers_that_are_no_samples_are_counted_past_and_not_divided():
    batch = {"x": t(8, 3), "size": (224, 224)}
    assert count_rows(batch) == 8
    with pytest.raises(TypeError, match="a tuple of 2 numbers or strings beside 8 rows"):
        split_rows(batch, 2)


def test_shares_without_samples_have_no_rows():
    shares = split_rows((images(1), [0]), 2)
    assert sorted(map(count_rows, shares)) == [0, 1]
    assert count_rows((torch.zeros(0, 3), [])) == 0


def test_windows_weigh_lists_by_their_samples():
    batches = [(images(8), [0] * 8), (images(2), [0] * 2)]
    assert [m.weight for m in next(accumulate(batches, 2))] == [0.8, 0.2]
    assert len(next(shard(batches))[0]) == 8


@pytest.mark.parametrize("case", ["two parts", "user dict", "a pair of two samples"])
def test_pieces_are_joined_again(case):
    batch = COUNTED[case][0]
    joined = join_rows(split_rows(batch, 2))
    assert type(joined) is type(batch) and str(joined) == str(batch)


@pytest.mark.parametrize(
    "batches",
    [
        [t(1, 3), t(1, 4)],
        [t(1, 3), t(1, 3).double()],
        [{"x": t(1)}, {"y": t(1)}],
        [(t(1), 3), (t(1), 4)],
        [(t(1),), (t(1), t(1))],
        ["a", "b"],
    ],
)
def test_what_differs_in_form_cannot_be_joined(batches):
    assert join_rows(batches) is None
