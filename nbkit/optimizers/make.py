"""Make an optimizer for a model by name, with weight decay and Muon only where they belong."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nbkit.base.model_call import unwrap_model
from nbkit.base.numbers import read_real
from nbkit.base.parameter_kinds import ParameterKind, ParameterRole, list_roles
from nbkit.base.parameter_order import Head, find_head, find_places_of_use
from nbkit.base.shards import refuse_shards
from nbkit.optimizers.lamb import Lamb
from nbkit.optimizers.muon import MuonAdamW

# The class, and what differs from its own defaults.
OPTIMIZERS: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], Mapping[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "nadam": (torch.optim.NAdam, {}),
    "lamb": (Lamb, {}),
    "muon": (MuonAdamW, {}),
}
# What a parameter is, in words for the report.
REASONS = {
    ParameterKind.MATRIX: "weight",
    ParameterKind.EMBEDDING: "embedding",
    ParameterKind.NORM: "norm",
    ParameterKind.VECTOR: "bias or other vector",
    ParameterKind.PARAMETRIZED: "computed weight",
    ParameterKind.OTHER: "of no layer of torch",
}


def make_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    *,
    weight_decay: float = 0.0,
    batch: Any = None,
    head: Head = None,
    **options: Any,
) -> torch.optim.Optimizer:
    """Make an optimizer in which each parameter is trained by the rule that is made for it.

    Weight decay applies to weights: not to norms, biases, other vectors and embeddings, which is
    decided by the type of the layer. With "muon", hidden matrices and convolutions are trained by
    Muon, and everything else by AdamW: embeddings, the output head, biases, norms, grouped
    convolutions, weights that torch computes from others, and parameters of no layer of torch. Both
    are one object, with one state_dict and one list of groups.

    Args:
        model: the model; it is not changed.
        name: "sgd", "momentum" (0.9), "nesterov" (0.9), "adagrad", "rmsprop", "adam", "adamw",
            "nadam", "lamb" or "muon".
        lr: the lr, > 0, the same for all. With "muon", its steps are as long as AdamW's.
        weight_decay: >= 0. AdamW, LAMB and Muon decouple it; the others add it to the gradient.
        batch: inputs, or (inputs, target, ...), for one pass without gradients that shows which
            layer runs last and so is the head; all is as before after it. None: the layer that was
            registered last. Only "muon" asks.
        head: the output head where it is not the last layer: one or several modules or parameters,
            by name or as they are. Only "muon" asks.
        options: further keywords of the optimizer's class, such as betas.
    Returns:
        Optimizer: torch's own; of this kit for "muon" (MuonAdamW) and "lamb" (Lamb). Its groups
            hold parameter names, and `describe_optimizer` prints who got what.
    Raises:
        ValueError, TypeError: for a wrong argument, a model without a parameter to train, and
            "muon" without a hidden matrix.

    A tied parameter is trained once, and a frozen one is left out. Gates that torch stacks in one
    matrix, as in an LSTM, are one matrix here too.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> optimizer = make_optimizer(model, "adamw", 0.01, weight_decay=0.1)
    >>> [(group["why"], group["weight_decay"]) for group in optimizer.param_groups]
    [('weight', 0.1), ('bias or other vector', 0.0)]
    """
    make = _check_choices(name, lr, weight_decay, options)
    inner = unwrap_model(model)
    refuse_shards(inner, dict(inner.named_parameters()), "the optimizer")
    roles = list_roles(inner)
    trained = [role for role in roles if role.parameter.requires_grad]
    if not trained:
        raise ValueError(
            "expected a model with a parameter to train, but all are frozen, or it has none. "
            "Unfreeze some: parameter.requires_grad_(True)."
        )
    named_head: set[str] = set()
    if name == "muon":
        named_head = find_head(inner, roles, find_places_of_use(inner, roles, batch), head)

    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for role in trained:
        rule, why = _choose_rule(role, named_head) if name == "muon" else ("", REASONS[role.kind])
        if (rule, why) not in groups:
            decay = float(weight_decay) if role.kind.is_decayed else 0.0
            group = {"params": [], "weight_decay": decay, "param_names": [], "why": why}
            groups[rule, why] = group | ({"rule": rule} if rule else {})
        groups[rule, why]["params"].append(role.parameter)
        groups[rule, why]["param_names"].append(role.name)
    if name == "muon" and not any(rule == "muon" for rule, _ in groups):
        raise ValueError(
            "muon needs a hidden matrix to train: the weight of a layer of torch, such as "
            'nn.Linear, that is not the head. This model has none: use "adamw".'
        )
    return make(list(groups.values()), lr=lr)


def _choose_rule(role: ParameterRole, head: set[str]) -> tuple[str, str]:
    """Choose the rule of a parameter for "muon", and say why."""
    if role.kind is not ParameterKind.MATRIX:
        return "adamw", REASONS[role.kind]
    if role.name in head:
        return "adamw", "output head"
    for owner in role.owners:
        # Each group of a grouped convolution is a matrix of its own.
        if isinstance(owner.layer, _ConvNd) and owner.layer.groups > 1:
            return "adamw", "grouped convolution"
    if role.parameter.is_complex():
        return "adamw", "complex weight"
    is_convolution = role.parameter.dim() > 2
    return "muon", "convolution as a matrix" if is_convolution else "hidden matrix"


def _check_choices(
    name: str, lr: float, weight_decay: float, options: Mapping[str, Any]
) -> Callable[..., torch.optim.Optimizer]:
    """Check all but the model; return a function that makes the optimizer."""
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(str(name).lower(), OPTIMIZERS, n=1, cutoff=0)[0]
        raise ValueError(
            f"expected one of {', '.join(OPTIMIZERS)}, got {name!r}; the nearest is {near!r}."
        )
    # SGD with an lr of 0 would train nothing, and some classes of torch accept NaN.
    read = read_real(lr)
    if read is None or not 0 < read < math.inf:
        raise ValueError(f"lr must be a number > 0, got {lr!r}.")
    read = read_real(weight_decay)
    if read is None or not 0 <= read < math.inf:
        raise ValueError(f"weight_decay must be a number >= 0, got {weight_decay!r}.")
    kind, defaults = OPTIMIZERS[name]
    known = set(inspect.signature(kind).parameters) - {"params", "lr", "weight_decay"}
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, sorted(known), n=1, cutoff=0)[0]
            raise TypeError(f"{name} has no option {option!r}; the nearest is {near!r}.")

    def make_instance(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return kind(groups, lr=lr, **{**defaults, **options})

    return make_instance
