"""Report a network's first step: signal, gradient, dead units, symmetry, initial loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbkit.base.model_call import unwrap_model
from nbkit.base.report import Report, ensure_axes
from nbkit.initialization.calls import Call
from nbkit.initialization.first_step import FirstStep
from nbkit.initialization.judgement import judge_call, judge_loss
from nbkit.initialization.probe import Probe
from nbkit.initialization.verdict import InitVerdict, LossVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class InitLayer:
    """Report one call of one layer with weights; None if a number was not or cannot be measured.

    Attributes:
        forward_rms: root mean square of the layer's output.
        backward_rms: root mean square of the loss's gradient with respect to that output.
        forward_ratio: forward_rms divided by that of the layer before.
        backward_ratio: norm of the gradient divided by that at the layer after.
        dead_fraction: share of units whose ReLU gives zero for every sample and position.
        saturated_fraction: share of outputs at a limit of its tanh, sigmoid or hardtanh.
        varying_fraction: root mean square of the difference from the mean sample, divided by
            forward_rms.
        duplicate_rows: number of units with the weights and the gradient of another unit.
        verdict: a code, such as InitVerdict.DEAD.
        advice: the reason and the cure in a sentence; empty if there is nothing to say.
    """

    name: str
    forward_rms: float
    backward_rms: float | None
    forward_ratio: float | None
    backward_ratio: float | None
    dead_fraction: float | None
    saturated_fraction: float | None
    varying_fraction: float | None
    duplicate_rows: int | None
    verdict: InitVerdict
    advice: str = ""


@dataclass
class InitReport(Report):
    """Report the layers in the order in which they were called, and the loss before any step.

    Attributes:
        expected_loss: the loss of equal probabilities, log(classes) for a mean cross-entropy;
            None if the target is not one class index for each prediction.
        loss_verdict: a code, such as LossVerdict.TOO_HIGH; `loss_advice` explains it.
        samples: number of samples behind the fractions of dead units.
    """

    layers: list[InitLayer]
    initial_loss: float | None
    expected_loss: float | None
    loss_verdict: LossVerdict
    loss_advice: str
    input_rms: float | None
    samples: int

    @property
    def ok(self) -> bool:
        """Return whether every verdict is ok, that of the loss included."""
        layers_ok = all(layer.verdict is InitVerdict.OK for layer in self.layers)
        return layers_ok and self.loss_verdict is LossVerdict.OK

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per call of a layer."""
        keys = ("name", "forward_rms", "backward_rms", "dead_fraction", "verdict", "advice")
        rows = []
        for layer in self.layers:
            rows.append([_dash_if_none(getattr(layer, key)) for key in keys])
        summary = f"{len(rows)} layers on {self.samples} samples"
        if self.initial_loss is not None:
            summary += f"; loss {self.initial_loss:.3g}"
        if self.expected_loss is not None:
            summary += f", {self.expected_loss:.3g} for equal probabilities"
        summary += f": {self.loss_verdict}"
        if self.loss_advice:
            summary += f". {self.loss_advice}"
        return summary, ("layer", *keys[1:]), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the signal forward and the gradient backward, layer by layer, on a log scale."""
        ax = ensure_axes(ax)
        for key, label in (("forward_rms", "signal"), ("backward_rms", "gradient")):
            places, sizes = [], []
            for place, layer in enumerate(self.layers, start=1):
                size = getattr(layer, key)
                if size:  # a log scale has no zero, and None was not measured
                    places.append(place)
                    sizes.append(size)
            if places:
                ax.plot(places, sizes, marker="o", label=label)
        ax.set(xlabel="layer", ylabel="root mean square", yscale="log")
        ax.legend()
        return ax


def init_report(
    model: nn.Module,
    batch: object,
    loss_fn: Callable[..., Tensor] | None = None,
    target: object = None,
) -> InitReport:
    """Run one forward and one backward pass, and judge whether the network is ready to learn.

    Args:
        batch: real inputs, a few hundred samples (random noise would hide the scale of the data).
            Of a tuple or list the first item is the input; a dict is passed as keywords.
        loss_fn: called as `loss_fn(output, target)`, or as `loss_fn(output)` without a target;
            without a loss_fn the report has no gradients.
        target: by default the second item of a batch that is a tuple or list.
    Returns:
        InitReport: for each call of each layer with weights, the size of signal and gradient, dead
            and saturated units, copies, and a verdict with advice; the initial loss beside that
            of equal probabilities.
    Raises:
        ValueError: if there is a target but no loss_fn.

    Nothing is changed: weights, `.grad`, buffers, modes, random state and hooks are restored. The
    model runs in its current mode; call `model.train()` to see the conditions of training. Numbers
    are computed in float32 during the passes, before anything can change an output in place, and
    read in one transfer. Activations are found as functions of torch, inside a module or not.

    Three things are not flagged: a parameter that starts at zero on purpose (the last weight of a
    residual branch, LoRA's B, a zero head), and layers without a gradient until it has moved; a
    residual branch behind a small factor; a head that starts at a constant by its bias. With fewer
    than 8 samples no unit is called dead.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    >>> x, y = torch.randn(256, 64), torch.randint(10, (256,))
    >>> init_report(model, x, nn.functional.cross_entropy, y).ok
    True
    """
    if target is not None and loss_fn is None:
        raise ValueError(
            "a target needs a loss_fn that takes it: init_report(model, x, loss_fn, y)."
        )
    # As a loader gives it: (inputs, targets).
    if target is None and isinstance(batch, (tuple, list)) and len(batch) > 1:
        target = batch[1]

    probe = Probe(unwrap_model(model))
    probe.watch_passes(batch, loss_fn, target)
    step, totals = FirstStep(probe), probe.totals
    layers = [_describe_call(step, i) for i in range(len(step.calls))]
    verdict, advice = judge_loss(totals.loss, totals.uniform_loss, totals.frequency_loss)
    return InitReport(
        layers=layers,
        initial_loss=totals.loss,
        expected_loss=totals.uniform_loss,
        loss_verdict=verdict,
        loss_advice=advice,
        input_rms=totals.input_rms,
        samples=probe.samples,
    )


def _describe_call(step: FirstStep, i: int) -> InitLayer:
    """Build the row of call `i`, with its verdict."""
    call, numbers = step.calls[i], step.calls[i].numbers
    # The neighbours in the order of the calls, which is that of the layers in a chain.
    before = step.calls[i - 1] if i else None
    after = step.calls[i + 1] if i + 1 < len(step.calls) else None
    verdict, advice = judge_call(step, i)
    return InitLayer(
        name=call.name,
        forward_rms=numbers.output_rms,
        backward_rms=numbers.gradient_rms,
        forward_ratio=_divide_outputs(call, before),
        backward_ratio=_divide_gradients(call, after),
        dead_fraction=numbers.dead,
        saturated_fraction=numbers.saturated,
        varying_fraction=numbers.output_varying,
        duplicate_rows=None if numbers.duplicates is None else int(numbers.duplicates),
        verdict=verdict,
        advice=advice,
    )


def _divide_outputs(call: Call, before: Call | None) -> float | None:
    """Divide the root mean square of an output by that of the layer before."""
    if before is None or not call.numbers.output_rms or not before.numbers.output_rms:
        return None
    return call.numbers.output_rms / before.numbers.output_rms


def _divide_gradients(call: Call, after: Call | None) -> float | None:
    """Divide the norm of the gradient at a layer by that at the layer after."""
    if after is None or not call.numbers.gradient_rms or not after.numbers.gradient_rms:
        return None
    # A norm is the root mean square times the root of the number of elements.
    ratio = call.numbers.gradient_rms / after.numbers.gradient_rms
    return ratio * math.sqrt(call.size / after.size)


def _dash_if_none(value: object) -> object:
    return "-" if value is None else value
