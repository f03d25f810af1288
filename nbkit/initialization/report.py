"""What a network does at its first step: signal, gradient, dead units, symmetry, initial loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbkit.base.model_call import unwrap_model
from nbkit.base.report import Report, ensure_axes
from nbkit.initialization.probe import Call, Probe
from nbkit.initialization.verdict import InitVerdict, Judge, LossVerdict, judge_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class InitLayer:
    """One call of one layer with weights; None where something was not or cannot be measured.

    Attributes:
        forward_rms: root mean square of the layer's output.
        backward_rms: root mean square of the loss's gradient with respect to it.
        forward_ratio: forward_rms over that of the layer before.
        backward_ratio: norm of the gradient over that of the layer after, one step back.
        dead_fraction: units whose ReLU gives zero for every sample and position.
        saturated_fraction: outputs of its tanh, sigmoid or hardtanh that are at a limit.
        varying_fraction: root mean square of what differs from sample to sample, over forward_rms.
        duplicate_rows: units that are a copy of another one, gradient and all.
        verdict: a code, such as InitVerdict.DEAD.
        advice: a sentence on what is behind it, and the cure; empty if there is nothing to say.
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
    """The layers in the order in which they were called, and the loss before the first step.

    Attributes:
        expected_loss: the loss of equal probabilities, log(classes) for a mean cross-entropy;
            None where the target is not one class index for each prediction.
        loss_verdict: a code, such as LossVerdict.TOO_HIGH; `loss_advice` is the sentence to it.
        samples: how many samples the fractions of dead units rest on.
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
        """Whether there is nothing to mend."""
        layers_ok = all(x.verdict is InitVerdict.OK for x in self.layers)
        return layers_ok and self.loss_verdict is LossVerdict.OK

    def table(self):
        """One row a call of a layer."""
        keys = ("name", "forward_rms", "backward_rms", "dead_fraction", "verdict", "advice")
        rows = [[_dash(getattr(x, key)) for key in keys] for x in self.layers]
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
        """Signal forward and gradient backward, layer by layer, on a log scale."""
        ax = ensure_axes(ax)
        for key, label in (("forward_rms", "signal"), ("backward_rms", "gradient")):
            points = [(i, getattr(x, key)) for i, x in enumerate(self.layers, start=1)]
            points = [(i, value) for i, value in points if value]
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", label=label)
        ax.set(xlabel="layer", ylabel="root mean square", yscale="log")
        ax.legend()
        return ax


def init_report(
    model: nn.Module,
    batch: object,
    loss_fn: Callable[..., Tensor] | None = None,
    target: object = None,
) -> InitReport:
    """Look at one forward and one backward pass: is this network fit to learn?

    Args:
        batch: real inputs, a few hundred samples (noise hides what the data's scale does). Of a
            tuple or list the first item is the input; a dict is passed as keywords.
        loss_fn: called as `loss_fn(output, target)`, or `loss_fn(output)` where there is no
            target; without it nothing is said about gradients.
        target: by default the second item of a batch that is a tuple or list.
    Returns:
        InitReport: for each call of each layer with weights the size of signal and gradient, dead
            and saturated units, copies, and a verdict with advice; the initial loss beside that
            of equal probabilities.
    Raises:
        ValueError: if there is a target but no loss_fn.

    Nothing is changed: weights, `.grad`, buffers, modes, random state and hooks are as before. The
    model runs in the mode that it is in; call `model.train()` for what training will see. Numbers
    are taken in float32 as the passes run, before anything can change an output in place, and
    read in one transfer. What starts at zero on purpose (the last weight of a residual branch,
    LoRA's B, a zero head) and moves at the first step is not flagged, nor what waits for it; nor a
    residual branch behind a small factor, nor a head that starts at a constant by its bias.
    Activations count as functions of torch, module or not. On fewer than 8 samples no unit is
    called dead.

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
    if target is None and isinstance(batch, (tuple, list)) and len(batch) > 1:
        target = batch[1]

    probe = Probe(unwrap_model(model))
    probe.run(batch, loss_fn, target)
    judge = Judge(probe)
    layers = [_row(probe.calls, i, *judge.verdict(i)) for i in range(len(probe.calls))]
    loss, expected = probe.totals.get("loss"), probe.totals.get("expected")
    said = judge_loss(loss, expected, probe.totals.get("frequent"))
    return InitReport(layers, loss, expected, *said, probe.totals.get("input"), probe.samples)


def _row(calls: list[Call], i: int, verdict: InitVerdict, advice: str) -> InitLayer:
    seen = calls[i]
    copies = seen.get("duplicates")
    return InitLayer(
        name=seen.name,
        forward_rms=seen.values["forward"],
        backward_rms=seen.get("backward"),
        forward_ratio=_ratio(seen, calls[i - 1] if i else None, "forward"),
        backward_ratio=_ratio(seen, calls[i + 1] if i + 1 < len(calls) else None, "backward"),
        dead_fraction=seen.get("dead"),
        saturated_fraction=seen.get("saturated"),
        varying_fraction=seen.get("varying"),
        duplicate_rows=None if copies is None else int(copies),
        verdict=verdict,
        advice=advice,
    )


def _ratio(seen: Call, neighbour: Call | None, key: str) -> float | None:
    """To the layer before (forward) or after (backward, of norms)."""
    if neighbour is None or not seen.get(key) or not neighbour.get(key):
        return None
    size = 1.0 if key == "forward" else math.sqrt(seen.size / neighbour.size)
    return seen.values[key] / neighbour.values[key] * size


def _dash(value: object) -> object:
    return "-" if value is None else value
