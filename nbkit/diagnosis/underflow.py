"""Count the gradients that half precision would lose, and those that a loss scale saves."""

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
# From no scale to 256 times the one that GradScaler starts with.
SCALES = tuple(2.0**k for k in range(0, 25, 4))


@dataclass
class LostShares:
    """Shares of a layer's nonzero gradients, one entry per loss scale.

    Attributes:
        zero: share that would become zero.
        subnormal: share that would keep fewer digits, below the smallest normal number.
        overflow: share that would become infinite.
    """

    zero: list[float]
    subnormal: list[float]
    overflow: list[float]


@dataclass
class LayerUnderflow:
    """Count one layer's nonzero gradients, and give the shares that half precision would lose."""

    name: str
    nonzero: int
    fp16: LostShares
    bf16: LostShares


@dataclass
class UnderflowReport(Report):
    """Report what half precision would do to the gradients, as a function of the loss scale."""

    scales: list[float]
    layers: list[LayerUnderflow]

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """Return one row per layer: share of zeros in fp16 at each scale, in bf16 at the first."""
        powers = [f"2^{math.log2(scale):g}" for scale in self.scales]
        rows = []
        for layer in self.layers:
            shares = map(_format_share, layer.fp16.zero, layer.fp16.overflow)
            # bf16 has the range of float32, so one scale is enough.
            in_bf16 = _format_share(layer.bf16.zero[0], layer.bf16.overflow[0])
            rows.append([layer.name, layer.nonzero, *shares, in_bf16])
        summary = "share of the nonzero gradients that would be zero (inf: some would overflow)"
        columns = [f"fp16 x {power}" for power in powers]
        return summary, ("layer", "nonzero", *columns, f"bf16 x {powers[0]}"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of zeros in fp16 against the loss scale, one line per layer."""
        ax = ensure_axes(ax)
        for layer in self.layers:
            ax.plot(self.scales, layer.fp16.zero, marker=".", label=layer.name)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="loss scale", ylabel="share of gradients that are zero in fp16", ylim=(0, 1))
        ax.legend(title="layer")
        return ax


def underflow_report(model: nn.Module, *, scales: Sequence[float] = SCALES) -> UnderflowReport:
    """Compute the share of the model's gradients that fp16 and bf16 would lose, layer by layer.

    Each gradient is multiplied by the scale and rounded to the type. Only gradients that are
    nonzero now count; of a complex one, the real and the imaginary part. fp16 rounds to zero below
    2^-25 and loses digits below 2^-14; bf16 has the range of float32.

    Args:
        model: after `backward`, with gradients that carry no loss scale (`amp.unscale_` divides it
            out).
        scales: the loss scales to try.
    Returns:
        UnderflowReport: `.layers`, one entry for all parameters of one module; reading the numbers
            synchronises once.
    Raises:
        ValueError: if no parameter has a gradient, or if a scale is not positive.

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

    counts = _count_by_layer(grads, scales)
    # One transfer for all layers: rows of shape (1 + 2 types * scales * 3 kinds of loss,).
    rows = torch.stack(list(counts.values())).tolist()
    layers = []
    for name, row in zip(counts, rows, strict=True):
        layers.append(_build_layer(name, row, len(scales)))
    return UnderflowReport([float(scale) for scale in scales], layers)


def _count_by_layer(grads: dict[str, Tensor], scales: Sequence[float]) -> dict[str, Tensor]:
    """Sum the counts of the parameters of each module, on the device of the first gradient."""
    device = next(iter(grads.values())).device
    sums: dict[str, Tensor] = {}
    for name, grad in grads.items():
        counts = _count_losses(grad, scales).to(device)
        # A parameter of the model itself has no module's name before its own.
        layer = name.rpartition(".")[0] or name
        sums[layer] = sums[layer] + counts if layer in sums else counts
    return sums


def _count_losses(grad: Tensor, scales: Sequence[float]) -> Tensor:
    """Count nonzero values; then, by type and scale, those that become zero, subnormal, infinite.

    Returns:
        Tensor: integers, shape (1 + 2 types * scales * 3,).
    """
    grad = grad.detach()
    if grad.is_complex():
        grad = torch.view_as_real(grad.resolve_conj())
    # float32 holds every 16-bit number exactly.
    if grad.dtype is not torch.float64:
        grad = grad.float()
    # Infinity and NaN are lost already.
    alive = grad.isfinite() & (grad != 0)
    counts = [alive.sum()]
    for dtype in HALVES.values():
        for scale in scales:
            rounded = (grad * scale).to(dtype)
            # tiny: the smallest normal number of the type.
            small = rounded.abs() < torch.finfo(dtype).tiny
            zero = alive & (rounded == 0)
            counts += [zero.sum(), (alive & small & ~zero).sum(), (alive & rounded.isinf()).sum()]
    return torch.stack(counts)


def _build_layer(name: str, counts: list[int], scales: int) -> LayerUnderflow:
    """Turn the counts of one layer into shares, in the order of `_count_losses`."""
    nonzero, *losses = counts
    shares = [count / max(nonzero, 1) for count in losses]
    fp16, bf16 = shares[: 3 * scales], shares[3 * scales :]
    return LayerUnderflow(name, nonzero, _split_shares(fp16), _split_shares(bf16))


def _split_shares(shares: list[float]) -> LostShares:
    """Separate zero, subnormal and overflow, which alternate scale by scale."""
    return LostShares(shares[0::3], shares[1::3], shares[2::3])


def _format_share(zero: float, overflow: float) -> str:
    return "inf" if overflow else f"{zero:.1%}"
