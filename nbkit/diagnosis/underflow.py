"""Which gradients would be lost in half precision, and what a loss scale saves of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbkit.base.gradients import named_parameters, read_gradients
from nbkit.base.report import Report, ensure_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
SCALES = tuple(2.0**k for k in range(0, 25, 4))


@dataclass
class Lost:
    """Shares of a layer's nonzero gradients, one entry a loss scale.

    Attributes:
        zero: would be zero.
        subnormal: would keep fewer digits, being below the smallest normal number.
        overflow: would be infinite.
    """

    zero: list[float]
    subnormal: list[float]
    overflow: list[float]


@dataclass
class LayerUnderflow:
    """One layer: how many of its gradients are not zero, and what becomes of these."""

    name: str
    nonzero: int
    fp16: Lost
    bf16: Lost


@dataclass
class UnderflowReport(Report):
    """What half precision would do to the gradients at hand, as a function of the loss scale."""

    scales: list[float]
    layers: list[LayerUnderflow]

    def table(self):
        """A row a layer: the share of zeros in fp16 at each scale, and in bf16 without one."""
        powers = [f"2^{math.log2(scale):g}" for scale in self.scales]
        rows = []
        for layer in self.layers:
            shares = map(_share, layer.fp16.zero, layer.fp16.overflow)
            without = _share(layer.bf16.zero[0], layer.bf16.overflow[0])
            rows.append([layer.name, layer.nonzero, *shares, without])
        summary = "share of the nonzero gradients that would be zero (inf: some would overflow)"
        fp16 = [f"fp16 x {power}" for power in powers]
        return summary, ("layer", "nonzero", *fp16, f"bf16 x {powers[0]}"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """The share of zeros in fp16 against the loss scale, a line a layer."""
        ax = ensure_axes(ax)
        for layer in self.layers:
            ax.plot(self.scales, layer.fp16.zero, marker=".", label=layer.name)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="loss scale", ylabel="share of gradients that are zero in fp16", ylim=(0, 1))
        ax.legend(title="layer")
        return ax


def underflow_report(model: nn.Module, *, scales: Sequence[float] = SCALES) -> UnderflowReport:
    """Of the gradients at hand, what share would vanish in fp16 and in bf16, layer by layer.

    Each gradient is multiplied by the scale and rounded to the type; counted are those that are
    not zero now, of a complex one the real and the imaginary part. fp16 has zero below 2^-25 and
    loses digits below 2^-14; bf16 has the range of float32.

    Args:
        model: after `backward`, its gradients without a loss scale (`amp.unscale_` takes it out).
        scales: the loss scales to try.
    Returns:
        UnderflowReport: `.layers`, with the parameters of one module in one; reading the numbers
            synchronises once.
    Raises:
        ValueError: if no parameter has a gradient.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight.grad = torch.tensor([[1e-8, 1e-3]])
    >>> report = underflow_report(layer, scales=[1, 1024])
    >>> report.layers[0].fp16.zero, report.layers[0].bf16.zero
    ([0.5, 0.0], [0.0, 0.0])
    """
    grads = read_gradients(named_parameters(model))
    if not grads:
        raise ValueError("no parameter has a gradient: call backward first.")
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales must be one or more numbers > 0, got {scales!r}.")
    counts: dict[str, list[Tensor]] = {}
    for name, grad in grads.items():
        counts.setdefault(name.rpartition(".")[0] or name, []).append(_counts(grad, scales))
    first = next(iter(grads.values())).device
    sums = [torch.stack([each.to(first) for each in parts]).sum(0) for parts in counts.values()]
    numbers = torch.stack(sums).tolist()
    layers = [_layer(name, row, len(scales)) for name, row in zip(counts, numbers, strict=True)]
    return UnderflowReport([float(scale) for scale in scales], layers)


def _counts(grad: Tensor, scales: Sequence[float]) -> Tensor:
    """How many are not zero; then, by type and scale, how many become so, or small, or infinite."""
    grad = grad.detach()
    grad = torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad
    grad = grad if grad.dtype is torch.float64 else grad.float()
    alive = grad.isfinite() & (grad != 0)
    counts = [alive.sum()]
    for dtype in HALVES.values():
        for scale in scales:
            rounded = (grad * scale).to(dtype)
            small = rounded.abs() < torch.finfo(dtype).tiny
            zero = alive & (rounded == 0)
            counts += [zero.sum(), (alive & small & ~zero).sum(), (alive & rounded.isinf()).sum()]
    return torch.stack(counts)


def _layer(name: str, counts: list[int], scales: int) -> LayerUnderflow:
    nonzero, *rest = counts
    shares = [count / max(nonzero, 1) for count in rest]
    fp16, bf16 = shares[: 3 * scales], shares[3 * scales :]
    lost = [Lost(half[0::3], half[1::3], half[2::3]) for half in (fp16, bf16)]
    return LayerUnderflow(name, nonzero, *lost)


def _share(zero: float, overflow: float) -> str:
    return "inf" if overflow else f"{zero:.1%}"
