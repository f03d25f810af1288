"""One forward and one backward pass, watched: numbers stay on the device until the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from nbkit.base.batches import count_rows
from nbkit.base.model_call import call_model, copy_batch, run_eagerly
from nbkit.base.nested import list_tensors
from nbkit.base.state import preserve_state
from nbkit.initialization.measures import (
    class_frequencies,
    duplicates,
    equal_probabilities,
    has_weights,
    rms,
    varying,
    weight_of,
)

_RELU = {"relu", "relu_", "relu6", "_threshold", "threshold_", "clamp_min", "clamp_min_"}
# The lower and the upper limit of what a function gives.
_LIMITS = {
    "tanh": (-1.0, 1.0),
    "tanh_": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "sigmoid_": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
}
_NEAR = 0.005  # of the way between the limits: 0.99 for tanh
_SUMS = {"add", "add_", "sub", "sub_", "addcmul", "addcmul_", "lerp", "lerp_"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "rsqrt"}


@dataclass
class Call:
    """One call of one layer with weights.

    `values` are tensors while the passes run, and floats once they are read: "arriving",
    "forward" and "backward" (root mean squares of the input, of the output, of its gradient),
    "dead", "saturated", "coming" and "varying" (what differs between samples, of the input and of
    the output), "duplicates".
    """

    name: str
    path: str
    module: nn.Module
    order: int
    stretch: int  # counts the normalisations before it
    size: int
    expects_gradient: bool
    values: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> float | None:
        """The number, None where it was not measured."""
        return self.values.get(key)


@dataclass
class Merge:
    """Where a residual branch may end: a sum of two activations, or the output of a container.

    Attributes:
        order: of the call that came last before it.
        past_input: one of two terms needs no gradient, as the model's input does not.
    """

    order: int
    size: int
    past_input: bool
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def pull(self) -> float:
        """Norm of the gradient at it; 0 where there is none, or no finite one."""
        pull = self.values.get("backward", 0.0) * math.sqrt(self.size)
        return pull if math.isfinite(pull) else 0.0


@dataclass
class Gate:
    """A parameter that is all zero, and gets a gradient; known only after the passes."""

    name: str
    order: int
    values: dict[str, Any] = field(default_factory=dict)


class Probe(TorchFunctionMode):
    """Watches the calls of layers, and the activation and normalisation functions between them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.gates: list[Gate] = []
        self.merges: list[Merge] = []
        self.totals: dict[str, Any] = {}
        self.samples = 0
        self._stretch = 0
        self._clock = 0
        self._order: dict[nn.Module, int] = {}  # when a module was last called

    def run(self, batch: object, loss_fn: Callable | None, target: object) -> None:
        """Both passes, and one synchronisation; model and random state are as before."""
        kept = [self.model, *([loss_fn] if isinstance(loss_fn, nn.Module) else [])]
        with preserve_state(*kept), torch.enable_grad(), parametrize.cached():
            with ExitStack() as hooks, run_eagerly(), self:
                for name, module in self.model.named_modules():
                    hook = module.register_forward_hook(partial(self._on_call, name))
                    hooks.callback(hook.remove)
                output = call_model(self.model, copy_batch(batch))
            self._look_at_inputs(batch)
            if loss_fn is None:
                self._look_at_parameters(None)
            else:
                self._look_at_gradients(output, loss_fn, target)
            self._read()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Every torch function of the forward pass comes by here."""
        name = getattr(func, "__name__", "")
        # Now: in place, the first term becomes the sum.
        terms = _terms((*args, *(kwargs or {}).values())) if name in _SUMS else []
        output = func(*args, **(kwargs or {}))
        if name in _NORMS:
            self._stretch += 1
        elif name in _SUMS:
            self._look_at_sum(output, terms)
        elif self.calls and isinstance(output, Tensor) and output.is_floating_point():
            low, high = _limits(name, args, kwargs or {})
            if name in _RELU or (name == "hardtanh" and low == 0):
                self._look_at_relu(output.detach())
            elif name in _LIMITS:
                self._look_at_limits(output.detach(), low, high)
        return output

    def _look_at_sum(self, output: Any, terms: list[tuple[Any, bool]]) -> None:
        needs = [need for shape, need in terms if shape == output.shape]
        if len(needs) > 1 and output.requires_grad:
            self._look_at_merge(output, past_input=not all(needs))

    def _look_at_merge(self, output: Tensor, past_input: bool = False) -> None:
        found = Merge(self._clock, output.numel(), past_input)
        self.merges.append(found)
        output.register_hook(lambda gradient: found.values.update(backward=rms(gradient)))

    def _look_at_relu(self, x: Tensor) -> None:
        units = x.movedim(_unit_dim(self.calls[-1], x), 0).flatten(1)
        self.calls[-1].values.setdefault("dead", (units == 0).all(1).float().mean())

    def _look_at_limits(self, x: Tensor, low: float, high: float) -> None:
        near = _NEAR * (high - low)
        stuck = ((x < low + near) | (x > high - near)).float().mean()
        self.calls[-1].values.setdefault("saturated", stuck)

    def _on_call(self, name: str, module: nn.Module, args, output) -> None:
        self._clock += 1
        self._order[module] = self._clock
        x = next(iter(_floats(output)), None)
        if x is None or not x.numel():
            return
        if not has_weights(module):
            if x.requires_grad and any(map(has_weights, module.modules())):
                self._look_at_merge(x)
            return
        again = sum(seen.module is module for seen in self.calls)
        label = (name or type(module).__name__) + (f" #{again + 1}" if again else "")
        seen = Call(label, name, module, self._clock, self._stretch, x.numel(), x.requires_grad)
        self.calls.append(seen)
        seen.values["forward"] = rms(x)
        for came in _floats(args):
            seen.values.setdefault("arriving", rms(came))
            if "coming" not in seen.values and came.ndim > 1 and len(came) > 1:
                seen.values["coming"] = varying(came, seen.values["arriving"])
        if x.ndim > 1 and len(x) > 1:
            seen.values["varying"] = varying(x, seen.values["forward"])
        if seen.expects_gradient:
            x.register_hook(lambda gradient: seen.values.update(backward=rms(gradient)))

    def _look_at_inputs(self, batch: object) -> None:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        for x in _floats(inputs):
            self.totals.setdefault("input", rms(x))
        self.samples = _samples(inputs)

    def _look_at_gradients(self, output: object, loss_fn: Callable, target: object) -> None:
        if isinstance(output, Tensor) and isinstance(target, Tensor):
            target = target.to(output.device)
        loss = (loss_fn(output) if target is None else loss_fn(output, copy_batch(target))).mean()
        self.totals["loss"] = loss.detach()
        uniform = equal_probabilities(output, target)
        if uniform is not None and isinstance(target, Tensor):
            self.totals["expected"] = loss_fn(uniform, copy_batch(target)).detach().mean()
            frequent = class_frequencies(uniform, target)
            self.totals["frequent"] = loss_fn(frequent, copy_batch(target)).detach().mean()
        wanted: dict[int, Tensor] = {id(p): p for p in self.model.parameters() if p.requires_grad}
        weights = [weight_of(seen.module) for seen in self.calls]
        wanted |= {id(w): w for w in weights if w is not None and w.requires_grad}
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad and wanted:
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        self._look_at_parameters(dict(zip(wanted, found, strict=True)))

    def _look_at_parameters(self, gradients: Mapping[int, Tensor | None] | None) -> None:
        """Which parameters start at zero but move; which units are copies of each other."""
        for name, parameter in self.model.named_parameters():
            path, _, last = name.rpartition(".")
            if "bias" in last or not parameter.requires_grad:
                continue
            gate = Gate(name, self._last_call(path))
            gate.values["zero"] = (parameter.detach() == 0).all()
            if gradients is not None:
                gate.values["moves"] = _is_somewhere(gradients[id(parameter)], parameter)
            self.gates.append(gate)
        for module in {id(seen.module): seen.module for seen in self.calls}.values():
            weight = weight_of(module)
            if weight is None:
                continue
            copies = duplicates(module, weight.detach(), (gradients or {}).get(id(weight)))
            for seen in self.calls:
                if seen.module is module:
                    seen.values["duplicates"] = copies

    def _last_call(self, path: str) -> int:
        """When a module was last called; a ParameterList never is, but what holds it."""
        while True:
            order = self._order.get(self.model.get_submodule(path))
            if order is not None or not path:
                return order or 0
            path = path.rpartition(".")[0]

    def _read(self) -> None:
        """All numbers in one transfer."""
        parts: list[Call | Merge | Gate] = [*self.calls, *self.merges, *self.gates]
        places = [self.totals, *(part.values for part in parts)]
        found = [tensor for values in places for tensor in values.values()]
        if not found:
            return
        device = found[0].device
        numbers = iter(torch.stack([t.to(device, torch.float32) for t in found]).tolist())
        for values in places:
            values.update({key: next(numbers) for key in values})
        self.gates = [g for g in self.gates if g.values["zero"] and g.values.get("moves", 1.0)]


def _terms(given: tuple[Any, ...]) -> list[tuple[Any, bool]]:
    """Shape, and whether it needs a gradient, of each activation that goes into a sum."""
    return [
        (x.shape, x.requires_grad)
        for x in given
        if isinstance(x, Tensor) and x.is_floating_point() and not isinstance(x, nn.Parameter)
    ]


def _limits(name: str, args: tuple, kwargs: Mapping) -> tuple[float, float]:
    """Between what a function's values lie; hardtanh is told."""
    low, high = _LIMITS.get(name, (-math.inf, math.inf))
    if name == "hardtanh":
        given = {**dict(zip(("input", "min_val", "max_val"), args, strict=False)), **kwargs}
        low, high = given.get("min_val", low), given.get("max_val", high)
    return low, high


def _unit_dim(seen: Call, x: Tensor) -> int:
    """The dimension of units in what comes after a layer: channels, else the last one."""
    if isinstance(seen.module, _ConvNd) and x.ndim > len(seen.module.kernel_size):
        return x.ndim - len(seen.module.kernel_size) - 1
    return x.ndim - 1


def _is_somewhere(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros((), device=parameter.device)
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return (values != 0).any()


def _floats(thing: object) -> list[Tensor]:
    return [tensor for tensor in list_tensors(thing) if tensor.is_floating_point()]


def _samples(inputs: object) -> int:
    """How many samples the inputs hold; where they do not agree, such as a state, the first's."""
    try:
        return count_rows(inputs)
    except ValueError:
        sizes = [len(tensor) for tensor in list_tensors(inputs) if tensor.dim()]
        return sizes[0] if sizes else 0
