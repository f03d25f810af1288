"""Split a model's parameters into groups with an lr by depth, for any optimizer of torch.

    ratio:  lr of the head, lr * ratio of everything before it
    decay:  lr * decay ** (distance from the head)

The distance is counted in blocks, as they run: the head has 0, the block before it 1. Frozen layers
are counted too, so freezing one moves no other's lr.

>>> import torch
>>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
>>> groups = lr_groups(model, 0.1, ratio=0.01)
>>> groups.lrs
[0.001, 0.1]
>>> optimizer = torch.optim.SGD(groups)
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from nbkit.base.gradients import join_names
from nbkit.base.model_call import unwrap_model
from nbkit.base.numbers import read_real
from nbkit.base.parameter_kinds import ParameterRole, list_roles
from nbkit.base.parameter_order import Head, find_head, find_places_of_use, order_depths
from nbkit.base.report import Report, convert_to_json
from nbkit.base.shards import refuse_shards

Places = dict[str, tuple[int, int]]


class LRGroups(Report, list[dict[str, Any]]):
    """Groups of parameters, each with an lr of its own: a list for any optimizer of torch.

    Each group has `params`, `lr`, `weight_decay`, `param_names`, and `distance` from the head. The
    first group is the one farthest from it.

    Attributes:
        order: "execution", or "registration" where no batch was given.
    """

    order: str = "registration"

    @property
    def lrs(self) -> list[float]:
        """Return the lr of each group, for a scheduler that asks for them, as OneCycleLR does."""
        return [group["lr"] for group in self]

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """Return a row for each group."""
        rows: list[list[object]] = []
        total = 0
        for group in self:
            count = sum(parameter.numel() for parameter in group["params"])
            total += count
            names = join_names(group["param_names"])
            rows.append([group["distance"], group["lr"], group["weight_decay"], count, names])
        summary = f"{len(self)} groups, {total} numbers to train; depth by order of {self.order}"
        if self.order == "registration":
            summary += " (give `batch` for the order of execution)"
        return summary, ["distance", "lr", "weight decay", "numbers", "parameters"], rows

    def to_dict(self) -> dict[str, object]:
        """Return order and groups as plain JSON, with the parameters' names only."""
        groups = []
        for group in self:
            groups.append({key: group[key] for key in group if key != "params"})
        return {"order": self.order, "groups": convert_to_json(groups)}


def lr_groups(
    model: nn.Module,
    lr: float,
    *,
    ratio: float | None = None,
    decay: float | None = None,
    head: Head = None,
    weight_decay: float = 0.0,
    batch: Any = None,
) -> LRGroups:
    """Give each part of a model an lr by its distance from the head.

    Args:
        model: the model to fine-tune. It is not changed.
        lr: lr of the head, > 0.
        ratio: everything before the head gets lr * ratio: lr=1e-3 and ratio=0.01 are the pair
            1e-5 / 1e-3.
        decay: a block gets lr * decay ** distance, where the block before the head has distance 1.
            Exactly one of ratio and decay is given.
        head: the part that learns at `lr`: one or several modules or parameters, by name or as
            they are. None: the layer whose weights are used last.
        weight_decay: of weights, >= 0. Norms, biases, other vectors and embeddings are not decayed:
            this is decided by the type of the layer, not by names.
        batch: inputs, or (inputs, target, ...), for one pass without gradients, which shows the
            order in which layers run; model and random state are as before after it. None: the
            order in which they were registered, which the table says.
    Returns:
        LRGroups: a list for an optimizer: each trainable parameter in exactly one group, a tied
            one once, a frozen one in none. Prints as a table.
    Raises:
        ValueError, TypeError: for a wrong argument, or a model without a parameter to train.

    Blocks are the outermost modules of a class that the model has several of; outside of them each
    layer counts for itself, and a norm belongs to the layer before it. What is used several times,
    such as an embedding that is also the head, counts where it is used last.

    The lr stands in the group itself, so every scheduler keeps the proportions. `OneCycleLR` sets
    its own: give it `max_lr=groups.lrs`.

    Source of the decay by layers: Howard & Ruder 2018, "Universal language model fine-tuning for
    text classification".

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> print(lr_groups(model, 0.1, decay=0.5))
    2 groups, 58 numbers to train; depth by order of registration (give `batch` for the order of \
execution)
    distance  lr    weight decay  numbers  parameters
    1         0.05  0             40       0.weight, 0.bias
    0         0.1   0             18       2.weight, 2.bias
    """
    lr, factor = _check_numbers(lr, ratio, decay, weight_decay)
    inner = unwrap_model(model)
    refuse_shards(inner, dict(inner.named_parameters()), "the groups")
    roles = list_roles(inner)
    if not any(role.parameter.requires_grad for role in roles):
        raise ValueError(
            "expected a model with a parameter to train, but all are frozen, or it has none. "
            "Unfreeze some: parameter.requires_grad_(True)."
        )
    places = find_places_of_use(inner, roles, batch)
    named_head = find_head(inner, roles, places, head)

    groups = LRGroups()
    groups.order = "registration" if batch is None else "execution"
    for distance, members in _list_distances(inner, roles, places, named_head):
        # lr_i = lr * decay ** i; a ratio counts once, however far the head is.
        own = lr * factor ** (distance if ratio is None else min(distance, 1))
        if own == 0:
            raise ValueError(
                f"decay: {decay} ** {distance} * {lr} is 0 in floating point. Give a larger decay, "
                f"or freeze the first layers."
            )
        groups.extend(_make_groups(members, own, weight_decay, distance))
    return _join_equal(groups) if ratio is not None else groups


def _check_numbers(
    lr: float, ratio: float | None, decay: float | None, weight_decay: float
) -> tuple[float, float]:
    """Check the numbers; return the lr, and the one of ratio and decay that was given."""
    if (ratio is None) == (decay is None):
        raise ValueError(
            f"expected exactly one of ratio and decay, got ratio={ratio}, decay={decay}. `ratio` "
            f"gives all before the head one lr, `decay` each block its own."
        )
    name, factor = ("ratio", ratio) if decay is None else ("decay", decay)
    numbers = []
    for label, given in (("lr", lr), (name, factor)):
        number = read_real(given)
        if number is None or not 0 < number < math.inf:
            raise ValueError(
                f"{label} must be a number > 0, got {given!r}. To keep layers as they are, freeze "
                f"them: parameter.requires_grad_(False)."
            )
        numbers.append(number)
    read = read_real(weight_decay)
    if read is None or not 0 <= read < math.inf:
        raise ValueError(f"weight_decay must be a number >= 0, got {weight_decay!r}.")
    return numbers[0], numbers[1]


def _list_distances(
    model: nn.Module, roles: list[ParameterRole], places: Places, head: set[str]
) -> list[tuple[int, list[ParameterRole]]]:
    """List (distance from the head, parameters), the farthest first; frozen ones are in it."""
    body = [role for role in roles if role.name not in head]
    depths = order_depths(model, body, places)
    distances = []
    for index, members in enumerate(depths):
        distances.append((len(depths) - index, members))
    distances.append((0, [role for role in roles if role.name in head]))
    return distances


def _make_groups(
    members: list[ParameterRole], lr: float, weight_decay: float, distance: int
) -> list[dict[str, Any]]:
    """Make the groups of one depth: what is decayed, and what is not."""
    groups: dict[float, dict[str, Any]] = {}
    for role in members:
        if not role.parameter.requires_grad:
            continue
        decay = float(weight_decay) if role.kind.is_decayed else 0.0
        # Names let reports of the optimizer, such as nbkit's, say which parameter they mean.
        empty = {"params": [], "lr": lr, "weight_decay": decay}
        group = groups.setdefault(decay, {**empty, "param_names": [], "distance": distance})
        group["params"].append(role.parameter)
        group["param_names"].append(role.name)
    return list(groups.values())


def _join_equal(groups: LRGroups) -> LRGroups:
    """Join the groups before the head that have the same decay: with `ratio` their lr is one."""
    joined = LRGroups()
    joined.order = groups.order
    for group in groups:
        for other in joined:
            same = other["weight_decay"] == group["weight_decay"]
            if same and min(other["distance"], group["distance"]) > 0:
                other["params"] += group["params"]
                other["param_names"] += group["param_names"]
                other["distance"] = min(other["distance"], group["distance"])
                break
        else:
            joined.append(group)
    return joined
