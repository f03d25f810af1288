"""Exact mean and variance of what a BatchNorm layer sees, merged over batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nbkit.batchnorm.layers import count_values, read_statistics

_FOLD = 64  # batches whose sums stay on the device before they are merged on the CPU
ENOUGH_VALUES = 16  # with fewer values per channel, a variance is too uncertain to divide by


class Moments:
    """Collect count, mean and sum of squared deviations of what a layer has seen, by channel.

    Each batch leaves three rows on the device: a shift close to its mean, the sum of the deviations
    from the shift, and the sum of their squares. Every 64 batches, the rows are merged on the CPU
    in float64.

    Attributes:
        layer: the BatchNorm layer.
        count: number of values per channel.
        mean: their mean, shape (channels,), float64 on the CPU.
        m2: the sum of their squared deviations from the mean, shape (channels,), likewise.
        has_lent: whether the layer had to normalise a single value by lent statistics.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer: Any = layer  # torch's stubs say that its buffers may be None
        self.clear_counts()

    def clear_counts(self) -> None:
        """Forget everything that was seen."""
        self.count = 0.0
        self.mean = torch.zeros(self.layer.num_features, dtype=torch.float64)
        self.m2 = torch.zeros(self.layer.num_features, dtype=torch.float64)
        self._waiting: list[tuple[int, Tensor]] = []
        self.has_lent = False

    def save_counts(self) -> tuple[float, Tensor, Tensor]:
        """Return what was seen up to now, for `load_counts`."""
        self.fold_waiting()
        return self.count, self.mean, self.m2

    def load_counts(self, saved: tuple[float, Tensor, Tensor]) -> None:
        """Forget what was seen since `save_counts`."""
        self.clear_counts()
        self.count, self.mean, self.m2 = saved

    def add_input(self, x: Tensor) -> None:
        """Add one input of the layer, shape (samples, channels, *positions)."""
        count = count_values(x)
        if count == 0:
            return
        # A sum in half precision would lose small terms.
        x = x if x.dtype == torch.float64 else x.float()
        dims = (0, *range(2, x.ndim))
        # Deviations from a shift close to the mean: E[x^2] - E[x]^2 would cancel if the mean is
        # large beside the standard deviation.
        shift = x.sum(dims, keepdim=True) / count
        rest = x - shift
        sums = torch.stack([shift.flatten(), rest.sum(dims), rest.square_().sum(dims)])
        self._waiting.append((count, sums))
        if len(self._waiting) == _FOLD:
            self.fold_waiting()

    def fold_waiting(self) -> None:
        """Merge the waiting batches into count, mean and m2; this waits for the device."""
        if not self._waiting:
            return
        counts = torch.tensor([float(count) for count, _ in self._waiting], dtype=torch.float64)
        # (batches, 3, channels), in one transfer.
        sums = torch.stack([sums for _, sums in self._waiting]).cpu().double()
        self._waiting.clear()
        shift, first, second = sums.unbind(1)
        # Rounding leaves a small distance between the shift and the mean:
        #     mean = shift + offset
        #     M2 = sum (x - shift)^2 - n offset^2, where n offset = sum (x - shift)
        offset = first / counts[:, None]
        self.merge_parts(counts, shift + offset, (second - first * offset).clamp(min=0))

    def merge_parts(self, counts: Tensor, means: Tensor, m2s: Tensor) -> None:
        """Merge the moments of several parts at once, by the formula of Chan et al.

            mean = sum_i n_i mean_i / N
            M2   = sum_i M2_i + sum_i n_i (mean_i - mean)^2

        Every term of M2 is a square, so it cannot become negative.

        Args:
            counts: values per channel of each part, shape (parts,).
            means: mean of each part, shape (parts, channels).
            m2s: sum of squared deviations of each part, shape (parts, channels).
        """
        # What was seen before is one more part.
        counts = torch.cat([torch.tensor([self.count], dtype=torch.float64), counts])[:, None]
        means = torch.cat([self.mean[None], means])
        self.count = counts.sum().item()
        self.mean = (counts * means).sum(0) / max(self.count, 1.0)
        self.m2 = self.m2 + m2s.sum(0) + (counts * (means - self.mean).square()).sum(0)

    @property
    def population_var(self) -> Tensor:
        """Return the population variance, shape (channels,)."""
        return self.m2 / max(self.count, 1.0)

    def lend_statistics(self) -> None:
        """Give the layer statistics to normalise a single value by: those seen so far.

        With too few values, use the layer's running statistics, or 0 and 1 if those are not finite.
        """
        self.has_lent = True
        self.fold_waiting()
        if self.count >= ENOUGH_VALUES:
            self.layer.running_mean.copy_(self.mean)
            self.layer.running_var.copy_(self.population_var)
        elif not read_statistics(self.layer).isfinite().all():
            self.layer.running_mean.zero_()
            self.layer.running_var.fill_(1)
