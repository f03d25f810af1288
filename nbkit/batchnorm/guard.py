"""Guard the running statistics of BatchNorm against a step that goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nbkit.base.model_call import unwrap_model
from nbkit.batchnorm.layers import find_batch_norms, require_shapes


class BNGuard:
    """Keep a copy of the running statistics from before a step, and go back to it if needed."""

    def __init__(self, model: nn.Module) -> None:
        layers = find_batch_norms(unwrap_model(model))
        require_shapes(layers)
        self._kept: list[tuple[Tensor, Tensor]] = []  # each statistic, and its copy
        for layer in layers.values():
            for statistic in layer.buffers(recurse=False):
                self._kept.append((statistic, statistic.clone()))
        self._is_sound: Tensor | None = None  # on the loss's device; None before the first check

    @property
    def is_checked(self) -> bool:
        """Return whether `check` or `restore` has been called."""
        return self._is_sound is not None

    @property
    def restored(self) -> bool:
        """Return whether the statistics went back; reading it waits for the device."""
        return self._is_sound is not None and not bool(self._is_sound)

    @torch.no_grad()
    def check(self, loss: Tensor | float, *, stepped: bool | Tensor = True) -> None:
        """Go back unless the loss is finite and the optimizer stepped; wait for neither.

        Call it before or after the backward. With several micro-batches, call it for each: after
        one bad micro-batch, the statistics of the whole step go back.

        Args:
            loss: the loss of the batch that has just passed, of any shape.
            stepped: whether the optimizer updated the parameters.
        """
        sound = torch.as_tensor(loss).detach().isfinite().all() & stepped
        self._is_sound = sound if self._is_sound is None else sound & self._is_sound
        # Choose on the device between the new values and the copies: an `if` would wait for it.
        for statistic, copy in self._kept:
            is_sound = self._is_sound.to(statistic.device)
            _overwrite_statistic(statistic, torch.where(is_sound, statistic, copy))

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the statistics from before the step."""
        self._is_sound = torch.tensor(False)
        for statistic, copy in self._kept:
            _overwrite_statistic(statistic, copy)


def _overwrite_statistic(statistic: Tensor, values: Tensor) -> None:
    """Write values into a running statistic without a trace in autograd.

    The forward pass of a layer saves its statistics for the backward pass, which refuses them if
    they were written to in between. Here that is harmless: in train mode the gradient is computed
    from the batch's statistics, and in eval mode the values are the same as before. A write
    through `.data` is not counted, a write through `.detach()` is. torch's own context for this,
    `_unsafe_preserve_version_counter`, is private.
    """
    statistic.data.copy_(values)


@contextmanager
def guard_bn(model: nn.Module) -> Iterator[BNGuard]:
    """Keep one bad step from poisoning BatchNorm's running statistics for good.

        with guard_bn(model) as guard:
            loss = loss_fn(model(x), y)
            ...  # backward, step
            guard.check(loss, stepped=True)

    The statistics go back to those from before the block in three cases: the loss is not finite,
    the block raises, or the optimizer's step was skipped (`stepped=False`; a GradScaler undoes
    neither the forward pass nor its effect on the statistics).

    Raises:
        ValueError: before the block, if a lazy layer has no shape yet.
        RuntimeError: if the block ends without `guard.check`; the statistics have gone back.

    >>> bn = nn.BatchNorm1d(1)
    >>> with guard_bn(bn) as guard:
    ...     guard.check(bn(torch.tensor([[1.0], [torch.inf]])).sum())
    >>> guard.restored, bn.running_mean
    (True, tensor([0.]))
    """
    guard = BNGuard(model)
    try:
        yield guard
        if not guard.is_checked:
            raise RuntimeError(
                "The block of guard_bn ended without guard.check(loss, stepped=...), so nothing "
                "says whether the step was sound, and the running statistics have gone back. Call "
                "guard.check in the block, before or after the backward."
            )
    except BaseException:  # KeyboardInterrupt too: half a step may have passed
        guard.restore()
        raise
