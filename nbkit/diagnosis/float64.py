"""Where float64 comes into a model's computation."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from nbkit.base import model_call, watched_pass
from nbkit.base.dtypes import WIDE
from nbkit.base.nested import list_tensors, walk_tensors
from nbkit.base.report import Report, convert_to_json
from nbkit.base.watched_pass import LOSS, PassPhase, Trial

TORCH = os.path.dirname(torch.__file__) + os.sep
OURS = (__file__, watched_pass.__file__, model_call.__file__)
MOVES = (torch.ops.aten._to_copy, torch.ops.aten.clone)  # they compute nothing


@dataclass
class Float64Use:
    """One place where float64 or complex128 comes in.

    Attributes:
        phase: GIVEN for parameters, buffers, inputs; or FORWARD, LOSS, BACKWARD.
        op: what brings it: "parameter", "buffer", "input", "target", or torch's operation; or
            "result" if the loss, or the output without one, is an array that nothing computed.
        where: a name; or the line of code, for backward the one whose gradient is computed.
        shape: of the tensor.
        count: how often.
    """

    phase: PassPhase
    op: str
    where: str
    shape: tuple[int, ...]
    count: int = 1


class Float64Uses(Report, list[Float64Use]):
    """A list that prints as a table."""

    def table(self):
        """A row a place."""
        if not self:
            return "no float64", (), ()
        columns = ("phase", "op", "shape", "count", "where")
        rows = [[getattr(use, column) for column in columns] for use in self]
        return f"float64 comes in at {len(self)} places", columns, rows

    def to_dict(self) -> dict[str, object]:
        """The places as plain JSON."""
        return {"uses": convert_to_json(list(self))}


def find_float64(model: nn.Module, batch: Any, loss_fn: Callable | None = None) -> Float64Uses:
    """Every operation that creates float64 or complex128, in forward, loss and backward.

    An operation creates it if it comes out and none went in, or float32 went in beside it: float32
    times float64 is float64. Where only float64 goes in, it goes on and is not listed again; but
    the first operation on an array from elsewhere is: from numpy, or from the code around.
    Numbers, also numpy's, and tensors without dimensions leave a float32 tensor float32; they are
    listed only where something becomes float64 by them.

    Args:
        model: in the mode that it is in. For autocast call this under `amp.autocast()`.
        batch: (inputs, target) as a loader gives it, or the inputs; a dict is passed as keywords.
        loss_fn: called with output and target; without it, backward starts at the output.
    Returns:
        Float64Uses: a list; parameters, buffers, inputs and targets in float64 come first. If the
            model fails on the way, as a Linear does on float64 inputs, the last item says so.

    Gradients do not show float64, since that of a float32 parameter is float32 again; it only costs
    time, on a GPU without fast float64 a great deal. Nothing is changed, the random state neither.

    >>> class Scaled(nn.Module):
    ...     def forward(self, x):
    ...         return x * torch.ones(3, dtype=torch.float64)
    >>> [(use.op, use.shape) for use in find_float64(Scaled(), torch.zeros(2, 3))]
    [('aten.ones', (3,)), ('aten.mul', (2, 3))]
    """
    trial = _Watched(model, batch, loss_fn)
    watch = trial.watch
    for kind, name, tensor in trial.given():
        if tensor.dtype in WIDE:
            watch.note(PassPhase.GIVEN, kind, name, tuple(tensor.shape))
            watch.remember(tensor)
    try:
        trial.run(watch)
    except RuntimeError as error:
        if not watch.uses:
            raise
        reason = str(error).splitlines()[0]
        watch.note(trial.phase, "stopped", f"{type(error).__name__}: {reason}", ())
    return Float64Uses(watch.uses.values())


class _Watched(Trial):
    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable | None) -> None:
        super().__init__(model, batch, loss_fn)
        self.watch = _Watch(self)

    def reached(self, result: Any) -> None:
        for name, tensor in walk_tensors(result, "the loss" if self.loss_fn else "the output"):
            if tensor.dim() and self.watch.unknown(tensor):
                self.watch.note(self.phase, "result", name, tuple(tensor.shape))
                self.watch.remember(tensor)


class _Watch(TorchDispatchMode):
    """Sees every operation that torch runs, those of backward too."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial
        self.uses: dict[tuple, Float64Use] = {}
        self.lines: dict[int, str] = {}  # the user's line behind each autograd node, by its number
        # The memory of the float64 whose origin is listed. Views and what autograd saves are other
        # objects in the same memory; a weak reference keeps its address from being given again.
        self.known: set[StorageWeakRef | None] = {None}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        where = self._where()
        inputs = list_tensors((args, kwargs or {}))
        wide = [each for each in inputs if each.dtype in WIDE]
        unknown = [each for each in wide if self.unknown(each)]
        known = len(unknown) < len(wide)
        for tensor in list_tensors(output):
            if tensor.dtype not in WIDE or (unknown and _moves(func, tensor, unknown)):
                continue
            fresh = _dims(*unknown) > 0 or (len(unknown) > 0 and not known and tensor.dim() > 0)
            created = fresh or _creates(tensor, inputs)
            if created:
                self.note(self.trial.phase, str(func.overloadpacket), where, tuple(tensor.shape))
                self.remember(*unknown)
            if created or known:
                self.remember(tensor)
        return output

    def unknown(self, tensor: Tensor) -> bool:
        """Whether this is float64 that came from elsewhere."""
        return tensor.dtype in WIDE and _memory(tensor) not in self.known

    def remember(self, *tensors: Tensor) -> None:
        self.known.update(map(_memory, tensors))

    def note(self, phase: PassPhase, op: str, where: str, shape: tuple[int, ...]) -> None:
        use = self.uses.setdefault(
            (phase, op, where, shape), Float64Use(phase, op, where, shape, 0)
        )
        use.count += 1

    def _where(self) -> str:
        line = _user_line()
        if self.trial.phase is not PassPhase.BACKWARD:
            line = line or (self.trial.running[-1] if self.trial.running else LOSS)
            # autograd has numbered its node when the operation comes here
            self.lines.setdefault(_get_sequence_nr() - 1, line)
            return line
        node = torch._C._current_autograd_node()
        return line or self.lines.get(node._sequence_nr() if node else -1, "backward")


def _user_line() -> str:
    """The innermost line of code, up to the trial, that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not Trial.run.__code__:
        file = frame.f_code.co_filename
        if not file.startswith(TORCH) and file not in OURS:
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{os.path.basename(file)}:{frame.f_lineno} {text}".rstrip()
        frame = frame.f_back
    return ""


def _creates(output: Tensor, inputs: list[Tensor]) -> bool:
    """Whether float64 comes out that did not go in; tensors without dimensions do not promote."""
    if output.dtype not in WIDE or any(output is each for each in inputs):  # in place: it was wide
        return False
    wide = [each for each in inputs if each.dtype in WIDE]
    narrow = [each for each in inputs if each.is_floating_point() or each.is_complex()]
    narrow = [each for each in narrow if each.dtype not in WIDE]
    if not wide:
        return _dims(output, *inputs) > 0
    if _dims(*wide) > 0:
        return _dims(*narrow) > 0
    return len(narrow) > 0 or _dims(*inputs) > 0


def _moves(func: Any, output: Tensor, inputs: list[Tensor]) -> bool:
    """Whether an operation only copies or views one of its inputs, or works in place on it."""
    return func.overloadpacket in MOVES or any(_memory(output) == _memory(i) for i in inputs)


def _memory(tensor: Tensor) -> StorageWeakRef | None:
    """None for a sparse tensor, which has no memory of its own."""
    strided = tensor.layout is torch.strided
    return StorageWeakRef(tensor.untyped_storage()) if strided else None


def _dims(*tensors: Tensor) -> int:
    return max((tensor.dim() for tensor in tensors), default=0)
