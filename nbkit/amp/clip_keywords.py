"""The `clip` argument of `Amp.step`, checked before anything is changed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nbkit.base.gradients import Parameters, join_names, named_parameters
from nbkit.clipping import ClipReport, ClipRule


@dataclass
class ClipPlan:
    """A checked `clip` argument.

    Attributes:
        clip_: clips the gradients in place and returns the report.
        skips_nonfinite: skip a step whose gradients are not finite.
    """

    clip_: Callable[[], ClipReport]
    skips_nonfinite: bool


def plan_clip(
    optimizer: Optimizer, clip: Mapping[str, Any] | None, *, nonfinite: str
) -> ClipPlan | None:
    """Read the keywords of `clip_gradients_` for one optimizer; None without keywords.

    Args:
        nonfinite: the default of the keyword with the same name.
    Raises:
        TypeError, ValueError: for keywords or parameters that do not fit; nothing has changed.
    """
    if clip is None:
        return None
    _check_clip_keywords(clip)
    keywords = {"nonfinite": nonfinite, **clip}
    parameters = keywords.pop("parameters", optimizer)
    rule = ClipRule(**keywords)
    # The optimizer's own parameters need no check.
    if parameters is not optimizer:
        parameters = _check_ownership(optimizer, parameters)
    return ClipPlan(rule.bind(parameters), rule.nonfinite == "skip")


def _check_clip_keywords(clip: object) -> None:
    if not isinstance(clip, Mapping):
        raise TypeError(
            f"clip must be a dict of clip_gradients_'s keywords, such as dict(max_norm=1.0), "
            f"got {clip!r}."
        )
    known = ["parameters", *(each.name for each in fields(ClipRule))]
    for name in clip:
        if name not in known:
            # A cutoff of 0 finds a nearest name for any typo.
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]
            raise TypeError(f"clip: clip_gradients_ has no {name!r}; the nearest is {near!r}.")


def _check_ownership(optimizer: Optimizer, parameters: Parameters) -> Parameters:
    """Refuse parameters of another optimizer, whose gradients may still carry the loss scale."""
    named = named_parameters(parameters)
    owned = set(map(id, named_parameters(optimizer).values()))
    foreign = []
    for name, parameter in named.items():
        # Without a gradient there is nothing to clip, in whichever optimizer it is.
        if parameter.grad is not None and id(parameter) not in owned:
            foreign.append(name)
    if foreign:
        raise ValueError(
            f"clip: {join_names(foreign)} do not belong to this {type(optimizer).__name__}. For "
            f"one norm over several optimizers call amp.unscale_(optimizer) for each, then "
            f"clip_gradients_, then amp.step(optimizer) for each, without clip."
        )
    # A list, since an iterator is used up by now. The model stays: agc reads its layers.
    return parameters if isinstance(parameters, nn.Module) else list(named.items())
