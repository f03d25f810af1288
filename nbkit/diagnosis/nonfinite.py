"""Where infinity or NaN first appears in a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.nested import list_tensors, walk_tensors
from nbkit.base.report import Report
from nbkit.base.watched_pass import LOSS, Trial


@dataclass
class Values:
    """A tensor in brief.

    Attributes:
        largest: largest absolute value of those that are finite.
        nonfinite: how many are infinite or NaN.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    largest: float
    nonfinite: int

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Values:
        """Reads the tensor, which synchronises."""
        found = _values(tensor.detach())
        finite = found.isfinite()
        kept = torch.where(finite, found, torch.zeros_like(found))
        kept = kept.int() if kept.dtype is torch.bool else kept
        largest = float(kept.abs().max()) if kept.numel() else 0.0
        bad = found.numel() - int(finite.sum())
        return cls(name, tuple(tensor.shape), str(found.dtype).removeprefix("torch."), largest, bad)


@dataclass
class NonfiniteReport(Report):
    """The first module whose output is not finite, and what went in.

    Attributes:
        phase: "given" if it was there before the model ran; or "forward", "loss", "backward".
        module: its name and type; in "given", the name of the parameter, buffer, input or target.
        op: in backward, the operation whose gradient it is.
        inputs: in forward the inputs, parameters and buffers of the module; in backward the
            gradients that came to the operation.
        outputs: what came out; in backward the gradients that it passes on.
    """

    phase: str
    module: str
    op: str = ""
    inputs: list[Values] = field(default_factory=list)
    outputs: list[Values] = field(default_factory=list)

    def table(self):
        """A row for each tensor that went in or came out."""
        op = f", gradient of {self.op}" if self.op else ""
        columns = ("", "tensor", "shape", "dtype", "largest finite", "not finite")
        rows = [
            [side, each.name, each.shape, each.dtype, each.largest, each.nonfinite]
            for side, values in (("in", self.inputs), ("out", self.outputs))
            for each in values
        ]
        return f"{self.phase}: first not finite in {self.module}{op}", columns, rows


def find_nonfinite(
    model: nn.Module, batch: Any, loss_fn: Callable | None = None, *, loss_scale: float = 1.0
) -> NonfiniteReport | None:
    """The first module, in forward or backward, whose output holds infinity or NaN.

    Looked at are what is given (parameters, buffers, inputs, targets), then the output of each
    module as it ends, so the innermost first, then the loss, then the gradients that each operation
    passes back, with the module that the operation belongs to.

    Args:
        model: in the mode that it is in. For autocast call this under `amp.autocast()`.
        batch: (inputs, target) as a loader gives it, or the inputs; a dict is passed as keywords.
        loss_fn: called with output and target; without it, backward starts at the output.
        loss_scale: factor of the gradients; under fp16, that of the step that was skipped.
    Returns:
        NonfiniteReport, or None if everything is finite.

    A module that gives infinity on purpose, such as a mask of -inf, is reported like any other.
    Each look synchronises. Nothing is changed, the random state neither.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> nn.init.constant_(model[0].weight, 1e30) is model[0].weight
    True
    >>> found = find_nonfinite(model, torch.full((1, 2), 1e30))
    >>> found.phase, found.module, found.outputs[0].nonfinite
    ('forward', '0 (Linear)', 2)
    """
    trial = _Finder(model, batch, loss_fn)
    for kind, name, tensor in trial.given():
        if not _finite(tensor):
            return NonfiniteReport("given", f"{kind} {name}", outputs=[Values.of(name, tensor)])
    try:
        trial.run(loss_scale=loss_scale)
    except _Found as found:
        return found.report
    return None


class _Found(Exception):
    def __init__(self, report: NonfiniteReport) -> None:
        self.report = report


class _Finder(Trial):
    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable | None) -> None:
        super().__init__(model, batch, loss_fn)
        self.inputs: list[list[Values]] = []
        self.output: Any = None

    def entered(self, module: nn.Module, inputs: Any) -> None:
        # Now: the module may work in place.
        self.inputs.append(
            [Values.of(name, tensor) for name, tensor in walk_tensors(inputs, "input")]
        )

    def left(self, module: nn.Module, output: Any) -> None:
        inputs, self.output = self.inputs.pop(), output
        if all(map(_finite, list_tensors(output))):
            return
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        inputs += [Values.of(name, tensor) for name, tensor in own]
        outputs = [Values.of(name, tensor) for name, tensor in walk_tensors(output, "output")]
        raise _Found(NonfiniteReport("forward", self.running[-1], "", inputs, outputs))

    def reached(self, result: Any) -> None:
        if not all(map(_finite, list_tensors(result))):
            inputs = [Values.of(name, each) for name, each in walk_tensors(self.output, "output")]
            outputs = [Values.of(name, each) for name, each in walk_tensors(result, "loss")]
            raise _Found(NonfiniteReport("loss", LOSS, "", inputs, outputs))
        roots = [each.grad_fn for each in list_tensors(result) if each.grad_fn is not None]
        for node in _nodes(roots):
            node.register_hook(partial(self.passed_back, node))

    def passed_back(self, node: Any, passed: tuple, came: tuple) -> None:
        if all(map(_finite, list_tensors(passed))):
            return
        inputs = [Values.of(name, each) for name, each in walk_tensors(came, "gradient")]
        outputs = [Values.of(name, each) for name, each in walk_tensors(passed, "gradient")]
        op = node.name()
        raise _Found(NonfiniteReport("backward", self.maker(node), op, inputs, outputs))


def _nodes(roots: list) -> list:
    """Every node of the autograd graph, each once."""
    found = {id(root): root for root in roots}
    queue = list(found.values())
    for node in queue:
        for following, _ in node.next_functions:
            if following is not None and id(following) not in found:
                found[id(following)] = following
                queue.append(following)
    return queue


def _finite(tensor: Tensor) -> bool:
    return bool(_values(tensor).isfinite().all())


def _values(tensor: Tensor) -> Tensor:
    """The numbers themselves: of a sparse tensor those that it holds, as Embedding's gradient."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor
