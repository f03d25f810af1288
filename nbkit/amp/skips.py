"""Reports of single steps, and counts of the steps that each optimizer skipped."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nbkit.base.report import Report, convert_to_json
from nbkit.clipping import ClipReport


# No ==: comparing tensors would wait for the GPU, and gives no single truth value.
@dataclass(eq=False)
class StepReport(Report):
    """Report what `Amp.step` did. On a GPU the numbers stay there until the first one is read.

    Attributes:
        clip: the report of the clip; None without one.
        numbers: 0 if the step was made, and the loss scale that its gradients carried.
    """

    clip: ClipReport | None = None
    numbers: Tensor | tuple[float, float] = (0.0, 1.0)

    @cached_property
    def _plain_numbers(self) -> tuple[float, float]:
        """Read both numbers in one transfer."""
        found, scale = self.numbers.tolist() if isinstance(self.numbers, Tensor) else self.numbers
        return found, scale

    @property
    def stepped(self) -> bool:
        """Return whether the optimizer moved the parameters; False if gradients overflowed."""
        return self._plain_numbers[0] == 0

    @property
    def scale(self) -> float:
        """Return the loss scale that this step's gradients carried; 1.0 without loss scaling."""
        return self._plain_numbers[1]

    def to_dict(self) -> dict[str, object]:
        """Return the numbers as plain JSON."""
        return {"stepped": self.stepped, "scale": self.scale, "clip": convert_to_json(self.clip)}

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return what was done as the summary, with the table of the clip."""
        done = "stepped" if self.stepped else "skipped, gradients not finite"
        summary = f"{done}; loss scale {self.scale:g}"
        # Without a clip there are no columns to show.
        if self.clip is None:
            return summary, (), ()
        clip, columns, rows = self.clip.table()
        return f"{summary}; {clip}", columns, rows


@dataclass
class Skipped(Report):
    """Report how many optimizer steps were skipped, in the order of the optimizers' first steps."""

    total: int
    per_optimizer: dict[str, int]

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per optimizer."""
        rows = list(self.per_optimizer.items())
        return f"{self.total} optimizer steps skipped", ("optimizer", "skipped"), rows


@dataclass
class SkipCount:
    """Count the skips of one optimizer.

    Attributes:
        name: the optimizer's class, with a number from the second of its class on.
        skipped: all of its skips.
        streak: its skips since the last step that it made.
    """

    name: str
    skipped: int = 0
    streak: int = 0


class SkipCounts:
    """Count the skips of every optimizer. A step's report is read when a count is asked for."""

    def __init__(self) -> None:
        self._counts: list[SkipCount] = []
        # For each count its optimizer, weakly, so that no old model stays alive. None: the count
        # was loaded from a checkpoint, and no optimizer has taken it yet.
        self._owners: list[weakref.ref[Optimizer] | None] = []
        # Steps whose report nobody has read yet.
        self._unread: list[tuple[SkipCount, StepReport]] = []

    def find_count(self, optimizer: Optimizer) -> SkipCount:
        """Return the optimizer's count: its own, a loaded one of its class, or a new one."""
        for owner, count in zip(self._owners, self._counts, strict=True):
            if owner is not None and owner() is optimizer:
                return count
        # A step of this optimizer comes for the first time.
        place = self._find_free_place(type(optimizer).__name__)
        self._owners[place] = weakref.ref(optimizer)
        return self._counts[place]

    def _find_free_place(self, kind: str) -> int:
        """Return the place of the first loaded count of a class, else that of a new count."""
        same = 0
        for place, count in enumerate(self._counts):
            # "SGD 2" is of the class SGD.
            if count.name.split()[0] != kind:
                continue
            if self._owners[place] is None:
                return place
            same += 1
        self._counts.append(SkipCount(f"{kind} {same + 1}" if same else kind))
        self._owners.append(None)
        return len(self._counts) - 1

    def find_optimizer(self, key: int) -> Optimizer | None:
        """Return the optimizer of this id, by which the scaler knows it; None if it is gone."""
        for owner in self._owners:
            optimizer = None if owner is None else owner()  # a dead reference gives None
            if optimizer is not None and id(optimizer) == key:
                return optimizer
        return None

    def note_step(self, count: SkipCount, report: StepReport) -> int:
        """Keep a report for later; return how many are not counted yet."""
        self._unread.append((count, report))
        return len(self._unread)

    def count_noted_steps(self) -> None:
        """Read the reports that were kept, and count them."""
        for count, report in self._unread:
            count.streak = 0 if report.stepped else count.streak + 1
            count.skipped += not report.stepped
        self._unread.clear()

    def report_skips(self) -> Skipped:
        """Return all skips so far."""
        self.count_noted_steps()
        skipped = {count.name: count.skipped for count in self._counts}
        return Skipped(sum(skipped.values()), skipped)

    def save_counts(self) -> list[dict[str, object]]:
        """Return the counts as plain values, for a checkpoint."""
        self.count_noted_steps()
        return [asdict(count) for count in self._counts]

    def load_counts(self, state: list[dict[str, Any]]) -> None:
        """Replace the counts; an optimizer that is alive keeps its place in the order."""
        # Steps before the load do not belong to the loaded counts.
        self._unread.clear()
        self._counts = [SkipCount(**saved) for saved in state]
        owners: list[weakref.ref[Optimizer] | None] = []
        for place in range(len(state)):
            # The loaded counts may be more, or fewer, than the optimizers so far.
            owner = self._owners[place] if place < len(self._owners) else None
            owners.append(owner if owner is not None and owner() is not None else None)
        self._owners = owners
