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
        summary = f"one training step on {self.device}: {_size(self.total)} in all"
        if self.peak is not None:
            summary += f", peak {_size(self.peak)}"
        rows: list[list[object]] = []
        for part in PARTS:
            nbytes = getattr(self, part)
            share = f"{nbytes / self.total:.0%}"
            rows.append([part.replace("_", " "), nbytes, _size(nbytes), share])
        return summary, ["part", "bytes", "size", "share"], rows

    def to_dict(self) -> dict[str, object]:
        """Every field, and the total, as plain JSON."""
        return super().to_dict() | {"total": self.total}

    def plot(self, ax: Axes | None = None) -> Axes:
        """A bar for each part, activations in their own colour; returns the axes."""
        ax = ensure_axes(ax)
        sizes = {part.replace("_", " "): getattr(self, part) for part in PARTS}
        if self.peak is not None:
            sizes["peak"] = self.peak
        colors = {"activations": plots.TECHNIQUE, "peak": plots.QUIET}
        unit, name = _unit(max(sizes.values()))
        for row, (part, nbytes) in enumerate(sizes.items()):
            ax.barh(row, nbytes / unit, color=colors.get(part, plots.BASELINE))
            ax.annotate(
                _size(nbytes), (nbytes / unit, row), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=9,
            )  # fmt: skip
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
    """Where the memory of one training step goes.

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
    _check(model, optimizer)
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    parameters = [p for module in modules for p in module.parameters()]
    device = parameters[0].device
    batch = map_tensors(partial(_moved, device), batch)
    given = list_tensors(batch)
    stale = [p.grad for p in parameters if p.grad is not None]

    # Copies in CPU memory do not count in a peak on the device; nor should the gradients of
    # before, which wait until they are put back.
    with preserve_state(*modules, optimizer, *given, offload=True), torch.enable_grad():
        _loss(model, batch, loss_fn).backward()
        optimizer.step()
        optimizer.zero_grad()
        _start_peak(device)
        with _saved_tensors() as saved:
            loss = _loss(model, batch, loss_fn)
        held = _storages(chain(parameters, _buffers(modules), given))
        activations = _nbytes(saved(), held)
        loss.backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        optimizer.step()

        weights = _storages(parameters)
        held = weights | _storages(_buffers(modules))
        state = list_tensors([optimizer.state[p] for p in optimizer.state])
        return MemoryReport(
            parameters=sum(weights.values()),
            buffers=_nbytes(_buffers(modules), weights),
            gradients=_nbytes(gradients, held),
            optimizer_state=_nbytes(state, held | _storages(gradients)),
            activations=activations,
            batch=_nbytes(given, held),
            peak=_peak(device, _nbytes(stale, _storages(gradients))),
            device=str(device),
        )


def _check(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got a {type(optimizer).__name__}."
        )
    check_plain_step(optimizer, "memory_report")
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in updated for p in model.parameters()):
        raise ValueError(
            "the optimizer has no parameter of this model: make it from model.parameters()."
        )


def _moved(device: torch.device, leaf: Tensor) -> Tensor:
    """A tensor of the batch on the model's device, without the graph that it may come from."""
    return leaf.detach().to(device).requires_grad_(leaf.requires_grad)


def _loss(model: nn.Module, batch: Any, loss_fn: Callable[..., Tensor]) -> Tensor:
    targets = batch[1:] if isinstance(batch, (tuple, list)) else ()
    loss = loss_fn(call_model(model, batch), *targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss_fn must return one number that requires a gradient, got {found}: take a mean, "
            f"and do not detach."
        )
    return loss


class _Kept:
    """A tensor that autograd holds: it lives as long as its place in the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # itself, it would be held in a circle where it is an output


@contextmanager
def _saved_tensors() -> Iterator[Callable[[], list[Tensor]]]:
    """Gives a function that lists what autograd holds at that moment, of all it saved inside."""
    kept: WeakSet[_Kept] = WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        yield lambda: [holder.tensor for holder in kept]


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """The bytes of each memory that the tensors lie in: views and ties lie in the same."""
    dense = chain.from_iterable(_dense(tensor) for tensor in tensors)
    storages = (tensor.untyped_storage() for tensor in dense)
    return {storage._cdata: storage.nbytes() for storage in storages}


def _nbytes(tensors: Iterable[Tensor], elsewhere: dict[int, int]) -> int:
    """The bytes of the tensors, without what is counted elsewhere."""
    storages = _storages(tensors)
    return sum(nbytes for key, nbytes in storages.items() if key not in elsewhere)


def _dense(tensor: Tensor) -> list[Tensor]:
    """A tensor that has a storage is that; a sparse one (of an embedding, say) has two inside."""
    return [tensor._indices(), tensor._values()] if tensor.layout == torch.sparse_coo else [tensor]


def _buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [buffer for module in modules for buffer in module.buffers()]


def _start_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device, not_ours: int) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) - not_ours


def _unit(nbytes: int) -> tuple[int, str]:
    power = min((max(nbytes, 1).bit_length() - 1) // 10, 4)
    return 1024**power, ("bytes", "KiB", "MiB", "GiB", "TiB")[power]


def _size(nbytes: int) -> str:
    """
    >>> _size(576), _size(1536), _size(3 * 1024**3)
    ('576 bytes', '1.5 KiB', '3 GiB')
    """
    unit, name = _unit(nbytes)
    return f"{nbytes / unit:.4g} {name}"
