"""The account of optimizer steps: which were made, which were skipped, and how many in a row."""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from functools import cached_property

from torch import Tensor
from torch.optim import Optimizer

from nbkit.base.report import Report, convert_to_json
from nbkit.clipping import ClipReport


@dataclass(eq=False)
class StepReport(Report):
    """What `Amp.step` did. On a GPU the numbers stay there until the first one is read.

    Attributes:
        clip: what the clip reported; None without one.
        numbers: 0 if the step was made, and the loss scale that its gradients carried.
    """

    clip: ClipReport | None = None
    numbers: Tensor | tuple[float, float] = (0.0, 1.0)

    @cached_property
    def _read(self) -> tuple[float, float]:
        found, scale = self.numbers.tolist() if isinstance(self.numbers, Tensor) else self.numbers
        return found, scale

    @property
    def stepped(self) -> bool:
        """Whether the optimizer moved the parameters; False if a gradient was not finite."""
        return self._read[0] == 0

    @property
    def scale(self) -> float:
        """The loss scale that this step's gradients carried; 1.0 where there is none."""
        return self._read[1]

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain JSON."""
        return {"stepped": self.stepped, "scale": self.scale, "clip": convert_to_json(self.clip)}

    def table(self):
        """What was done, and the clip's table."""
        done = "stepped" if self.stepped else "skipped, gradients not finite"
        summary = f"{done}; loss scale {self.scale:g}"
        if self.clip is None:
            return summary, (), ()
        clip, columns, rows = self.clip.table()
        return f"{summary}; {clip}", columns, rows


@dataclass
class Skipped(Report):
    """How many optimizer steps were skipped so far, in the order of the optimizers' first steps."""

    total: int
    per_optimizer: dict[str, int]

    def table(self):
        """A row an optimizer."""
        rows = list(self.per_optimizer.items())
        return f"{self.total} optimizer steps skipped", ("optimizer", "skipped"), rows


@dataclass
class Account:
    """The skips of one optimizer."""

    name: str
    skipped: int = 0
    streak: int = 0


class Accounts:
    """Every optimizer's account. Step reports are counted when somebody asks, not before."""

    def __init__(self) -> None:
        self._accounts: list[Account] = []
        # Weak, so that no old model stays alive. None: from a checkpoint, not claimed yet.
        self._owners: list[weakref.ref[Optimizer] | None] = []
        self._unread: list[tuple[Account, StepReport]] = []

    def of(self, optimizer: Optimizer) -> Account:
        """The optimizer's account: its own, an unclaimed one of its kind, or a new one."""
        for owner, account in zip(self._owners, self._accounts, strict=True):
            if owner is not None and owner() is optimizer:
                return account
        kind = type(optimizer).__name__
        same = [i for i, account in enumerate(self._accounts) if account.name.split()[0] == kind]
        place = next((i for i in same if self._owners[i] is None), len(self._accounts))
        if place == len(self._accounts):
            self._accounts.append(Account(f"{kind} {len(same) + 1}" if same else kind))
            self._owners.append(None)
        self._owners[place] = weakref.ref(optimizer)
        return self._accounts[place]

    def by_id(self, key: int) -> Optimizer | None:
        """The optimizer of this id, as the scaler knows it."""
        owners = [owner() for owner in self._owners if owner is not None]
        return next((optimizer for optimizer in owners if id(optimizer) == key), None)

    def note(self, account: Account, report: StepReport) -> int:
        """Remember a step; returns how many are not counted yet."""
        self._unread.append((account, report))
        return len(self._unread)

    def settle(self) -> None:
        """Count the steps that were noted. This reads them."""
        for account, report in self._unread:
            account.streak = 0 if report.stepped else account.streak + 1
            account.skipped += not report.stepped
        self._unread.clear()

    def skipped(self) -> Skipped:
        """All skips so far."""
        self.settle()
        each = {account.name: account.skipped for account in self._accounts}
        return Skipped(sum(each.values()), each)

    def state(self) -> list[dict[str, object]]:
        """Plain values, for a checkpoint."""
        self.settle()
        return [asdict(account) for account in self._accounts]

    def load(self, state: list[dict]) -> None:
        """Take over the counts, each for the optimizer in its place."""
        self._unread.clear()
        alive = [owner if owner is not None and owner() else None for owner in self._owners]
        self._accounts = [Account(**each) for each in state]
        self._owners = (alive + [None] * len(state))[: len(state)]
