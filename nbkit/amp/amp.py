"""Mixed precision in a loop of one's own: autocast, loss scaling, and an account of skipped steps.

amp = Amp("fp16")
for x, y in batches:
    optimizer.zero_grad()
    with amp.autocast():
        loss = loss_fn(model(x), y)
    amp.backward(loss)
    report = amp.step(optimizer, clip=dict(max_norm=1.0))
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from nbkit.amp import loss_scale
from nbkit.amp.skips import Account, Accounts, Skipped, StepReport
from nbkit.base.dtypes import backward_context, check_supported, forward_context
from nbkit.base.gradients import Parameters, join_names, named_parameters, read_gradients
from nbkit.base.numbers import read_real
from nbkit.base.optimizers import check_plain_scheduler, check_plain_step
from nbkit.base.shards import refuse_shards
from nbkit.clipping import ClipReport, ClipRule


class Amp:
    """One precision for a training: what to compute in, how to scale the loss, when to step.

    "fp32" is bit for bit the plain loop. "tf32" lets the matrix products and convolutions of both
    passes round their factors to 10 bits, and gives the settings back. "bf16" and "fp16" are
    torch's autocast. "fp16" also scales the loss, so that small gradients do not vanish; where a
    gradient overflows, the step is skipped and the scale falls.

    Args:
        precision: "fp32", "tf32", "bf16" or "fp16".
        device: where the model is; by default CUDA if there is one, else the CPU.
        init_scale: of the loss, with fp16. Powers of two do not round.
        growth_interval: steps without a skip after which the scale doubles.
        max_skips: so many skips of one optimizer in a row are an error. From 65536 the scale is
            at 1 after 16; where that does not help, more of the same does not either.
    Raises:
        ValueError: for a precision that the device does not have; the message says what it has.
            For a scale that is not positive or not finite, and for numbers of steps below 1.

    The scale changes at the first `backward` after a step. So optimizers that have gradients from
    one loss step before the next `backward`; where they step at different rhythms, one Amp each.

    Source: Micikevicius et al. 2018, "Mixed precision training".

    >>> amp, weight = Amp("fp16", "cpu"), nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> amp.backward(weight.sum() * 1e37)  # 65536 times that is infinite
    >>> print(amp.step(optimizer))
    skipped, gradients not finite; loss scale 65536
    >>> amp.skipped
    Skipped(total=1, per_optimizer={'SGD': 1})
    """

    def __init__(
        self,
        precision: str = "bf16",
        device: str | torch.device | None = None,
        *,
        init_scale: float = 2.0**16,
        growth_interval: int = 2000,
        max_skips: int = 20,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_supported(precision, self.device)
        _check_scaling(init_scale, growth_interval, max_skips)
        self.precision, self.max_skips = precision, int(max_skips)
        self.scaler: GradScaler | None = None
        if precision == "fp16":
            kind = self.device.type
            self.scaler = GradScaler(
                kind, init_scale=init_scale, growth_interval=int(growth_interval)
            )
        self._accounts = Accounts()
        self._loss: Tensor | None = None

    def __repr__(self) -> str:
        return f"Amp({self.precision!r}, {str(self.device)!r})"

    def autocast(self) -> AbstractContextManager:
        """The context for the forward pass and the loss."""
        return forward_context(self.precision, self.device)

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """`loss.backward()`, with the loss scaled where that is due. Once per micro-batch."""
        if self.scaler is not None:
            loss_scale.begin(self.scaler, self._accounts.by_id)
            self._loss = loss.detach()  # for the day when it is the cause
            loss = self.scaler.scale(loss)
        with backward_context(self.precision):
            loss.backward(**keywords)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Make the gradients of an optimizer what they would be without a loss scale.

        To look at them, or to clip over several optimizers at once; `step` does it anyway. It
        happens once, whoever comes first: this method, `step`, or the scaler's own.
        """
        if self.scaler is not None:
            self._check_order(optimizer, unscales=True)
            self._accounts.of(optimizer)
            loss_scale.unscale_(self.scaler, optimizer)

    def step(
        self,
        optimizer: Optimizer,
        *,
        clip: Mapping[str, Any] | None = None,
        scheduler: Any = None,
    ) -> StepReport:
        """Unscale, clip, step, in this order; or skip the step if a gradient is not finite.

        Args:
            optimizer: fused ones too; none whose `step` needs a closure (L-BFGS, SAM).
            clip: `clip_gradients_`'s keywords, such as `dict(max_norm=1.0)`, for the gradients of
                this optimizer. `parameters` may name them, which agc needs: `dict(parameters=model,
                agc=0.01)`. With fp16, `nonfinite` is "skip" by default. With "skip" a step whose
                gradients are not finite is skipped in the other precisions too.
            scheduler: steps if the optimizer did; its `step()` must need no argument.
        Returns:
            StepReport: whether it stepped, the loss scale, and the clip's report.
        Raises:
            FloatingPointError: at `max_skips` skips in a row, with the cause. With fp16, a fused
                optimizer and no scheduler, nothing waits for the GPU: it comes that much later.
            ValueError, TypeError, RuntimeError: for a wrong argument or order; nothing has changed.

        What the optimizer's or the scheduler's own `step` raises comes as it is, and after what
        they had done by then.
        """
        check_plain_step(optimizer, "Amp.step")
        check_plain_scheduler(scheduler)
        if clip is None and self.scaler is None:  # nothing that could be skipped
            optimizer.step()
            report = StepReport()
        else:
            report = self._step(optimizer, clip, waits=scheduler is not None)
        if scheduler is not None and report.stepped:
            scheduler.step()
        return report

    def _step(self, optimizer: Optimizer, clip: Mapping | None, waits: bool) -> StepReport:
        clip_, skip = self._clip(optimizer, clip)
        fused = self.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        unscales = clip_ is not None or not fused  # left alone, a fused kernel unscales as it steps
        self._check_order(optimizer, unscales)
        account = self._accounts.of(optimizer)

        if unscales:
            self.unscale_(optimizer)
        clipped = None if clip_ is None else clip_()
        if self.scaler is not None:
            report = StepReport(clipped, loss_scale.step(self.scaler, optimizer))
        elif skip and clipped is not None and clipped.nonfinite:
            report = StepReport(clipped, (1.0, 1.0))
        else:
            optimizer.step()
            report = StepReport(clipped)

        uncounted = self._accounts.note(account, report)
        if waits or not fused or uncounted >= self.max_skips:
            self._accounts.settle()
            if account.streak >= self.max_skips:
                raise FloatingPointError(self._cause(optimizer, account, report))
        return report

    def _check_order(self, optimizer: Optimizer, unscales: bool) -> None:
        """Refuse what could not be unscaled, or would be unscaled wrongly, before it is touched."""
        if self.scaler is None:
            return
        if unscales:
            loss_scale.check_dtypes(optimizer)
        loss_scale.check_stage(self.scaler, optimizer)
        refuse_shards(optimizer, named_parameters(optimizer), "the search for an overflow")

    @property
    def skipped(self) -> Skipped:
        """The optimizer steps skipped so far, in total and per optimizer."""
        return self._accounts.skipped()

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and the skips, as plain values. Between two steps, not within one."""
        state: dict[str, Any] = {"precision": self.precision, "skips": self._accounts.state()}
        if self.scaler is not None:
            state["scaler"] = loss_scale.state_of(self.scaler)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same precision.

        Raises:
            ValueError: if it is of another precision, or something else; nothing has changed.
        """
        self._check_state(state)
        if self.scaler is not None:
            loss_scale.load(self.scaler, state["scaler"])
        self._accounts.load(state["skips"])

    def _check_state(self, state: Mapping[str, Any]) -> None:
        _require(("precision", "skips"), state, "the state")
        if state["precision"] != self.precision:
            raise ValueError(
                f"the state was saved with precision {state['precision']!r}, but this is {self!r}."
            )
        for account in state["skips"]:
            _require([each.name for each in fields(Account)], account, "an item of its skips")
        if self.scaler is not None:
            _require(["scaler"], state, "the state")
            _require(self.scaler.state_dict(), state["scaler"], "its scaler")

    def _clip(
        self, optimizer: Optimizer, clip: Mapping[str, Any] | None
    ) -> tuple[Callable[[], ClipReport] | None, bool]:
        """What clips as a step's `clip` asks, checked, and whether it asks to skip bad steps."""
        if clip is None:
            return None, False
        _check_keywords(clip)
        keywords = {"nonfinite": "raise" if self.scaler is None else "skip", **clip}
        parameters = keywords.pop("parameters", optimizer)
        rule = ClipRule(**keywords)
        if parameters is not optimizer:
            parameters = _own_parameters(optimizer, parameters)
        return rule.bind(parameters), rule.nonfinite == "skip"

    def _cause(self, optimizer: Optimizer, account: Account, report: StepReport) -> str:
        parameters = named_parameters(optimizer)
        grads = read_gradients(parameters)
        lost = [name for name, each in parameters.items() if not each.isfinite().all()]
        bad = [name for name, each in grads.items() if not each.isfinite().all()]
        where = "find_nonfinite(model, batch, loss_fn) names the module."
        if lost:
            cause = (
                f"the parameters {join_names(lost)} hold infinity or NaN. Go back to a checkpoint."
            )
        elif self._loss is not None and not self._loss.isfinite().all():
            cause = f"the loss is {self._loss.tolist()}, before any scaling. {where}"
        else:
            before = "the loss is finite, " if self._loss is not None else ""
            cause = f"{before}the gradients of {join_names(bad)} are not. {where}"
        return (
            f"{account.streak} steps of {account.name} in a row were skipped, the last one at a "
            f"loss scale of {report.scale:g}: {cause}"
        )


def _check_scaling(init_scale: Any, growth_interval: Any, max_skips: Any) -> None:
    held = torch.finfo(torch.float32)
    scale = read_real(init_scale)
    if scale is None or not held.tiny <= scale <= held.max:
        raise ValueError(
            f"init_scale must be a finite number > 0, such as 2.0**16, got {init_scale!r}."
        )
    for name, steps in {"growth_interval": growth_interval, "max_skips": max_skips}.items():
        if not isinstance(steps, Integral) or steps < 1:
            raise ValueError(f"{name} must be a whole number of steps, at least 1, got {steps!r}.")


def _require(names: Iterable[str], part: Any, where: str) -> None:
    missing = [name for name in names if not isinstance(part, Mapping) or name not in part]
    if missing:
        raise ValueError(
            f"expected what Amp.state_dict() gave, but {where} has no {', '.join(missing)}. "
            f"Nothing was loaded."
        )


def _check_keywords(clip: object) -> None:
    if not isinstance(clip, Mapping):
        raise TypeError(
            f"clip must be a dict of clip_gradients_'s keywords, such as dict(max_norm=1.0), "
            f"got {clip!r}."
        )
    known = ["parameters", *(each.name for each in fields(ClipRule))]
    for name in clip:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]
            raise TypeError(f"clip: clip_gradients_ has no {name!r}; the nearest is {near!r}.")


def _own_parameters(optimizer: Optimizer, parameters: Parameters) -> Parameters:
    """What `clip` names, checked: another optimizer's gradients may still carry the loss scale."""
    named = named_parameters(parameters)
    own = {id(each) for each in named_parameters(optimizer).values()}
    foreign = [name for name, p in named.items() if p.grad is not None and id(p) not in own]
    if foreign:
        raise ValueError(
            f"clip: {join_names(foreign)} do not belong to this {type(optimizer).__name__}. For "
            f"one norm over several optimizers: amp.unscale_(optimizer) for each, clip_gradients_, "
            f"then amp.step(optimizer) for each, without clip."
        )
    return parameters if isinstance(parameters, nn.Module) else list(named.items())
