"""An optimizer, and whatever drives or wraps one: all of its attributes.

A state_dict need not hold everything that the next steps depend on: a step counter, an averager, a
preconditioner, the slow weights of Lookahead. So it is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nbkit.base.attributes import Attributes, ClassAttributes, list_classes
from nbkit.base.module_state import list_hooks


class OptimizerState(Attributes):
    """An optimizer with everything that hangs on it."""

    def children(self) -> Iterator[tuple[str, Any]]:
        """List hooks, classes, groups and state, then the other attributes."""
        yield from list_hooks(self)
        for kind in list_classes(self.owner):
            yield f"class {kind.__name__}", ClassAttributes(kind)
        yield from super().children()


def drives_optimizer(thing: Any) -> bool:
    """Say whether an object is a scheduler, a scaler, or a wrapper that holds an optimizer."""
    if isinstance(thing, LRScheduler | GradScaler):
        return True
    return any(isinstance(each, Optimizer) for each in getattr(thing, "__dict__", {}).values())
