"""BatchNorm's running statistics inside a training loop: frozen, guarded, slowed down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.model_call import unwrap_model
from nbkit.base.numbers import read_integer
from nbkit.base.report import Report
from nbkit.batchnorm.moments import batch_norms, stay_in_eval


@dataclass
class Undo(Report):
    """The way back from a change to a model: `undo()`, or the end of a `with` block.

    Attributes:
        what: what was done to the layers.
        before: name of a layer that was changed to what it had: its mode, or its momentum.
        after: the same names to what it got.
        left: name of a BatchNorm layer that was not changed to the reason.
    """

    what: str
    before: dict[str, str | float] = field(default_factory=dict)
    after: dict[str, str | float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    @property
    def names(self) -> list[str]:
        """The layers that were changed."""
        return list(self.after)

    def table(self):
        """One row a BatchNorm layer, as it was changed, also once the change is undone."""
        rows = [(name, self.before[name], self.after[name]) for name in self.names]
        rows += [(name, "-", f"left: {why}") for name, why in self.left.items()]
        summary = f"{self.what}: {len(self.names)} BatchNorm layers, {len(self.left)} left"
        return summary, ("layer", "before", "after"), rows

    def undo(self) -> None:
        """Take the change back; a second call does nothing.

        Unless the change is there again: `preserve_state` brings it back if it was there before
        its block. So the steps stay, and each looks first whether its change is in force.
        """
        for step in reversed(self._steps):
            step()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def freeze_bn_(model: nn.Module, *, affine: bool = True) -> Undo:
    """Stop BatchNorm: its running statistics are used and kept, in train mode too.

    Args:
        affine: also stop training weight and bias (`requires_grad`); their `.grad` is dropped, so
            that an optimizer with momentum or weight decay leaves them alone.
    Returns:
        Undo: takes it back, by `undo()` or as a context manager. A layer is then in the mode of
            the module that holds it, if it was when it was frozen; otherwise in the one it had.
    Raises:
        ValueError: if a lazy layer has no shape yet; nothing is changed.

    It survives `model.train()`, a copy and a save of the model. Other layers are left alone.
    Layers without running statistics cannot stop normalising by the batch: they are in `left`.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> frozen = freeze_bn_(model)
    >>> print(frozen)
    frozen: 1 BatchNorm layers, 0 left
    layer  before                             after
    1      train mode, weight and bias train  frozen, weight and bias fixed
    >>> [layer.training for layer in model.train()]
    [True, False]
    >>> frozen.undo()
    >>> [layer.training for layer in model]
    [True, True]
    """
    undo = Undo("frozen")
    model = unwrap_model(model)
    for name, layer in _with_shape(batch_norms(model)).items():
        if layer.running_mean is None:
            undo.left[name] = "it has no running statistics (track_running_stats=False)"
            continue
        undo.before[name] = _mode(layer)
        weights = {p: p.requires_grad for p in layer.parameters(recurse=False)} if affine else {}
        if "train" in vars(layer):
            undo._steps.append(partial(_unfix, layer, vars(layer)["train"], weights))
        else:
            holder = model.get_submodule(name.rpartition(".")[0])
            follows = holder if holder.training == layer.training else None
            frozen = vars(layer)["train"] = partial(stay_in_eval, layer)
            undo._steps.append(partial(_thaw, layer, frozen, follows, layer.training))
            undo._steps.append(partial(_unfix, layer, frozen, weights))
            layer.training = False
        for parameter in weights:
            parameter.requires_grad_(False)
            parameter.grad = None
        undo.after[name] = _mode(layer)
    return undo


def _mode(layer: nn.Module) -> str:
    """Which statistics a layer uses, and whether its weight and bias train."""
    mode = "train mode" if layer.training else "eval mode"
    if "train" in vars(layer):
        mode = "frozen"
    trains = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
    if not trains:
        return mode
    return f"{mode}, weight and bias {'train' if any(trains) else 'fixed'}"


def _thaw(layer: nn.Module, frozen: object, holder: nn.Module | None, before: bool) -> None:
    """Take away the `train` that holds a layer in eval mode, where it is still this one."""
    if vars(layer).get("train") is frozen:
        del vars(layer)["train"]
        layer.training = before if holder in (None, layer) else holder.training


def _unfix(layer: nn.Module, frozen: object, weights: dict[nn.Parameter, bool]) -> None:
    """Let weight and bias train again, where the layer is still frozen."""
    if vars(layer).get("train") is frozen:
        for parameter, before in weights.items():
            parameter.requires_grad_(before)


def _unscale(layer: Any, before: float, after: float) -> None:
    """Give a momentum back, where it is still the rescaled one."""
    if layer.momentum == after:
        layer.momentum = before


def _with_shape(layers: dict[str, Any]) -> dict[str, Any]:
    """The layers; a lazy one that has seen no data has nothing to freeze or to keep yet."""
    for name, layer in layers.items():
        own = chain(layer.parameters(recurse=False), layer.buffers(recurse=False))
        if any(map(nn.parameter.is_lazy, own)):
            raise ValueError(
                f"layer {name!r} has no shape yet: run one batch through the model first. Nothing "
                f"has been changed."
            )
    return layers


class BNGuard:
    """Running statistics as they were before a step, to go back to."""

    def __init__(self, model: nn.Module) -> None:
        layers = _with_shape(batch_norms(unwrap_model(model))).values()
        self._kept = [(t, t.clone()) for layer in layers for t in layer.buffers(recurse=False)]
        self._sound: Tensor | None = None

    @property
    def restored(self) -> bool:
        """Whether the statistics went back; reading it waits for the device."""
        return self._sound is not None and not bool(self._sound)

    @torch.no_grad()
    def check(self, loss: Tensor | float, *, stepped: bool | Tensor = True) -> None:
        """Go back unless the loss is finite and the optimizer stepped; without waiting for either.

        Before or after the backward. With several micro-batches, check each: one bad one, and the
        whole step goes back.
        """
        sound = torch.as_tensor(loss).detach().isfinite().all() & stepped
        self._sound = sound if self._sound is None else sound & self._sound
        for tensor, kept in self._kept:
            _write(tensor, torch.where(self._sound.to(tensor.device), tensor, kept))

    @torch.no_grad()
    def restore(self) -> None:
        """Go back."""
        self._sound = torch.tensor(False)
        for tensor, kept in self._kept:
            _write(tensor, kept)


def _write(statistics: Tensor, values: Tensor) -> None:
    """Put values into running statistics, unseen by autograd.

    A layer's forward pass saves its statistics for backward, which refuses them if they have been
    written to since. But the gradient in train mode is of the batch's statistics, and in eval mode
    the values are those that were there. `.data` counts no write where `.detach()` does; torch's
    own context for this, `_unsafe_preserve_version_counter`, is private.
    """
    statistics.data.copy_(values)


@contextmanager
def guard_bn(model: nn.Module) -> Iterator[BNGuard]:
    """Keep one bad step from poisoning BatchNorm's running statistics for ever.

        with guard_bn(model) as guard:
            loss = loss_fn(model(x), y)
            ...  # backward, step
            guard.check(loss, stepped=True)

    If the loss is not finite, the optimizer's step was skipped (`stepped=False`: a GradScaler
    takes back neither the forward pass nor what it did to the statistics) or the block raises,
    the statistics are as before the block.

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
        if guard._sound is None:
            raise RuntimeError(
                "The block of guard_bn ended without guard.check(loss, stepped=...): nothing said "
                "whether the step was sound, so the running statistics have gone back."
            )
    except BaseException:
        guard.restore()
        raise


def rescale_bn_momentum_(model: nn.Module, accumulation_steps: int) -> Undo:
    """Let K micro-batches move the running statistics as far as one batch would.

        m' = 1 - (1 - m)^(1/K)

    Args:
        accumulation_steps: K, micro-batches to an optimizer step.
    Returns:
        Undo: gives the old momenta back, by `undo()` or as a context manager. Layers that average
            all their batches (momentum=None) need no change: they are in `left`.
    Raises:
        ValueError: if K is not a positive int or a momentum is outside [0, 1]; nothing is changed.

    The normalisation itself still uses each micro-batch's own statistics.

    >>> bn = nn.BatchNorm1d(1)
    >>> with rescale_bn_momentum_(bn, 4):
    ...     round(bn.momentum, 4)
    0.026
    >>> bn.momentum
    0.1
    """
    steps = read_integer(accumulation_steps)
    if steps is None or steps < 1:
        raise ValueError(
            f"accumulation_steps must be an int of at least 1, the micro-batches to an optimizer "
            f"step, got {accumulation_steps!r}."
        )
    layers = batch_norms(unwrap_model(model))
    for name, layer in layers.items():
        if layer.momentum is not None and not 0 <= layer.momentum <= 1:
            raise ValueError(
                f"the momentum of layer {name!r} must be in [0, 1], the weight of a new batch in "
                f"the running statistics, got {layer.momentum}. No momentum has been changed."
            )

    undo = Undo("momentum rescaled")
    for name, layer in layers.items():
        if layer.running_mean is None:
            undo.left[name] = "it has no running statistics (track_running_stats=False)"
            continue
        if layer.momentum is None:
            undo.left[name] = "it averages all its batches (momentum=None)"
            continue
        undo.before[name] = layer.momentum
        before, layer.momentum = layer.momentum, 1 - (1 - layer.momentum) ** (1 / steps)
        undo._steps.append(partial(_unscale, layer, before, layer.momentum))
        undo.after[name] = layer.momentum
    return undo
