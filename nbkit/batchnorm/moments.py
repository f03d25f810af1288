"""Exact moments of what BatchNorm layers see, merged over batches and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbkit.base.batches import count_rows, join_rows
from nbkit.base.model_call import copy_batch

_FOLD = 64  # batches whose sums wait on the device before they are merged on the CPU
SOME = 16  # values whose variance is worth dividing by


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers by name; one that is used in several places counts once."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def stay_in_eval(layer: nn.Module, mode: bool = True) -> nn.Module:
    """What stands in for `train` in a frozen layer: its parts follow, the layer itself does not."""
    type(layer).train(layer, mode)
    layer.training = False
    return layer


def is_frozen(layer: nn.Module, model: nn.Module) -> bool:
    """Frozen by `freeze_bn_`, or left in eval mode by a model that trains."""
    sticky = getattr(vars(layer).get("train"), "func", None) is stay_in_eval
    return sticky or (model.training and not layer.training)


class Moments:
    """Count, mean and sum of squared deviations of what a layer has seen, by channel.

    Each batch leaves three rows on the device: a shift close to its mean, and the sums of the
    deviations from it and of their squares. Now and then they are merged on the CPU in float64.
    """

    def __init__(self, layer: _BatchNorm):
        self.layer: Any = layer  # torch's stubs take its buffers for optional
        self.clear()

    def clear(self) -> None:
        """Nothing seen yet."""
        self.count = 0.0
        self.mean = torch.zeros(self.layer.num_features, dtype=torch.float64)
        self.m2 = torch.zeros(self.layer.num_features, dtype=torch.float64)
        self._waiting: list[tuple[int, Tensor]] = []
        self.lent = False  # whether the layer had to normalise a single value

    def save(self) -> tuple[float, Tensor, Tensor]:
        """What has been seen up to now, for `load`."""
        self.fold()
        return self.count, self.mean, self.m2

    def load(self, saved: tuple[float, Tensor, Tensor]) -> None:
        """Forget what was seen since."""
        self.clear()
        self.count, self.mean, self.m2 = saved

    def add(self, x: Tensor) -> None:
        """Take in one input of the layer: samples, channels, positions."""
        count = values_per_channel(x)
        if count == 0:
            return
        x = x if x.dtype == torch.float64 else x.float()
        dims = (0, *range(2, x.ndim))
        shift = x.sum(dims, keepdim=True) / count
        rest = x - shift
        sums = torch.stack([shift.flatten(), rest.sum(dims), rest.square_().sum(dims)])
        self._waiting.append((count, sums))
        if len(self._waiting) == _FOLD:
            self.fold()

    def fold(self) -> None:
        """Merge what waits into count, mean and m2."""
        if self._waiting:
            counts = torch.tensor([float(count) for count, _ in self._waiting], dtype=torch.float64)
            sums = torch.stack([sums for _, sums in self._waiting]).cpu().double()
            self._waiting.clear()
            shift, first, second = sums.unbind(1)
            offset = first / counts[:, None]  # what rounding has left between shift and mean
            self.merge(counts, shift + offset, (second - first * offset).clamp(min=0))

    def merge(self, counts: Tensor, means: Tensor, m2s: Tensor) -> None:
        """Chan's formula for any number of parts at once: every term is a square, none negative."""
        counts = torch.cat([torch.tensor([self.count], dtype=torch.float64), counts])[:, None]
        means = torch.cat([self.mean[None], means])
        self.count = counts.sum().item()
        self.mean = (counts * means).sum(0) / max(self.count, 1.0)
        self.m2 = self.m2 + m2s.sum(0) + (counts * (means - self.mean).square()).sum(0)

    @property
    def var(self) -> Tensor:
        """The population variance."""
        return self.m2 / max(self.count, 1.0)

    def lend(self) -> None:
        """Give the layer something to normalise a single value by: the statistics so far.

        While there are hardly any, its own; where these are not finite, 0 and 1.
        """
        self.lent = True
        self.fold()
        if self.count >= SOME:
            self.layer.running_mean.copy_(self.mean)
            self.layer.running_var.copy_(self.var)
        elif not running(self.layer).isfinite().all():
            self.layer.running_mean.zero_()
            self.layer.running_var.fill_(1)


def running(layer: _BatchNorm) -> Tensor:
    """The running mean and the running variance as two rows, in float64 on the CPU."""
    moments = (layer.running_mean, layer.running_var)
    return torch.stack(moments).cpu().double()  # type: ignore[arg-type]


def values_per_channel(x: Tensor) -> int:
    """How many values of each channel an input holds; none if it has no channels."""
    return x.numel() // x.shape[1] if x.ndim > 1 and x.shape[1] else 0


@contextmanager
def normalising_by_batch(
    model: nn.Module, seen: dict[str, Moments], frozen: Container[str] = ()
) -> Iterator[None]:
    """The layers note what they see and, but for the frozen ones, normalise by the batch.

    All else is in eval mode. Buffers and modes are the caller's to preserve.
    """
    model.eval()
    with ExitStack() as undo:
        for name, moments in seen.items():
            layer = moments.layer
            if name in frozen:
                undo.enter_context(watching(layer, moments.add))
                continue
            undo.callback(setattr, layer, "track_running_stats", layer.track_running_stats)
            layer.track_running_stats = False
            if isinstance(layer, nn.SyncBatchNorm):
                # Its own forward talks to the other ranks, which may have fewer batches.
                vars(layer)["forward"] = MethodType(_BatchNorm.forward, layer)
                undo.callback(vars(layer).pop, "forward")
            undo.enter_context(watching(layer, partial(_note, moments)))
        yield
    for moments in seen.values():
        moments.fold()


def _note(moments: Moments, x: Tensor) -> None:
    layer = moments.layer
    enough = values_per_channel(x) > 1  # torch refuses to normalise by a single value
    if layer.training is not enough:  # setting an attribute of a module takes its time
        layer.training = enough
    if not enough and layer.running_mean is not None:
        moments.lend()
    moments.add(x)


@contextmanager
def watching(layer: nn.Module, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `note` with each input of the layer."""

    def hook(_, args, kwargs):
        note(args[0] if args else kwargs["input"])

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def over_ranks(seen: dict[str, Moments], pass_data: Callable[[], int]) -> int:
    """Pass the data and merge the moments over the ranks; return how many batches there were.

    A rank that fails still takes part, so that the others do not wait for it.
    """
    batches, error = 0, None
    try:
        batches = pass_data()
    except Exception as exception:
        error = exception
    if dist.is_available() and dist.is_initialized():
        every = _gather([float(error is not None), float(batches)], list(seen.values()))
        failed = [rank for rank, flat in enumerate(every) if flat[0]]
        batches = int(sum(flat[1].item() for flat in every))
        if failed and error is None:
            raise RuntimeError(
                f"Passing the data failed on rank {', '.join(map(str, failed))}, where the error "
                f"is shown. No statistics have been changed, on any rank."
            )
    if error is not None:
        raise error
    return batches


def _gather(head: list[float], seen: list[Moments]) -> list[Tensor]:
    """Everybody's head; the moments become those of all ranks."""
    parts = [torch.tensor(head, dtype=torch.float64)]
    for moments in seen:
        parts += [torch.tensor([moments.count], dtype=torch.float64), moments.mean, moments.m2]
    mine = torch.cat(parts).to("cuda" if dist.get_backend() == "nccl" else "cpu")
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    rows = torch.stack(every).cpu()
    start = len(head)
    for moments in seen:
        size = len(moments.mean)
        counts, means, m2s = rows[:, start : start + 1 + 2 * size].split([1, size, size], dim=1)
        moments.clear()
        moments.merge(counts[:, 0], means, m2s)
        start += 1 + 2 * size
    return list(rows)


def group_singles(batches: Iterable[Any], starves: Callable[[Any], bool]) -> Iterator[Any]:
    """Give the batches, those of one sample in groups where alone they would starve a layer.

    Args:
        batches: as a loader gives them; of a tuple or list the first item is the input.
        starves: whether a batch of one sample gives some layer a single value a channel. It is
            asked once, for the first.

    A group has SOME samples or a few more. Where there are fewer, they are given at the end: one
    by one after larger batches, whose statistics serve them better than their own.
    """
    waiting: list[Any] = []
    passed, alone = False, None
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        is_single = alone is not False and _is_single(inputs)
        if is_single and alone is None:
            alone = starves((inputs,))
        if not (is_single and alone):
            passed = True
            yield batch
            continue
        waiting.append(copy_batch(inputs))  # the loader may write its next sample over it
        if len(waiting) == 2 * SOME:
            passed = True
            yield from _joined(waiting[:SOME])
            del waiting[:SOME]
    yield from _joined(waiting) if len(waiting) >= SOME or not passed else zip(waiting)


def _joined(samples: list[Any]) -> list[tuple[Any]]:
    """The samples as one batch, or one by one where their sizes differ."""
    together = join_rows(samples) if samples else None
    return list(zip(samples)) if together is None else [(together,)]


def _is_single(inputs: Any) -> bool:
    try:
        return count_rows(inputs) == 1
    except ValueError:
        return False
