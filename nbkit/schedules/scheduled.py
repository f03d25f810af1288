"""Drive the lr of an optimizer by a schedule that counts the updates which were really made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from nbkit.base.numbers import read_integer, read_real
from nbkit.base.report import Report
from nbkit.schedules.plateau import Plateau, PlateauState, PlateauVerdict, read_metric
from nbkit.schedules.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Scheduled(Report):
    """Set an optimizer's lr from the number of updates that it has made; there is no `step()`.

        lr of a group = the group's base lr * schedule(count) * plateau's factor

    Write your loop as before; each `optimizer.step()` moves the schedule on. Micro-batches that
    are accumulated, and steps that a loss scale skips, call no step and are not counted. A fused
    optimizer is called and skips inside; this is seen, too (on a GPU it waits for the result, as
    the next lr depends on it). A step that raises is not counted.

    Args:
        optimizer: of torch.optim, or a subclass of `torch.optim.Optimizer`. The lrs that its groups
            have now are the base lrs. A group that is added later comes with its own.
        schedule: from `lr_schedule`. For a function of your own, use torch's LambdaLR.
        plateau: lowers the lr further, by what `validate` is told.
    Raises:
        TypeError, ValueError: for a wrong argument, or if the optimizer has a Scheduled already;
            no lr has been changed.

    Nothing but `lr` is touched: momentum and betas stay. If something else sets an lr between two
    steps, the next step overwrites it. Between steps, group["lr"] is the lr of the next step. With
    past_end="raise", the step behind the last one raises before it changes anything.

    `close()` lets go of the optimizer and sets the base lrs again; so does leaving a `with` block.

    >>> from nbkit.schedules import lr_schedule
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> scheduled = Scheduled(optimizer, lr_schedule("linear", 4))
    >>> for _ in range(3):
    ...     optimizer.step()
    >>> scheduled.count, [round(lr, 3) for lr in scheduled.lrs]
    (3, [0.025])
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, *, plateau: Plateau | None = None
    ) -> None:
        _check_schedulable(optimizer, schedule, plateau)

        self.optimizer, self.schedule, self.plateau = optimizer, schedule, plateau
        self.count = 0  # updates made so far
        self._plateau_state = PlateauState()
        self._factor = 1.0  # of the next update
        self._bases: list[float] = []  # of each group, in the optimizer's order
        self._closed = False
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._update_lrs()

    # ---- what the optimizer calls ----

    def _before_step(self, *_: object) -> None:
        """Refuse a step past the end, and set the lrs: a group may be new, or an lr overwritten."""
        if self.count >= self.schedule.limit:
            raise ValueError(
                f"this schedule ({self.schedule.table()[0]}) has ended after {self.count} updates, "
                f"and optimizer.step() was called once more; nothing was changed. Make it for as "
                f'many updates as the training has (nbkit.updates), or with past_end="hold".'
            )
        self._set_lrs()

    def _after_step(self, *_: object) -> None:
        """Count the step if it was made, and set the lrs of the next one."""
        # A fused optimizer is called by GradScaler even if it will skip, with this attribute set.
        found = getattr(self.optimizer, "found_inf", None)
        if found is not None and bool(found):
            return
        self.count += 1
        self._update_lrs()

    def _update_lrs(self) -> None:
        """Compute the factor of the next update, and set the lrs."""
        self._factor = self.schedule(self.count)
        if self.plateau is not None and self.cuts:
            self._factor *= self.plateau.find_factor(self._plateau_state)
        self._set_lrs()

    def _set_lrs(self) -> None:
        """Set each group's lr from its base lr; take the base lr of groups that are new."""
        groups = self.optimizer.param_groups
        bases, factor = self._bases, self._factor
        for group in groups[len(bases) :]:
            bases.append(float(group["lr"]))
        # Called twice a step: a plain number is set here, without another call.
        for group, base in zip(groups, bases, strict=True):
            if type(group["lr"]) is float:
                group["lr"] = base * factor
            else:
                _set_lr(group, base * factor)

    # ---- what the user asks ----

    @property
    def factor(self) -> float:
        """Return the factor on the base lrs in the next update."""
        return self._factor

    @property
    def lrs(self) -> list[float]:
        """Return the lr of each group in the next update."""
        lrs = []
        for place, group in enumerate(self.optimizer.param_groups):
            # A group that was added since the last step has still its base lr.
            base = self._bases[place] if place < len(self._bases) else float(group["lr"])
            lrs.append(base * self._factor)
        return lrs

    @property
    def cuts(self) -> int:
        """Return how often the plateau has lowered the lr."""
        return self._plateau_state.cuts

    def validate(self, metric: Any) -> PlateauVerdict:
        """Tell the plateau one validation metric, and lower the lr if it has stood still too long.

        Args:
            metric: a number or a tensor of one number; NaN is not better than anything.
        Returns:
            PlateauVerdict: "warm-up" (not counted, as the lr still rises), "better", "waiting" or
            "cut".
        Raises:
            ValueError: without a plateau, or after `close()`.
            TypeError: if the metric is not one number.
        """
        if self.plateau is None:
            raise ValueError(
                "validate needs a plateau, got none: Scheduled(optimizer, schedule, "
                "plateau=Plateau())."
            )
        self._require_open()
        read_metric(metric)
        # During the warm-up a bad loss says nothing about an lr that is still rising.
        if self.count < self.schedule.warmup:
            return PlateauVerdict.WARMUP
        self._plateau_state, verdict = self.plateau.judge_metric(self._plateau_state, metric)
        self._update_lrs()
        return verdict

    # ---- leaving and resuming ----

    def close(self) -> None:
        """Let go of the optimizer and set the base lrs again; a second call does nothing."""
        if self._closed:
            return
        for hook in self._hooks:
            hook.remove()
        # Groups that no step has seen yet have their base lr still.
        for group, base in zip(self.optimizer.param_groups, self._bases, strict=False):
            _set_lr(group, base)
        self._closed = True

    def __enter__(self) -> Scheduled:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the base lrs, and what plateau and schedule are, as plain values."""
        plateau = None if self.plateau is None else asdict(self.plateau)
        return {
            "count": self.count,
            "base_lrs": list(self._bases),
            "schedule": self.schedule.to_dict(),
            "plateau": plateau,
            "plateau_state": asdict(self._plateau_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same schedule, also with a new optimizer.

        The base lrs are those of the state, whatever lrs the optimizer was built with or has
        loaded. So the order in which the two states are loaded does not matter.

        Raises:
            ValueError: if the state is of another schedule or plateau, or has more groups than the
                optimizer; nothing has been changed.
        """
        self._require_open()
        self._check_state(state)

        plateau_state = PlateauState(**state["plateau_state"])
        self.count, self._plateau_state = int(state["count"]), plateau_state
        # Groups that the state does not know keep their own base lrs.
        bases = [float(base) for base in state["base_lrs"]]
        self._bases[: len(bases)] = bases
        self._update_lrs()

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("expected an open Scheduled, but it was closed: make a new one.")

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that is not of this schedule and plateau."""
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        if missing:
            raise ValueError(
                f"expected a state_dict of Scheduled, but it has no {', '.join(missing)}."
            )
        for name in ("schedule", "plateau"):
            if state[name] != own[name]:
                raise ValueError(
                    f"expected a state of the same {name}, got one of {state[name]}, and this is "
                    f"{own[name]}. Make the {name} as it was when the state was saved."
                )
        count, bases = read_integer(state["count"]), state["base_lrs"]
        if count is None or count < 0 or count > self.schedule.limit:
            raise ValueError(
                f"count must be from 0 to the {self.schedule.updates} updates of the schedule, got "
                f"{state['count']!r}."
            )
        groups = len(self.optimizer.param_groups)
        if len(bases) > groups or any(read_real(base) is None for base in bases):
            raise ValueError(
                f"expected the base lrs of at most {groups} parameter groups, got {bases}. Add the "
                f"groups that the saved optimizer had first."
            )

    # ---- how it prints ----

    def to_dict(self) -> dict[str, object]:
        """Return the state and the lrs of the next update as plain JSON."""
        return {**self.state_dict(), "lrs": self.lrs}

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[int, float, float]]]:
        """Return where the training stands, and a row for each parameter group."""
        summary = (
            f"{self.count} of {self.schedule.updates} updates made; the next lr is "
            f"{self.factor:.3g} of the base lr; {self.schedule.table()[0]}"
        )
        if self.plateau is not None:
            summary += f"; lowered {self.cuts} times by the plateau"
        rows = []
        for number, (base, lr) in enumerate(zip(self._bases, self.lrs, strict=False)):
            rows.append((number, base, lr))
        return summary, ("group", "base lr", "next lr"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the schedule, with a line where the training stands."""
        ax = self.schedule.plot(ax)
        ax.axvline(self.count, color="#767676", linestyle=":")
        return ax


def _check_schedulable(optimizer: object, schedule: object, plateau: object) -> None:
    """Refuse what cannot be scheduled, before anything is changed."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"expected an optimizer of torch.optim, got a {type(optimizer).__name__}: the updates "
            f"are counted by its step hooks. Of a wrapper, pass the optimizer inside."
        )
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"expected a Schedule from lr_schedule(...), got {schedule!r}. A function of your own "
            f"cannot be recognised when a state is loaded: use torch's LambdaLR for it."
        )
    if plateau is not None and not isinstance(plateau, Plateau):
        raise TypeError(f"plateau must be a Plateau or None, got {plateau!r}.")
    # A second one would take the first one's lrs for base lrs.
    for hook in optimizer._optimizer_step_pre_hooks.values():
        if isinstance(getattr(hook, "__self__", None), Scheduled):
            raise ValueError(
                "expected an optimizer without a Scheduled, but this one has one already: close() "
                "it first. To combine two schedules, multiply them."
            )


def _set_lr(group: dict[str, Any], lr: float) -> None:
    """Set the lr of a group; a tensor, which a compiled step may hold, is filled in place."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
