"""Find the operations that bring float64 into a model's computation."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]  # torch lists no privates
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from nbkit.base import model_call, watched_pass
from nbkit.base.dtypes import WIDE
from nbkit.base.nested import list_tensors, walk_tensors
from nbkit.base.report import Report, convert_to_json
from nbkit.base.watched_pass import LOSS, PassPhase, Trial

TORCH = os.path.dirname(torch.__file__) + os.sep
# Frames of these files belong to the diagnosis, not to the user.
OURS = (__file__, watched_pass.__file__, model_call.__file__)
MOVES = (torch.ops.aten._to_copy, torch.ops.aten.clone)  # they compute nothing


@dataclass
class Float64Use:
    """One place where float64 or complex128 comes in.

    Attributes:
        phase: GIVEN for parameters, buffers, inputs; or FORWARD, LOSS, BACKWARD.
        op: "parameter", "buffer", "input" or "target" for a given tensor, else torch's operation;
            "result" if the loss (without one, the output) is an array that no operation made.
        where: a name or a line of code; in backward, the line whose gradient is computed.
        shape: of the tensor.
        count: how often it happened.
    """

    phase: PassPhase
    op: str
    where: str
    shape: tuple[int, ...]
    count: int = 1


class Float64Uses(Report, list[Float64Use]):
    """List the places where float64 comes in; it prints as a table."""

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per place."""
        if not self:
            return "no float64", (), ()
        rows = [(use.phase, use.op, use.shape, use.count, use.where) for use in self]
        columns = ("phase", "op", "shape", "count", "where")
        return f"float64 comes in at {len(self)} places", columns, rows

    def to_dict(self) -> dict[str, object]:
        """Return the places as plain JSON."""
        return {"uses": convert_to_json(list(self))}


def find_float64(
    model: nn.Module, batch: Any, loss_fn: Callable[..., Any] | None = None
) -> Float64Uses:
    """List every operation that creates float64 or complex128, in forward, loss and backward.

    An operation creates it if float64 comes out, and either none went in or float32 went in as
    well: float32 times float64 is float64. An operation on float64 alone is not listed, except for
    the first one on an array from numpy or from code outside the model. Numbers, numpy's too, and
    tensors without dimensions leave a float32 tensor float32; they are listed only where they do
    turn something into float64.

    Args:
        model: runs in its current mode. For autocast call this under `amp.autocast()`.
        batch: (inputs, target) as a loader gives it, or the inputs; a dict is passed as keywords.
        loss_fn: called with output and target; without it, backward starts at the output.
    Returns:
        Float64Uses: a list; parameters, buffers, inputs and targets in float64 come first. If the
            model fails on the way, as a Linear does on float64 inputs, the last item says so.
    Raises:
        RuntimeError: if the model fails before any float64 came in; it is the model's own error.

    Gradients do not show float64: the gradient of a float32 parameter is float32 again. What
    remains is the lost time, which is large on a GPU without fast float64. Nothing is changed, and
    the random state is restored.

    >>> class Scaled(nn.Module):
    ...     def forward(self, x):
    ...         return x * torch.ones(3, dtype=torch.float64)
    >>> [(use.op, use.shape) for use in find_float64(Scaled(), torch.zeros(2, 3))]
    [('aten.ones', (3,)), ('aten.mul', (2, 3))]
    """
    trial = _Float64Trial(model, batch, loss_fn)
    watch = trial.watch
    for kind, name, tensor in trial.given():
        if tensor.dtype in WIDE:
            watch.note_use(PassPhase.GIVEN, kind, name, tuple(tensor.shape))
            watch.remember_memory([tensor])
    try:
        trial.run(watch)
    except RuntimeError as error:
        # After float64 came in, it is the likely reason why the model failed.
        if not watch.uses:
            raise
        reason = str(error).splitlines()[0]
        watch.note_use(trial.phase, "stopped", f"{type(error).__name__}: {reason}", ())
    return Float64Uses(watch.uses.values())


class _Float64Trial(Trial):
    """Run the model under the watch, and look at the result as well."""

    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable[..., Any] | None) -> None:
        super().__init__(model, batch, loss_fn)
        self.watch = _Float64Watch(self)

    def reached(self, result: Any) -> None:
        # A result that is itself an array from elsewhere has passed through no operation.
        for name, tensor in walk_tensors(result, "the loss" if self.loss_fn else "the output"):
            if tensor.dim() and self.watch.is_unknown(tensor):
                self.watch.note_use(self.phase, "result", name, tuple(tensor.shape))
                self.watch.remember_memory([tensor])


class _Float64Watch(TorchDispatchMode):
    """See every operation that torch runs, those of backward included.

    "Known" is float64 whose origin is listed already; "unknown" comes from elsewhere, such as
    numpy.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.trial = trial
        self.uses: dict[tuple[object, ...], Float64Use] = {}
        self.lines: dict[int, str] = {}  # the user's line behind each autograd node, by its number
        # The memory of known float64. Views, and what autograd saves, are other objects in the same
        # memory; a weak reference keeps the address from being given to another tensor.
        self.known: set[StorageWeakRef | None] = {None}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # For every operation: those that create nothing may have a backward that does.
        where = self._locate_operation()
        inputs = list_tensors((args, kwargs or {}))
        wide = _select_wide(inputs)
        unknown = [tensor for tensor in wide if self.is_unknown(tensor)]
        has_known = len(unknown) < len(wide)
        for tensor in list_tensors(output):
            # A copy or a view of an unknown array is listed when something is computed with it.
            if tensor.dtype not in WIDE or (unknown and _only_moves(func, tensor, unknown)):
                continue
            created = _promotes_to_float64(tensor, inputs)
            if unknown:
                # The first operation on an array from elsewhere. A number from elsewhere counts if
                # an array comes out that no known float64 explains.
                created |= _max_dim(unknown) > 0 or (not has_known and tensor.dim() > 0)
            if created:
                self.note_use(self.trial.phase, str(func.overloadpacket), where, (*tensor.shape,))
                self.remember_memory(unknown)
            if created or has_known:
                self.remember_memory([tensor])
        return output

    def is_unknown(self, tensor: Tensor) -> bool:
        """Check whether this is float64 whose origin is not listed."""
        return tensor.dtype in WIDE and _reference_memory(tensor) not in self.known

    def remember_memory(self, tensors: list[Tensor]) -> None:
        """Count these tensors, and all others in their memory, as known."""
        self.known.update(map(_reference_memory, tensors))

    def note_use(self, phase: PassPhase, op: str, where: str, shape: tuple[int, ...]) -> None:
        """List a use, or count a further one at the same place."""
        key = (phase, op, where, shape)
        use = self.uses.setdefault(key, Float64Use(phase, op, where, shape, count=0))
        use.count += 1

    def _locate_operation(self) -> str:
        """Return the user's line behind the current operation, else the module that runs."""
        line = _find_user_line()
        if self.trial.phase is not PassPhase.BACKWARD:
            line = line or (self.trial.running[-1] if self.trial.running else LOSS)
            # autograd has numbered the node of this operation already, so it is the last number.
            self.lines.setdefault(_get_sequence_nr() - 1, line)
            return line
        # Backward runs in torch's own code: the node leads back to the line of the forward pass.
        node = torch._C._current_autograd_node()
        return line or self.lines.get(node._sequence_nr() if node else -1, "backward")


def _find_user_line() -> str:
    """Return the innermost line below the trial that is neither torch's code nor ours."""
    frame: FrameType | None = sys._getframe(1)
    # The frames above the trial's `run` belong to whoever called the diagnosis.
    while frame is not None and frame.f_code is not Trial.run.__code__:
        file = frame.f_code.co_filename
        if not file.startswith(TORCH) and file not in OURS:
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{os.path.basename(file)}:{frame.f_lineno} {text}".rstrip()
        frame = frame.f_back
    return ""


def _promotes_to_float64(output: Tensor, inputs: list[Tensor]) -> bool:
    """Check whether float64 comes out that did not go in.

    torch's promotion: a tensor without dimensions widens a tensor with dimensions only if the
    latter is not floating point.
    """
    # In place the dtype cannot change, so the output was float64 before.
    if output.dtype not in WIDE or id(output) in map(id, inputs):
        return False
    wide, narrow = _select_wide(inputs), _select_narrow(inputs)
    if not wide:  # a cast or a new array; a float64 number alone is harmless
        return _max_dim([output, *inputs]) > 0
    if _max_dim(wide) > 0:  # float64 beside a float32 array: the array is widened
        return _max_dim(narrow) > 0
    # Only numbers in float64: they widen float32 numbers, and arrays of integers.
    return len(narrow) > 0 or _max_dim(inputs) > 0


def _select_wide(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.dtype in WIDE]


def _select_narrow(tensors: list[Tensor]) -> list[Tensor]:
    """Return the floating-point and complex tensors of up to 32 bits a number."""
    found = []
    for tensor in tensors:
        if tensor.dtype not in WIDE and (tensor.is_floating_point() or tensor.is_complex()):
            found.append(tensor)
    return found


def _only_moves(func: Any, output: Tensor, inputs: list[Tensor]) -> bool:
    """Check whether an operation copies or views one of its inputs, or works in place on it."""
    if func.overloadpacket in MOVES:
        return True
    return _reference_memory(output) in map(_reference_memory, inputs)


def _reference_memory(tensor: Tensor) -> StorageWeakRef | None:
    """Return a weak reference to the tensor's memory; None if it is sparse and has none."""
    if tensor.layout is not torch.strided:
        return None
    return StorageWeakRef(tensor.untyped_storage())


def _max_dim(tensors: list[Tensor]) -> int:
    return max([tensor.dim() for tensor in tensors], default=0)
