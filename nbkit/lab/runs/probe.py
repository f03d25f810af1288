"""Send a few samples through a stack and through its models, and compare what they compute."""

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
from nbkit.lab.runs.layouts import list_trained_parameters
from nbkit.lab.runs.stacked_layers import StackedLinear, Vmapped, Wide
from nbkit.lab.runs.stacking import UNUSUAL, make_refusal, stack_layers

Answer = dict[str, list[Tensor]]  # by what is compared, tensors of (runs, numbers of one run)
# What F.embedding takes after the tokens and the weight, in order.
LOOKUP_OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


def check_stack(stacked: nn.Module, models: Sequence[nn.Module], x: Tensor) -> None:
    """Refuse models whose stack computes something else on these samples than each of them does.

    It compares the outputs in training and in evaluation, the gradient of each parameter, and the
    buffers afterwards. That finds a forward that vmap cannot follow, that draws random numbers,
    that replaces a buffer by a new one, or that depends on something which differs between the
    models and is not one of their tensors. It calls copies, so no model changes. A stack of Linear,
    Flatten and activations only is not compared: nothing can go wrong there.

    Raises:
        ValueError: if anything differs; it names the innermost layer that differs by itself.
    """
    if not any(isinstance(module, Vmapped | Wide) for module in stacked.modules()):
        return
    with preserve_state(), torch.enable_grad():
        wrong = _find_difference(stacked, models, [x] * len(models))
        if wrong is not None:
            raise _find_innermost(models, x) or wrong


def _find_difference(
    stacked: nn.Module, models: Sequence[nn.Module], xs: list[Tensor]
) -> ValueError | None:
    """Return the refusal of this stack, or None; `xs` are the samples of each model."""
    name = type(models[0]).__name__
    pairs = list(zip(models, xs, strict=True))
    alone: dict[tuple[int, int], Answer] = {}
    for model, x in pairs:
        if (id(model), id(x)) not in alone:  # arms that start alike share their models
            alone[id(model), id(x)] = _answer_samples(copy.deepcopy(model), x, 1, nullcontext())
    try:
        found = _answer_samples(
            copy.deepcopy(stacked), torch.stack(xs), len(xs), RefuseLookupOptions()
        )
    # Everything that vmap raises for a forward which it cannot follow.
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first_line = str(error).strip().split("\n")[0]
        refused = make_refusal(f"the forward of {name} ({first_line})")
        refused.__cause__ = error
        return refused
    for what, ours in found.items():
        answers = [alone[id(model), id(x)][what] for model, x in pairs]
        # Tensor by tensor, the models' answers as (runs, numbers of one run).
        theirs = [torch.cat(parts) for parts in zip(*answers, strict=True)]
        if not _are_close(ours, theirs):
            return make_refusal(f"{name}: stacked, it gives other {what} than each model alone")
    return None


def _find_innermost(models: Sequence[nn.Module], x: Tensor) -> ValueError | None:
    """Return the refusal of the innermost layer that differs by itself, on its own inputs."""
    calls = [_record_inputs(copy.deepcopy(model), x) for model in models]
    for path in reversed(list(calls[0])):  # the layers in a block come before the block
        layers, xs = [], []
        # The layer counts only if every model called it with one tensor.
        for model, inputs in zip(models, calls, strict=True):
            if path in inputs:
                layers.append(model.get_submodule(path))
                xs.append(inputs[path])
        if not path or len(xs) < len(models):
            continue
        # In a block with its own forward everything goes through vmap.
        stacked = stack_layers(layers) if _is_in_sequence(models[0], path) else Vmapped(layers)
        wrong = _find_difference(stacked, layers, xs)
        if wrong is not None:
            return wrong
    return None


def _is_in_sequence(model: nn.Module, path: str) -> bool:
    """Return whether every block around a layer is a plain nn.Sequential."""
    block = model
    for name in path.split("."):
        if type(block) is not nn.Sequential:
            return False
        block = block.get_submodule(name)
    return True


def _record_inputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Record the input of each layer that takes and returns one tensor, outer layers first."""
    given: dict[str, Tensor] = {}

    def note_input(path: str, args: Any, output: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            given.setdefault(path, args[0].detach().clone())

    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda _, args, output, path=path: note_input(path, args, output)
        )
    model(x.clone())
    # A hook runs after its layer, so `given` has inner layers first.
    ordered = {}
    for path, _ in model.named_modules():
        if path in given:
            ordered[path] = given[path]
    return ordered


def _answer_samples(
    model: nn.Module, x: Tensor, runs: int, training: AbstractContextManager[Any]
) -> Answer:
    """Return everything that is compared; the model's buffers change.

    Args:
        model: a stack, or with runs=1 a single model.
        x: its samples.
        runs: how many runs share each tensor.
        training: a context for the calls in training mode.
    """
    with training:
        with torch.no_grad():
            model(x.clone())  # the second call sees the buffers that the first one has changed
        y = model(x.clone())
    gradients = _find_gradients(model, y, runs)
    buffers = [_split_runs(buffer.detach(), runs) for buffer in model.buffers()]
    with torch.no_grad():
        evaluated = model.eval()(x.clone())
    return {
        "outputs": [_split_runs(y.detach(), runs)],
        "gradients": gradients,
        "buffers": buffers,
        "outputs in evaluation": [_split_runs(evaluated, runs)],
    }


def _find_gradients(model: nn.Module, y: Tensor, runs: int) -> list[Tensor]:
    """Return the gradients of a weighted sum of the outputs, as they look in a single model."""
    parameters = list_trained_parameters(model)
    found: Sequence[Tensor | None] = [None] * len(parameters)
    if y.requires_grad:
        # A plain sum would not notice outputs that have changed places.
        ramp = torch.linspace(-1, 1, y.numel() // runs, dtype=y.dtype, device=y.device)
        # Each run's part of the total depends on its own weights only.
        total = (y.reshape(runs, -1) * ramp).sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
    turned = set()  # a stacked Linear keeps (inputs, outputs)
    for module in model.modules():
        if isinstance(module, StackedLinear):
            turned.add(id(module.weight))
    gradients = []
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is None:
            gradient = y.new_empty(0)
        elif id(parameter) in turned:
            gradient = gradient.mT
        gradients.append(_split_runs(gradient, runs))
    return gradients


def _split_runs(tensor: Tensor, runs: int) -> Tensor:
    """Reshape to (runs, numbers of one run); a single number is the same in all runs."""
    if not tensor.ndim:
        return tensor.expand(runs, 1)
    return tensor.reshape(runs, tensor.numel() // runs)


def _are_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether all tensors are equal but for rounding, wherever the expected is finite."""
    if len(found) != len(expected):
        return False
    sizes = list(map(_measure_size, expected))
    for ours, theirs, size in zip(found, expected, sizes, strict=True):
        if ours.shape != theirs.shape:
            return False
        # Absolute tolerance for values that are tiny relative to their tensor, and for tensors that
        # are tiny relative to the others, such as the gradient of a bias before a BatchNorm.
        tolerance = 1e-3 * size + 1e-4 * max(sizes)
        is_finite = theirs.isfinite()  # weights may be so large that nothing can be compared
        if not torch.allclose(
            _mask_numbers(ours, is_finite), _mask_numbers(theirs, is_finite), 1e-3, tolerance
        ):
            return False
    return True


def _measure_size(tensor: Tensor) -> float:
    """Return the largest finite magnitude in a tensor; 0 if it is empty."""
    if not tensor.numel():
        return 0.0
    return _mask_numbers(tensor, tensor.isfinite()).abs().max().item()


def _mask_numbers(tensor: Tensor, mask: Tensor) -> Tensor:
    """Return a tensor as floats, with 0 outside the mask."""
    return 1.0 * tensor.where(mask, 0)  # times 1.0, counts become floats too


class RefuseLookupOptions(TorchFunctionMode):
    """Refuse F.embedding with an option: under vmap its gradient is right in the first run only.

    Comparing outputs may miss that: perhaps none of the samples holds a token of padding.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, or refuse it."""
        kwargs = kwargs or {}
        if func is F.embedding:
            given = {**dict(zip(LOOKUP_OPTIONS, args[2:], strict=False)), **kwargs}
            wrong = list(filter(given.get, UNUSUAL))
            if given.get("padding_idx") is not None:  # 0 is a token like any other
                wrong.append("padding_idx")
            if wrong:
                raise ValueError(f"F.embedding with {' and '.join(wrong)}")
        return func(*args, **kwargs)
