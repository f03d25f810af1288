"""Check that optimizers and schedulers can step as our loops call them: without arguments."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

# How the body of a `step` may test its closure, as ast.unparse writes it.
PRESENT = ("closure is not None", "closure", "callable(closure)")
ABSENT = ("closure is None", "not closure", "not callable(closure)")


def check_plain_step(optimizer: object, caller: str) -> None:
    """Refuse an object without `step()`, and an optimizer whose `step` needs a closure.

    L-BFGS and SAM compute the loss several times a step. A loop that has computed it already
    cannot give them that. Nothing is called or changed here.

    Args:
        optimizer: what `caller` is about to call `step()` on.
        caller: name of the function that checks, for the message.
    Raises:
        TypeError: if `optimizer.step()` cannot be called without arguments.

    Some optimizers (SAM) declare the closure as optional and refuse its absence in the body of
    `step`. This is read from the source of `step`, where there is one.

    >>> import torch
    >>> check_plain_step(torch.optim.SGD([torch.zeros(1)], lr=0.1), "train")
    """
    # All that our loops use is checked, so that a wrapper that has it may stand in.
    name = type(optimizer).__name__
    step = getattr(optimizer, "step", None)
    if not callable(step) or not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"{caller} expected an optimizer, got a {name}. Pass an object of torch.optim, or one "
            f"that has step() and param_groups."
        )
    if find_missing_arguments(step) or _refuses_none(step) or _is_sam(optimizer):
        raise TypeError(
            f"{caller} calls optimizer.step() without a closure, but {name} needs one: it computes "
            f"the loss several times in a step. Use an optimizer without a closure here, such as "
            f"SGD or AdamW, or write the loop yourself and call {name}.step(closure) in it."
        )


def check_plain_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler whose next `step()` would fail, before the optimizer has stepped.

    Args:
        scheduler: a learning-rate scheduler, or None.
    Raises:
        TypeError: if it has no `step`, or one that needs an argument, such as a metric.
        ValueError: if it has made all the steps that it was made for.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "ReduceLROnPlateau needs a metric: leave it out here, and call "
            "scheduler.step(metric) yourself."
        )
    if scheduler is None:
        return
    name = type(scheduler).__name__
    if not callable(getattr(scheduler, "step", None)):
        raise TypeError(f"expected a scheduler, with a step(), got {name}.")
    if missing := find_missing_arguments(scheduler.step):
        raise TypeError(
            f"expected a scheduler whose step() needs no argument, but that of {name}: "
            f"{missing}. Leave it out here, and call its step yourself."
        )
    if isinstance(scheduler, OneCycleLR) and scheduler.last_epoch >= scheduler.total_steps:
        raise ValueError(
            f"expected a scheduler with steps left, but this OneCycleLR has made all of its "
            f"total_steps={scheduler.total_steps}. Give it as many as the training has."
        )


def find_missing_arguments(function: Callable[..., Any]) -> str:
    """Say which argument `function()` would miss; empty if none, or if it has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return ""
    # torch's schedulers put a plain function in the place of optimizer.step, which has a `self`.
    given = [None] if "self" in signature.parameters else []
    try:
        signature.bind(*given)
    except TypeError as error:
        return str(error)
    return ""


def _is_sam(optimizer: object) -> bool:
    """Say whether it has the two halves of a step of SAM, whose `step` calls a closure between."""
    has_first = callable(getattr(optimizer, "first_step", None))
    return has_first and callable(getattr(optimizer, "second_step", None))


def _refuses_none(step: Callable[..., Any]) -> bool:
    function = inspect.unwrap(step)
    return _refuses_none_in_body(getattr(function, "__func__", function))


@lru_cache(maxsize=256)
def _refuses_none_in_body(function: Callable[..., Any]) -> bool:
    """Say whether the body raises where the parameter `closure` is None."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source: written in C, typed into a prompt
        return False
    # Either `assert closure is not None`, or `if closure is None:` whose first statement raises.
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and ast.unparse(node.test) in PRESENT:
            return True
        if isinstance(node, ast.If) and ast.unparse(node.test) in ABSENT:
            return isinstance(node.body[0], ast.Raise)
    return False
