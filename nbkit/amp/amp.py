"""Mixed precision in your own loop: autocast, loss scaling, and a count of skipped steps.

amp = Amp("fp16")
for x, y in batches:
    optimizer.zero_grad()
    with amp.autocast():
        loss = loss_fn(model(x), y)
    amp.backward(loss)
    report = amp.step(optimizer, clip=dict(max_norm=1.0))
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from nbkit.amp import loss_scale
from nbkit.amp.causes import explain_skips
from nbkit.amp.clip_keywords import ClipPlan, plan_clip
from nbkit.amp.saved_state import check_saved_state
from nbkit.amp.skips import SkipCounts, Skipped, StepReport
from nbkit.base.dtypes import backward_context, check_supported, forward_context
from nbkit.base.gradients import named_parameters
from nbkit.base.numbers import read_integer, read_real
from nbkit.base.optimizers import check_plain_scheduler, check_plain_step
from nbkit.base.shards import refuse_shards


class Amp:
    """Train in one precision: choose the dtype, scale the loss, and step in the right order.

    "fp32" is bit for bit the plain loop. "tf32" rounds the factors of matrix products and
    convolutions to 10 bits, in forward and backward, and restores torch's settings afterwards.
    "bf16" and "fp16" are torch's autocast. "fp16" also scales the loss, so that small gradients do
    not become zero; when a gradient overflows, the step is skipped and the scale is halved.

    Args:
        precision: "fp32", "tf32", "bf16" or "fp16".
        device: the model's device; by default CUDA if available, else the CPU.
        init_scale: the first loss scale of fp16. A power of two adds no rounding.
        growth_interval: steps without a skip after which the scale doubles.
        max_skips: raise an error after this many skips of one optimizer in a row. From 65536 the
            scale reaches 1 after 16 skips; a smaller scale would not help.
    Raises:
        ValueError: if the device does not support the precision (the message lists those that it
            does), if the scale is not positive and finite, or if a number of steps is below 1.

    The scale changes at the first `backward` after a step. So step every optimizer that has
    gradients from one loss before the next `backward`; optimizers that step at different times
    need one Amp each.

    Source: Micikevicius et al. 2018, "Mixed precision training".

    >>> from torch import nn
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
        _check_scaling_options(init_scale, growth_interval, max_skips)

        # Whole numbers of numpy count as well; from here on they are Python's.
        self.precision, self.max_skips = precision, int(max_skips)
        self.scaler: GradScaler | None = None
        if precision == "fp16":
            self.scaler = GradScaler(
                self.device.type, init_scale=float(init_scale), growth_interval=int(growth_interval)
            )
        self._counts = SkipCounts()
        # Kept only for the error message of a long row of skips.
        self._last_loss: Tensor | None = None

    def __repr__(self) -> str:
        return f"Amp({self.precision!r}, {str(self.device)!r})"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the forward pass and the loss."""
        return forward_context(self.precision, self.device)

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """Call `loss.backward(**keywords)`, with a scaled loss in fp16; once per micro-batch."""
        if self.scaler is not None:
            loss_scale.prepare_backward(self.scaler, self._counts.find_optimizer)
            self._last_loss = loss.detach()  # detached, so that backward frees the graph
            loss = self.scaler.scale(loss)
        # TF32 is a setting for both passes; autocast acts on the forward pass only.
        with backward_context(self.precision):
            loss.backward(**keywords)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide an optimizer's gradients by the loss scale, in place; do nothing without one.

        Call it to look at gradients, or to clip over several optimizers at once; `step` does it
        anyway. A second call changes nothing, nor does one after `amp.scaler.unscale_`.
        """
        if self.scaler is not None:
            self._check_order(optimizer, unscales=True)
            # The count holds the optimizer, by which the next backward knows who has not stepped.
            self._counts.find_count(optimizer)
            loss_scale.unscale_once_(self.scaler, optimizer)

    def step(
        self,
        optimizer: Optimizer,
        *,
        clip: Mapping[str, Any] | None = None,
        scheduler: Any = None,
    ) -> StepReport:
        """Unscale, clip and step, in this order; skip the step if a gradient is not finite.

        Args:
            optimizer: fused ones too; none whose `step` needs a closure (L-BFGS, SAM).
            clip: keywords of `clip_gradients_`, such as `dict(max_norm=1.0)`, for the gradients of
                this optimizer. `parameters` may name them, which agc needs: `dict(parameters=model,
                agc=0.01)`. With fp16, `nonfinite` is "skip" by default. With "skip" a step whose
                gradients are not finite is skipped in the other precisions too.
            scheduler: steps if the optimizer did; its `step()` must need no argument.
        Returns:
            StepReport: whether it stepped, the loss scale, and the report of the clip.
        Raises:
            FloatingPointError: at `max_skips` skips in a row, with the cause. With fp16, a fused
                optimizer and no scheduler nothing waits for the GPU, so the error comes up to
                `max_skips` steps later.
            ValueError, TypeError, RuntimeError: for a wrong argument or order; nothing has changed.

        An error from `optimizer.step` or `scheduler.step` is passed on, and what they had changed
        by then stays changed.
        """
        check_plain_step(optimizer, "Amp.step")
        check_plain_scheduler(scheduler)

        # Without a loss scale and without a clip there is no reason to skip.
        if clip is None and self.scaler is None:
            optimizer.step()
            report = StepReport()
        else:
            report = self._step_and_count(optimizer, clip, waits=scheduler is not None)
        # A schedule counts real steps: after a skip the learning rate stays.
        if scheduler is not None and report.stepped:
            scheduler.step()
        return report

    def _step_and_count(
        self, optimizer: Optimizer, clip: Mapping[str, Any] | None, waits: bool
    ) -> StepReport:
        """Make or skip one step, note it, and raise after too many skips in a row."""
        # With a loss scale an overflow is expected now and then, without one it is an error.
        plan = plan_clip(optimizer, clip, nonfinite="raise" if self.scaler is None else "skip")
        fused = self.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        # A fused kernel divides by the scale while it steps; a clip needs the true gradients first.
        unscales = plan is not None or not fused
        self._check_order(optimizer, unscales)
        count = self._counts.find_count(optimizer)

        if unscales:
            self.unscale_(optimizer)
        report = self._step_or_skip(optimizer, plan)

        # Counting reads the report, which waits for a GPU: a fused step puts it off.
        uncounted = self._counts.note_step(count, report)
        if waits or not fused or uncounted >= self.max_skips:
            self._counts.count_noted_steps()
            if count.streak >= self.max_skips:
                raise FloatingPointError(explain_skips(optimizer, count, report, self._last_loss))
        return report

    def _step_or_skip(self, optimizer: Optimizer, plan: ClipPlan | None) -> StepReport:
        """Clip, then step unless a gradient is not finite."""
        clipped = None if plan is None else plan.clip_()
        if self.scaler is not None:
            # The scaler decides on the device: nothing waits here.
            return StepReport(clipped, loss_scale.step_or_skip(self.scaler, optimizer))

        # Without a scaler only the clip has looked at the gradients.
        skips = plan is not None and plan.skips_nonfinite
        if skips and clipped is not None and clipped.nonfinite:
            return StepReport(clipped, (1.0, 1.0))  # skipped, at a loss scale of 1
        optimizer.step()
        return StepReport(clipped)

    def _check_order(self, optimizer: Optimizer, unscales: bool) -> None:
        """Refuse gradients that cannot be unscaled now, before any of them is changed."""
        if self.scaler is None:
            return
        if unscales:
            loss_scale.check_gradient_dtypes(optimizer)
        loss_scale.check_stage(self.scaler, optimizer)
        refuse_shards(optimizer, named_parameters(optimizer), "the search for an overflow")

    @property
    def skipped(self) -> Skipped:
        """Return how many optimizer steps were skipped so far, in total and per optimizer."""
        return self._counts.report_skips()

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale and the skips as plain values; call it between two steps.

        Raises:
            RuntimeError: between `unscale_` and `step`.
        """
        state: dict[str, Any] = {"precision": self.precision, "skips": self._counts.save_counts()}
        if self.scaler is not None:
            state["scaler"] = loss_scale.save_scaler(self.scaler)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same precision.

        Raises:
            ValueError: if the precision differs or a part is missing; nothing has changed.
        """
        check_saved_state(state, self.precision, self.scaler)

        # From here on nothing fails, so that a state is loaded whole or not at all.
        if self.scaler is not None:
            loss_scale.load_scaler(self.scaler, state["scaler"])
        self._counts.load_counts(state["skips"])


def _check_scaling_options(init_scale: Any, growth_interval: Any, max_skips: Any) -> None:
    # The scaler keeps its scale in float32, where smaller numbers lose digits.
    limits = torch.finfo(torch.float32)
    scale = read_real(init_scale)
    if scale is None or not limits.tiny <= scale <= limits.max:
        raise ValueError(
            f"init_scale must be a finite number > 0, such as 2.0**16, got {init_scale!r}."
        )
    for name, steps in {"growth_interval": growth_interval, "max_skips": max_skips}.items():
        count = read_integer(steps)
        if count is None or count < 1:
            raise ValueError(f"{name} must be a whole number of steps, at least 1, got {steps!r}.")
