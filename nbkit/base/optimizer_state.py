"""An optimizer, or an object that drives or wraps one: all of its attributes.

A state_dict need not hold everything that the next steps depend on: a step counter, an averager, a
preconditioner, the slow weights of Lookahead. So the attributes are read instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nbkit.base.attributes import Attributes, list_class_places
from nbkit.base.module_state import list_hooks


class OptimizerState(Attributes):
    """An optimizer with its hooks, its classes and all of its attributes."""

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List hooks, classes, groups and state, then the other attributes."""
        yield from list_hooks(self)
        yield from list_class_places(self)
        yield from super().list_children()


def drives_optimizer(thing: Any) -> bool:
    """Say whether an object is a scheduler, a scaler, or a wrapper that holds an optimizer."""
    if isinstance(thing, LRScheduler | GradScaler):
        return True
    # A wrapper, such as Lookahead's, keeps the optimizer in an attribute.
    attributes = getattr(thing, "__dict__", {})
    return any(isinstance(value, Optimizer) for value in attributes.values())
