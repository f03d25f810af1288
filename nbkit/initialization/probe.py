"""Watch one forward and one backward pass; the numbers stay on the device until the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from nbkit.base.batches import count_rows
from nbkit.base.model_call import call_model, copy_batch, run_eagerly
from nbkit.base.nested import list_tensors
from nbkit.base.state import preserve_state
from nbkit.initialization.activations import (
    LIMITS,
    RELUS,
    find_limits,
    measure_dead_share,
    measure_saturated_share,
)
from nbkit.initialization.calls import Call, Gate, Merge, PendingNumbers, Totals
from nbkit.initialization.measures import (
    count_duplicates,
    has_weights,
    make_frequency_output,
    make_uniform_output,
    measure_any_nonzero,
    root_mean_square,
    share_that_varies,
    weight_of,
)

# torch's names of the functions that end a residual branch.
_SUMS = {"add", "add_", "sub", "sub_", "addcmul", "addcmul_", "lerp", "lerp_"}
# rsqrt: a normalisation that is written by hand divides by a root.
_NORMALISATIONS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "rsqrt"}


class Probe(TorchFunctionMode):
    """Watch the calls of layers, and the activation and normalisation functions between them.

    Attributes:
        calls: each call of a layer with weights, in order.
        merges: the places where a residual branch may end, in order.
        gates: the parameters that start at zero and move at the first step.
        totals: the numbers of the whole pass.
        samples: how many the batch holds.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.gates: list[Gate] = []
        self.merges: list[Merge] = []
        self.totals = Totals()
        self.samples = 0
        self._pending = PendingNumbers()
        self._stretch = 0  # normalisations so far
        self._clock = 0  # calls of modules so far
        self._order: dict[nn.Module, int] = {}  # when a module was last called

    def watch_passes(
        self, batch: object, loss_fn: Callable[..., Tensor] | None, target: object
    ) -> None:
        """Run both passes and synchronise once; model and random state are restored."""
        kept = [self.model, *([loss_fn] if isinstance(loss_fn, nn.Module) else [])]
        # `cached`: a parametrized weight is computed once, so that it has one gradient.
        with preserve_state(*kept), torch.enable_grad(), parametrize.cached():
            with ExitStack() as hooks, run_eagerly(), self:
                for name, module in self.model.named_modules():
                    hook = module.register_forward_hook(partial(self._on_call, name))
                    hooks.callback(hook.remove)
                # The watch ends with the forward pass: the loss has sums and activations as well.
                output = call_model(self.model, copy_batch(batch))
            # The original batch: the model may have worked in place on the copy.
            self._look_at_inputs(batch)
            gradients = None
            if loss_fn is not None:
                gradients = self._compute_gradients(output, loss_fn, target)
            self._look_at_gates(gradients)
            self._look_at_copies(gradients)
            self._pending.read_all()
        self.gates = [gate for gate in self.gates if gate.is_zero and gate.moves]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See every torch function of the forward pass."""
        name = getattr(func, "__name__", "")
        # Before the call: in place, the first term becomes the sum.
        terms = _list_terms((*args, *(kwargs or {}).values())) if name in _SUMS else []
        output = func(*args, **(kwargs or {}))
        if name in _NORMALISATIONS:
            self._stretch += 1
        elif name in _SUMS:
            self._look_at_sum(output, terms)
        elif self.calls and isinstance(output, Tensor) and output.is_floating_point():
            low, high = find_limits(name, args, kwargs or {})
            # The activation belongs to the layer that was called last.
            call = self.calls[-1]
            if name in RELUS or (name == "hardtanh" and low == 0):  # ReLU6 is a hardtanh from 0
                dead = measure_dead_share(call.module, output.detach())
                self._pending.note_first(call.numbers, "dead", dead)
            elif name in LIMITS:
                saturated = measure_saturated_share(output.detach(), low, high)
                self._pending.note_first(call.numbers, "saturated", saturated)
        return output

    def _look_at_sum(self, output: Any, terms: list[tuple[torch.Size, bool]]) -> None:
        # A bias or a mask that is broadcast to the output's shape is no second branch.
        needs = [needs_gradient for shape, needs_gradient in terms if shape == output.shape]
        if len(needs) > 1 and output.requires_grad:
            self._record_merge(output, past_input=not all(needs))

    def _record_merge(self, output: Tensor, past_input: bool = False) -> None:
        merge = Merge(self._clock, output.numel(), past_input)
        self.merges.append(merge)
        self._note_gradient(output, merge)

    def _note_gradient(self, output: Tensor, record: object) -> None:
        """Note the root mean square of the output's gradient when the backward pass reaches it."""

        def note_it(gradient: Tensor) -> None:
            self._pending.note(record, "gradient_rms", root_mean_square(gradient))

        output.register_hook(note_it)

    def _on_call(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Act as a forward hook of every module."""
        self._clock += 1
        self._order[module] = self._clock
        # An LSTM returns its states beside the output, which comes first.
        floats = _list_float_tensors(output)
        if not floats or not floats[0].numel():
            return
        if has_weights(module):
            self._record_call(name, module, args, floats[0])
        # The end of a block that holds layers, where a branch may end in some other operation.
        elif floats[0].requires_grad and any(map(has_weights, module.modules())):
            self._record_merge(floats[0])

    def _record_call(self, name: str, module: nn.Module, args: Any, x: Tensor) -> None:
        earlier = [call for call in self.calls if call.module is module]
        label = name or type(module).__name__
        if earlier:
            label += f" #{len(earlier) + 1}"
        call = Call(label, name, module, self._clock, self._stretch, x.numel(), x.requires_grad)
        self.calls.append(call)

        numbers, note_first = call.numbers, self._pending.note_first
        size = note_first(numbers, "output_rms", root_mean_square(x))
        if _has_samples(x):
            note_first(numbers, "output_varying", share_that_varies(x, size))
        for given in _list_float_tensors(args):
            size = note_first(numbers, "input_rms", root_mean_square(given))
            if _has_samples(given) and not self._pending.has_number(numbers, "input_varying"):
                note_first(numbers, "input_varying", share_that_varies(given, size))
        if call.expects_gradient:
            self._note_gradient(x, numbers)

    def _look_at_inputs(self, batch: object) -> None:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        for x in _list_float_tensors(inputs):
            self._pending.note_first(self.totals, "input_rms", root_mean_square(x))
        self.samples = _count_batch_samples(inputs)

    def _compute_gradients(
        self, output: object, loss_fn: Callable[..., Tensor], target: object
    ) -> dict[int, Tensor | None]:
        """Run the backward pass; return the gradients by the id of their tensor."""
        if isinstance(output, Tensor) and isinstance(target, Tensor):
            target = target.to(output.device)
        # A copy of the target for each call: a loss may work in place.
        loss = loss_fn(output) if target is None else loss_fn(output, copy_batch(target))
        loss = loss.mean()  # a loss with reduction="none" has one value for each sample
        self._pending.note(self.totals, "loss", loss.detach())
        self._note_reference_losses(output, loss_fn, target)

        wanted: dict[int, Tensor] = {}
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                wanted[id(parameter)] = parameter
        # The weight of a parametrized layer is computed, and so no parameter.
        for call in self.calls:
            weight = weight_of(call.module)
            if weight is not None and weight.requires_grad:
                wanted[id(weight)] = weight
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad and wanted:
            # `grad`, not `backward`: the parameters' own .grad stays as it is.
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return dict(zip(wanted, gradients, strict=True))

    def _note_reference_losses(
        self, output: object, loss_fn: Callable[..., Tensor], target: object
    ) -> None:
        """Note the losses of a model that knows nothing, or the frequencies of the classes only."""
        # Only where the target is one class index for each prediction.
        uniform = make_uniform_output(output, target)
        if uniform is None or not isinstance(target, Tensor):
            return
        loss = loss_fn(uniform, copy_batch(target)).detach().mean()
        self._pending.note(self.totals, "uniform_loss", loss)
        frequent = make_frequency_output(uniform, target)
        loss = loss_fn(frequent, copy_batch(target)).detach().mean()
        self._pending.note(self.totals, "frequency_loss", loss)

    def _look_at_gates(self, gradients: Mapping[int, Tensor | None] | None) -> None:
        """Note which parameters, biases apart, start at zero and have a gradient."""
        for name, parameter in self.model.named_parameters():
            path, _, last = name.rpartition(".")
            # A bias starts at zero as a rule, and stops no gradient.
            if "bias" in last or not parameter.requires_grad:
                continue
            gate = Gate(name, self._find_last_call(path))
            self._pending.note(gate, "is_zero", (parameter.detach() == 0).all())
            if gradients is not None:
                moves = measure_any_nonzero(gradients[id(parameter)], parameter)
                self._pending.note(gate, "moves", moves)
            self.gates.append(gate)

    def _look_at_copies(self, gradients: Mapping[int, Tensor | None] | None) -> None:
        """Note for each layer how many of its units are copies of others."""
        counted: dict[int, Tensor] = {}  # once for each layer, also where it has several calls
        for call in self.calls:
            weight = weight_of(call.module)
            if weight is None:
                continue
            key = id(call.module)
            if key not in counted:
                gradient = (gradients or {}).get(id(weight))
                counted[key] = count_duplicates(call.module, weight.detach(), gradient)
            self._pending.note(call.numbers, "duplicates", counted[key])

    def _find_last_call(self, path: str) -> int:
        """Return when a module was last called; a ParameterList never is, but its parent."""
        while True:
            order = self._order.get(self.model.get_submodule(path))
            if order is not None or not path:
                return order or 0
            path = path.rpartition(".")[0]


def _list_terms(given: tuple[Any, ...]) -> list[tuple[torch.Size, bool]]:
    """List shape, and whether it requires a gradient, of each activation that goes into a sum."""
    terms = []
    for x in given:
        # A parameter is a bias or a gate, not a branch.
        if isinstance(x, Tensor) and x.is_floating_point() and not isinstance(x, nn.Parameter):
            terms.append((x.shape, x.requires_grad))
    return terms


def _list_float_tensors(tree: object) -> list[Tensor]:
    return [tensor for tensor in list_tensors(tree) if tensor.is_floating_point()]


def _has_samples(x: Tensor) -> bool:
    """Check whether the first axis can be one of samples, and holds more than one."""
    return x.ndim > 1 and len(x) > 1


def _count_batch_samples(inputs: object) -> int:
    """Count the samples; where the parts disagree, such as a state, count those of the first."""
    try:
        return count_rows(inputs)
    except ValueError:
        sizes = [len(tensor) for tensor in list_tensors(inputs) if tensor.dim()]
        return sizes[0] if sizes else 0
