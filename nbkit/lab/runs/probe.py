"""A few samples through a stack and through its models: whether both compute the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nbkit.base.state import preserve_state
from nbkit.lab.runs.stacked_layers import StackedLinear, Vmapped, Wide
from nbkit.lab.runs.stacking import UNUSUAL, refusal, stack_layers

Answer = dict[str, list[Tensor]]  # what is compared -> tensors (runs, numbers)
OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")  # F.embedding's


def compare(stacked: nn.Module, models: Sequence[nn.Module], x: Tensor) -> None:
    """Refuse models whose stack does not do, on these samples, what each of them does.

    Compared are the outputs in training and in evaluation, the gradient of each parameter, and what
    is left in the buffers. That finds a forward that vmap cannot follow, that draws random numbers,
    that puts a new buffer in an old one's place, or that depends on what differs between the models
    and is no tensor of theirs. Copies are called: none is changed. Linear, Flatten and activations
    alone leave nothing to find.

    Raises:
        ValueError: if anything differs; it names the innermost layer that differs by itself.
    """
    if not any(isinstance(module, Vmapped | Wide) for module in stacked.modules()):
        return
    with preserve_state(), torch.enable_grad():
        wrong = _wrong(stacked, models, [x] * len(models))
        if wrong is not None:
            raise _innermost(models, x) or wrong


def _wrong(stacked: nn.Module, models: Sequence[nn.Module], xs: list[Tensor]) -> ValueError | None:
    """The refusal of this stack, or None; `xs` are the samples of each model."""
    name = type(models[0]).__name__
    alone: dict[tuple[int, int], Answer] = {}
    pairs = list(zip(models, xs, strict=True))
    for model, x in pairs:
        if (id(model), id(x)) not in alone:  # arms that start alike share their models
            alone[id(model), id(x)] = _answer(copy.deepcopy(model), x, 1, nullcontext())
    try:
        found = _answer(copy.deepcopy(stacked), torch.stack(xs), len(xs), _PlainLookups())
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        refused = refusal(f"the forward of {name} ({reason})")
        refused.__cause__ = error
        return refused
    for what, ours in found.items():
        theirs = zip(*(alone[id(model), id(x)][what] for model, x in pairs), strict=True)
        if not _close(ours, [torch.cat(parts) for parts in theirs]):
            return refusal(f"{name}: stacked, it gives other {what} than each model alone")
    return None


def _innermost(models: Sequence[nn.Module], x: Tensor) -> ValueError | None:
    """The refusal of the innermost layer that is wrong by itself, on what its model gives it."""
    calls = [_calls(copy.deepcopy(model), x) for model in models]
    for path in reversed([path for path in calls[0] if path]):  # a block's layers before the block
        if not all(path in each for each in calls):
            continue
        layers = [model.get_submodule(path) for model in models]
        around = [models[0], *map(models[0].get_submodule, _prefixes(path))]
        in_sequence = all(type(block) is nn.Sequential for block in around)
        # In a block with a forward of its own everything goes through vmap.
        stacked = stack_layers(layers) if in_sequence else Vmapped(layers)
        wrong = _wrong(stacked, layers, [each[path] for each in calls])
        if wrong is not None:
            return wrong
    return None


def _prefixes(path: str) -> list[str]:
    """The blocks around a layer, by path: a and a.b around a.b.c."""
    names = path.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def _calls(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each layer that takes one tensor and gives one is called with, outer layers first."""
    given: dict[str, Tensor] = {}

    def note(path: str, args: Any, output: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            given.setdefault(path, args[0].detach().clone())

    for path, module in model.named_modules():
        module.register_forward_hook(lambda _, args, output, path=path: note(path, args, output))
    model(x.clone())
    return {path: given[path] for path, _ in model.named_modules() if path in given}


def _answer(
    model: nn.Module, x: Tensor, runs: int, training: AbstractContextManager[Any]
) -> Answer:
    """What the model gives for these samples and keeps of them; it is changed."""
    with training:
        with torch.no_grad():
            model(x.clone())  # what the first call leaves counts in the second
        y = model(x.clone())
    turned = {id(m.weight) for m in model.modules() if isinstance(m, StackedLinear)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = [None] * len(parameters)
    if y.requires_grad:
        ramp = torch.linspace(-1, 1, y.numel() // runs, dtype=y.dtype, device=y.device)
        total = (y.reshape(runs, -1) * ramp).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    each = [
        _rows(y.new_empty(0) if g is None else g.mT if id(p) in turned else g, runs)
        for p, g in zip(parameters, gradients, strict=True)
    ]
    buffers = [_rows(buffer.detach(), runs) for buffer in model.buffers()]
    with torch.no_grad():
        evaluated = model.eval()(x.clone())
    return {
        "outputs": [_rows(y.detach(), runs)],
        "gradients": each,
        "buffers": buffers,
        "outputs in evaluation": [_rows(evaluated, runs)],
    }


def _rows(tensor: Tensor, runs: int) -> Tensor:
    """(runs, numbers of one run); a lone number is the same in all of them."""
    if not tensor.ndim:
        return tensor.expand(runs, 1)
    return tensor.reshape(runs, tensor.numel() // runs)


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return False
    # Weights may be so large that nothing can be compared; times 1.0, counts are floats too.
    theirs = [1.0 * tensor.where(tensor.isfinite(), 0) for tensor in expected]
    ours = [1.0 * a.where(b.isfinite(), 0) for a, b in zip(found, expected, strict=True)]
    sizes = [tensor.abs().max().item() if tensor.numel() else 0.0 for tensor in theirs]
    # Rounding, of what is next to nothing: of its tensor, or a whole tensor beside the others, such
    # as the gradient of a bias before a BatchNorm.
    least = [1e-3 * size + 1e-4 * max(sizes) for size in sizes]
    each = zip(ours, theirs, least, strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=atol) for a, b, atol in each)


class _PlainLookups(TorchFunctionMode):
    """Refuses F.embedding with an option: under vmap its gradient is right in the first run only.

    A token of padding may be in none of the samples, and then comparing them finds nothing.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """The call as it was meant, or the refusal."""
        kwargs = kwargs or {}
        if func is F.embedding:
            given = {**dict(zip(OPTIONS, args[2:], strict=False)), **kwargs}
            wrong = [option for option in UNUSUAL if given.get(option)]
            wrong += ["padding_idx"] * (given.get("padding_idx") is not None)
            if wrong:
                raise ValueError(f"F.embedding with {' and '.join(wrong)}")
        return func(*args, **kwargs)
