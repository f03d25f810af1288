"""A change to the BatchNorm layers of a model that can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nbkit.base.report import Report


@dataclass
class Undo(Report):
    """Take a change to a model back: by `undo()`, or at the end of a `with` block.

    Attributes:
        what: what was done to the layers.
        before: for each changed layer, by name, its mode or momentum before the change.
        after: for each changed layer, its mode or momentum after the change.
        left: for each BatchNorm layer left unchanged, the reason.
    """

    what: str
    before: dict[str, str | float] = field(default_factory=dict)
    after: dict[str, str | float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    @property
    def names(self) -> list[str]:
        """Return the names of the changed layers."""
        return list(self.after)

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[str, str | float, str | float]]]:
        """Return a summary, the names of the columns, and one row per BatchNorm layer.

        The rows show the change, also after it was taken back.
        """
        rows = [(name, self.before[name], self.after[name]) for name in self.names]
        for name, why in self.left.items():
            rows.append((name, "-", f"left: {why}"))
        summary = f"{self.what}: {len(self.names)} BatchNorm layers, {len(self.left)} left"
        return summary, ("layer", "before", "after"), rows

    def add_step(self, step: Callable[[], object]) -> None:
        """Add a step that takes one part of the change back, if that part is in force."""
        self._steps.append(step)

    def undo(self) -> None:
        """Take the change back; a second call does nothing.

        The exception is a change that is in force again: `preserve_state` restores a change that
        was in force before its block. So the steps are kept, and each step first looks whether
        its part of the change is in force.
        """
        # The last change is taken back first, as with nested contexts.
        for step in reversed(self._steps):
            step()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()
