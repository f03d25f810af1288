"""The walker over nested containers: each kind is opened, mapped and given back as its own type."""

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from nbkit.base.nested import (
    list_tensors,
    map_leaves,
    map_tensors,
    move_tensors,
    open_container,
    walk_leaves,
    walk_tensors,
)

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    extra: object = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


class Tagged(list):
    tag = "none"


ONE, TWO = torch.ones(2), torch.full((3,), 2.0)


def tagged():
    items = Tagged([ONE, 5])
    items.tag = "kept"
    return items


CONTAINERS = {
    "tuple": (ONE, TWO),
    "list": [ONE, "text", None],
    "named tuple": Pair(ONE, TWO),
    "dict": {"x": ONE, 3: TWO},
    "ordered": OrderedDict(x=ONE),
    "default": defaultdict(list, x=[ONE]),
    "user dict": UserDict(x=ONE, y=(TWO,)),
    "read-only": types.MappingProxyType({"x": ONE}),
    "dataclass": Sample(ONE, {"more": TWO}),
    "frozen": Frozen(ONE),
    "a list of its own type": tagged(),
    "torch's": torch.return_types.max((ONE, torch.tensor([1]))),
    "packed": pack_sequence([TWO, ONE]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_comes_back_as_its_own_type_with_other_tensors(kind):
    container = CONTAINERS[kind]
    before = list_tensors(container)
    doubled = map_tensors(lambda tensor: tensor * 2, container)
    assert type(doubled) is type(container)
    after = list_tensors(doubled)
    assert len(before) == len(after) > 0
    assert all(torch.equal(new, 2 * old) for old, new in zip(before, after, strict=True))
    again = list_tensors(container)
    assert all(a is b for a, b in zip(before, again, strict=True)), "the original stays"


def test_what_a_container_knows_besides_its_items_is_kept():
    assert map_tensors(torch.neg, CONTAINERS["a list of its own type"]).tag == "kept"
    assert map_tensors(torch.neg, CONTAINERS["default"])["new"] == []


def test_each_tensor_is_told_with_its_place():
    value = {"a": (ONE, [TWO]), "b": Sample(ONE, Pair(TWO, 3))}
    places = [place for place, _ in walk_tensors(value, "batch")]
    assert places == ["batch['a'][0]", "batch['a'][1]", "batch['b'].x", "batch['b'].extra[0]"]


@pytest.mark.parametrize("leaf", ["text", 3, None, nn.Linear(1, 1), Sample, b"bytes", {1, 2}])
def test_everything_else_is_a_leaf(leaf):
    assert open_container(leaf) is None
    assert list(walk_leaves(leaf)) == [("", leaf)]


def test_a_tensor_that_is_held_twice_is_walked_twice():
    assert len(list_tensors([ONE, {"same": ONE}])) == 2


def test_a_container_that_holds_itself_is_opened_once_and_not_rebuilt():
    ring = [ONE]
    ring.append({"back": ring})
    assert len(list_tensors(ring)) == 1
    with pytest.raises(ValueError, match="a list that holds itself"):
        map_leaves(lambda leaf: leaf, ring)


def test_a_container_that_is_held_twice_is_no_circle():
    shared = [ONE]
    assert len(list_tensors(map_tensors(torch.neg, (shared, shared)))) == 2


def test_sizes_of_torch_are_left_alone():
    size = torch.Size([2, 3])
    assert map_tensors(torch.neg, {"size": size, "x": ONE})["size"] is size


def test_moving_reaches_every_depth_and_changes_no_original():
    batch = UserDict(x=[ONE, {"y": TWO}], n=3)
    moved = move_tensors(batch, "meta")
    assert [tensor.device.type for tensor in list_tensors(moved)] == ["meta", "meta"]
    assert moved["n"] == 3 and list_tensors(batch)[0].device.type == "cpu"
    assert move_tensors(batch, None) is batch


def test_a_packed_sequence_moves_in_one_piece_with_its_batch_sizes_on_the_cpu():
    packed = move_tensors([pack_sequence([TWO, ONE])], "meta")[0]
    assert packed.data.device.type == "meta" and packed.batch_sizes.device.type == "cpu"
