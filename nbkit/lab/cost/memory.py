"""Where the memory of a training step goes: parameters, gradients, optimizer, activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from nbkit.base.model_call import call_model
from nbkit.base.nested import list_tensors, map_tensors
from nbkit.base.optimizers import check_plain_step
from nbkit.base.report import Report, ensure_axes
from nbkit.base.state import preserve_state
from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("parameters", "buffers", "gradients", "optimizer_state", "activations", "batch")


@dataclass
class MemoryReport(Report):
    """Bytes that one training step holds; memory that two tensors share counts once.

    Attributes:
        parameters: of the model, and of a loss function that is a module.
        buffers: of the same.
        gradients: after the backward pass.
        optimizer_state: after the update.
        activations: what autograd keeps from the forward pass for the backward pass, the loss
            included. Parameters, buffers and the batch itself, which it keeps too, are not in it.
        batch: inputs and targets, on the model's device.
        peak: on CUDA, the most that this process held on the device during the step; else None.
        device: of the model's first parameter.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer_state: int
    activations: int
    batch: int
    peak: int | None = None
    device: str = "cpu"

    @property
    def total(self) -> int:
        """The sum of the parts. They are not all there at once, and scratch space is not in it."""
        return sum(getattr(self, part) for part in PARTS)

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """A line on the whole, and a row for each part."""
        summary = f"one training step on {self.device}: {_format_bytes(self.total)} in all"
        if self.peak is not None:
            summary += f", peak {_format_bytes(self.peak)}"
        rows: list[list[object]] = []
        for part in PARTS:
            nbytes = getattr(self, part)
            share = f"{nbytes / self.total:.0%}"
            rows.append([part.replace("_", " "), nbytes, _format_bytes(nbytes), share])
        return summary, ["part", "bytes", "size", "share"], rows

    def to_dict(self) -> dict[str, object]:
        """Every field, and the total, as plain JSON."""
        return super().to_dict() | {"total": self.total}

    def plot(self, ax: Axes | None = None) -> Axes:
        """A bar for each part, activations in their own colour; returns the axes."""
        ax = ensure_axes(ax)
        sizes = {part.replace("_", " "): getattr(self, part) for part in PARTS}
        if self.peak is not None:
            # Only a GPU has a measured peak.
            sizes["peak"] = self.peak
        colors = {"activations": plots.TECHNIQUE, "peak": plots.QUIET}
        unit, name = _choose_byte_unit(max(sizes.values()))
        for row, (part, nbytes) in enumerate(sizes.items()):
            ax.barh(row, nbytes / unit, color=colors.get(part, plots.BASELINE))
            place = (nbytes / unit, row)
            text, beside = _format_bytes(nbytes), "offset points"
            ax.annotate(text, place, (4, 0), textcoords=beside, va="center", fontsize=9)
        ax.set_yticks(range(len(sizes)), list(sizes))
        ax.set(xlabel=name, ylim=(len(sizes) - 0.4, -0.6))
        ax.set_xlim(0, 1.25 * max(sizes.values()) / unit)  # room for the text
        return ax


def memory_report(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
) -> MemoryReport:
    """Measure where the memory of one training step goes.

    Two steps are taken, and the second is measured: the optimizer has its state then, as in all
    steps but the first. The model, the optimizer, the batch and the random state are put back.

    Args:
        model: in the mode (train or eval) in which it is.
        batch: (inputs, target, ...) as a loader gives it, or the inputs; a dict of inputs is
            passed as keywords.
        loss_fn: called as loss_fn(output, target, ...).
        optimizer: over parameters of this model.
    Raises:
        TypeError: if optimizer is none, or needs a closure, or something could not be put back.
        ValueError: if the optimizer has no parameter of the model, or the loss is not one number
            with a gradient; everything is put back.

    Activations are read through torch's saved-tensor hooks at the end of the forward pass: what a
    custom autograd function keeps past `save_for_backward`, and what a checkpointed segment
    computes anew during backward, is not seen. On CUDA the device's peak statistics are reset.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batch = torch.zeros(16, 4), torch.zeros(16, 1)
    >>> memory_report(model, batch, nn.functional.mse_loss, optimizer).activations
    576
    """
    _check_memory_arguments(model, optimizer)
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    parameters = _gather_parameters(modules)
    device = parameters[0].device
    # Copies on the model's device, so that the batch is counted where it is used.
    batch = map_tensors(partial(_move_to_device, device), batch)
    given = list_tensors(batch)
    stale = [p.grad for p in parameters if p.grad is not None]

    # Copies in CPU memory do not count in a peak on the device; nor should the gradients of
    # before, which wait until they are put back.
    with preserve_state(*modules, optimizer, *given, offload=True), torch.enable_grad():
        _warm_up_optimizer(model, batch, loss_fn, optimizer)
        _start_peak(device)
        held = _list_storages(chain(parameters, _list_buffers(modules), given))
        loss, activations = _measure_activations(model, batch, loss_fn, held)
        loss.backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        optimizer.step()

        # What several parts share (a tied weight, a gradient kept as state) counts once.
        weights, buffers = _list_storages(parameters), _list_buffers(modules)
        held = weights | _list_storages(buffers)
        state = list_tensors(list(optimizer.state.values()))
        return MemoryReport(
            parameters=sum(weights.values()),
            buffers=_count_bytes(buffers, weights),
            gradients=_count_bytes(gradients, held),
            optimizer_state=_count_bytes(state, held | _list_storages(gradients)),
            activations=activations,
            batch=_count_bytes(given, held),
            peak=_read_peak(device, _count_bytes(stale, _list_storages(gradients))),
            device=str(device),
        )


def _measure_activations(
    model: nn.Module, batch: Any, loss_fn: Callable[..., Tensor], counted: dict[int, int]
) -> tuple[Tensor, int]:
    """Run the forward pass; return the loss, and the bytes that autograd keeps for backward."""
    with _watch_saved_tensors() as saved:
        loss = _compute_step_loss(model, batch, loss_fn)
    return loss, _count_bytes(saved(), counted)


def _gather_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """List the parameters of the model, and of a loss function that is a module."""
    found: list[nn.Parameter] = []
    for module in modules:
        found.extend(module.parameters())
    return found


def _check_memory_arguments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got a {type(optimizer).__name__}."
        )
    check_plain_step(optimizer, "memory_report")
    # Tensors compare elementwise, so identity decides.
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in updated for p in model.parameters()):
        raise ValueError(
            "the optimizer has no parameter of this model: make it from model.parameters()."
        )


def _move_to_device(device: torch.device, leaf: Tensor) -> Tensor:
    """Move a tensor of the batch to the model's device, without the graph it may come from."""
    return leaf.detach().to(device).requires_grad_(leaf.requires_grad)


def _warm_up_optimizer(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Take the first step, so that the optimizer has its state as in all later ones."""
    _compute_step_loss(model, batch, loss_fn).backward()
    optimizer.step()
    optimizer.zero_grad()


def _compute_step_loss(model: nn.Module, batch: Any, loss_fn: Callable[..., Tensor]) -> Tensor:
    # A dict has no targets beside the inputs: the loss reads the output alone.
    targets = batch[1:] if isinstance(batch, (tuple, list)) else ()
    loss = loss_fn(call_model(model, batch), *targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss_fn must return one number that requires a gradient, got {found}: take a mean, "
            f"and do not detach."
        )
    return loss


class _SavedTensor:
    """A tensor that autograd holds; it lives as long as its place in the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # itself, it would be held in a circle where it is an output


@contextmanager
def _watch_saved_tensors() -> Iterator[Callable[[], list[Tensor]]]:
    """Yield a function that lists what autograd still holds of all that it saved inside."""
    kept: WeakSet[_SavedTensor] = WeakSet()

    def pack(tensor: Tensor) -> _SavedTensor:
        # The graph owns the holder; the set only sees whether it still lives.
        holder = _SavedTensor(tensor)
        kept.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        yield lambda: [holder.tensor for holder in kept]


def _list_storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Map each storage that the tensors lie in to its bytes; views and ties share one."""
    found: dict[int, int] = {}
    for tensor in tensors:
        for dense in _split_sparse(tensor):
            storage = dense.untyped_storage()
            found[storage._cdata] = storage.nbytes()  # its address: two views have one storage
    return found


def _count_bytes(tensors: Iterable[Tensor], elsewhere: dict[int, int]) -> int:
    """Count the bytes of the tensors, without storages that are counted elsewhere."""
    total = 0
    for key, nbytes in _list_storages(tensors).items():
        if key not in elsewhere:
            total += nbytes
    return total


def _split_sparse(tensor: Tensor) -> list[Tensor]:
    """Return a dense tensor itself; of a sparse one its indices and values."""
    return [tensor._indices(), tensor._values()] if tensor.layout == torch.sparse_coo else [tensor]


def _list_buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    found: list[Tensor] = []
    for module in modules:
        found.extend(module.buffers())
    return found


def _start_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _read_peak(device: torch.device, not_ours: int) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) - not_ours


def _choose_byte_unit(nbytes: int) -> tuple[int, str]:
    # 1024 is 2**10: ten bits a step, from bytes to TiB.
    power = min((max(nbytes, 1).bit_length() - 1) // 10, 4)
    return 1024**power, ("bytes", "KiB", "MiB", "GiB", "TiB")[power]


def _format_bytes(nbytes: int) -> str:
    """
    >>> _format_bytes(576), _format_bytes(1536), _format_bytes(3 * 1024**3)
    ('576 bytes', '1.5 KiB', '3 GiB')
    """
    unit, name = _choose_byte_unit(nbytes)
    return f"{nbytes / unit:.4g} {name}"
