"""Find the module where infinity or NaN first appears."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.nested import list_tensors, walk_tensors
from nbkit.base.report import Report
from nbkit.base.watched_pass import LOSS, PassPhase, Trial


@dataclass
class TensorSummary:
    """Describe a tensor in five values.

    Attributes:
        largest: largest absolute value among the finite ones; 0 if there is none.
        nonfinite: number of infinite and NaN values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    largest: float
    nonfinite: int

    @classmethod
    def summarize(cls, name: str, tensor: Tensor) -> TensorSummary:
        """Read the tensor, which synchronises with a GPU."""
        values = _read_stored_values(tensor.detach())
        finite = values.isfinite()
        kept = torch.where(finite, values, torch.zeros_like(values))
        if kept.dtype is torch.bool:  # it has no absolute value
            kept = kept.int()
        largest = float(kept.abs().max()) if kept.numel() else 0.0
        nonfinite = values.numel() - int(finite.sum())
        dtype = str(values.dtype).removeprefix("torch.")
        return cls(name, tuple(tensor.shape), dtype, largest, nonfinite)


@dataclass
class NonfiniteReport(Report):
    """Name the first module whose output is not finite, and describe its inputs and outputs.

    Attributes:
        phase: GIVEN if the value was there before the model ran; else FORWARD, LOSS or BACKWARD.
        module: name and type, for display; for GIVEN, the parameter, buffer, input or target.
        op: in backward, the operation whose gradient it is; for GIVEN, "parameter", "buffer",
            "input" or "target".
        inputs: in forward the inputs, parameters and buffers of the module; in backward the
            gradients that the operation received.
        outputs: the module's outputs; in backward the gradients that the operation passed on.
        path: the module's path for `get_submodule`; for GIVEN the tensor's name; None for the loss.
    """

    phase: PassPhase
    module: str
    op: str = ""
    inputs: list[TensorSummary] = field(default_factory=list)
    outputs: list[TensorSummary] = field(default_factory=list)
    path: str | None = None

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per input and output tensor."""
        op = f", gradient of {self.op}" if self.phase is PassPhase.BACKWARD else ""
        columns = ("", "tensor", "shape", "dtype", "largest finite", "not finite")
        rows = []
        for side, summaries in (("in", self.inputs), ("out", self.outputs)):
            for each in summaries:
                rows.append([side, each.name, each.shape, each.dtype, each.largest, each.nonfinite])
        return f"{self.phase}: first not finite in {self.module}{op}", columns, rows


def find_nonfinite(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., Any] | None = None,
    *,
    loss_scale: float = 1.0,
) -> NonfiniteReport | None:
    """Find the first module, in forward or backward, whose output holds infinity or NaN.

    The search follows the computation: parameters, buffers, inputs and targets; the output of each
    module as it returns, so inner modules first; the loss; the gradients that each operation passes
    back, with the module that ran the operation.

    Args:
        model: runs in its current mode. For autocast call this under `amp.autocast()`.
        batch: (inputs, target) as a loader gives it, or the inputs; a dict is passed as keywords.
        loss_fn: called with output and target; without it, backward starts at the output.
        loss_scale: factor of the gradients; for fp16, the scale of the step that was skipped.
    Returns:
        NonfiniteReport, or None if everything is finite.

    A module that returns infinity on purpose, such as a mask of -inf, is reported like any other.
    Each look synchronises with a GPU. Nothing is changed, and the random state is restored.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> nn.init.constant_(model[0].weight, 1e30) is model[0].weight
    True
    >>> found = find_nonfinite(model, torch.full((1, 2), 1e30))
    >>> found.phase, found.module, found.outputs[0].nonfinite
    ('forward', '0 (Linear)', 2)
    """
    trial = _NonfiniteTrial(model, batch, loss_fn)
    for kind, name, tensor in trial.given():
        if not _is_tensor_finite(tensor):
            outputs = [TensorSummary.summarize(name, tensor)]
            return NonfiniteReport(
                PassPhase.GIVEN, f"{kind} {name}", kind, outputs=outputs, path=name
            )
    try:
        trial.run(loss_scale=loss_scale)
    except _NonfiniteFound as found:
        return found.report
    return None


class _NonfiniteFound(Exception):
    """End the pass early, from inside a hook."""

    def __init__(self, report: NonfiniteReport) -> None:
        self.report = report


class _NonfiniteTrial(Trial):
    """Run the model, and raise `_NonfiniteFound` at the first value that is not finite."""

    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable[..., Any] | None) -> None:
        super().__init__(model, batch, loss_fn)
        # For each module that is running, the outermost first, the summaries of its inputs.
        self.inputs: list[list[TensorSummary]] = []
        self.output: Any = None

    def entered(self, module: nn.Module, inputs: Any) -> None:
        # Read the inputs now: the module may overwrite them in place.
        self.inputs.append(_summarize_tensors(inputs, "input"))

    def left(self, module: nn.Module, output: Any) -> None:
        inputs, self.output = self.inputs.pop(), output
        if _are_finite(output):
            return
        # A parameter or buffer may be the cause as well as an input.
        owned = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in owned:
            inputs.append(TensorSummary.summarize(name, tensor))
        outputs = _summarize_tensors(output, "output")
        raise self._make_exception(PassPhase.FORWARD, self.running[-1], "", inputs, outputs)

    def reached(self, result: Any) -> None:
        if not _are_finite(result):
            inputs = _summarize_tensors(self.output, "output")
            outputs = _summarize_tensors(result, "loss")
            raise self._make_exception(PassPhase.LOSS, LOSS, "", inputs, outputs)
        # Hooks on nodes, not on modules: an in-place module would spoil a module's backward hook.
        for node in _list_autograd_nodes(result):
            node.register_hook(partial(self.passed_back, node))

    def passed_back(
        self, node: Any, passed: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]
    ) -> None:
        """Look at the gradients that one autograd node has computed."""
        if _are_finite(passed):
            return
        inputs = _summarize_tensors(received, "gradient")
        outputs = _summarize_tensors(passed, "gradient")
        module = self.maker(node)
        raise self._make_exception(PassPhase.BACKWARD, module, node.name(), inputs, outputs)

    def _make_exception(
        self,
        phase: PassPhase,
        module: str,
        op: str,
        inputs: list[TensorSummary],
        outputs: list[TensorSummary],
    ) -> _NonfiniteFound:
        path = self.paths.get(module)  # the loss function has none
        return _NonfiniteFound(NonfiniteReport(phase, module, op, inputs, outputs, path))


def _list_autograd_nodes(result: Any) -> list[Any]:
    """List every node of the graph behind a result, each once, breadth first."""
    queue: list[Any] = []
    seen: set[int] = set()

    def append_once(node: Any) -> None:
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            queue.append(node)

    for tensor in list_tensors(result):
        append_once(tensor.grad_fn)
    for node in queue:  # the list grows while it is read
        for following, _ in node.next_functions:
            append_once(following)
    return queue


def _summarize_tensors(tree: Any, name: str) -> list[TensorSummary]:
    """Summarize each tensor in a nested container, under its place there."""
    return [TensorSummary.summarize(place, tensor) for place, tensor in walk_tensors(tree, name)]


def _are_finite(tree: Any) -> bool:
    return all(map(_is_tensor_finite, list_tensors(tree)))


def _is_tensor_finite(tensor: Tensor) -> bool:
    return bool(_read_stored_values(tensor).isfinite().all())


def _read_stored_values(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers: of a sparse one, such as Embedding's gradient, those it stores."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor
