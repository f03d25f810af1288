"""One forward and backward pass of somebody's model, knowing which module is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model
from nbkit.base.nested import move_tensors, walk_tensors
from nbkit.base.report import Word
from nbkit.base.state import preserve_state

LOSS = "the loss function"


class PassPhase(Word):
    """Where in one forward and backward pass something happens."""

    GIVEN = "given"
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"


class Trial:
    """One forward and backward pass that leaves no trace; subclasses look on.

    Args:
        model: a module, also inside DistributedDataParallel or torch.compile.
        batch: (inputs, target, ...) as a loader gives it, or the inputs; a dict of inputs is
            passed as keywords.
        loss_fn: called with the output and the targets; None: backward starts at the output.

    Attributes:
        phase: FORWARD, LOSS or BACKWARD.
        running: the modules at work, the innermost last.
        paths: of a module as it is shown there, its name for `get_submodule`.
    """

    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable | None) -> None:
        self.model, self.loss_fn = unwrap_model(model), loss_fn
        self.batch = copy_batch(batch)
        self.phase = PassPhase.FORWARD
        self.running: list[str] = []
        self.paths: dict[str, str] = {}
        self._made: list[tuple[int, int, str]] = []

    def entered(self, module: nn.Module, inputs: Any) -> None:
        """Called before a module runs; `running` ends with its name."""

    def left(self, module: nn.Module, output: Any) -> None:
        """Called after it."""

    def reached(self, result: Any) -> None:
        """Called between forward and backward, with the loss, or the output without one."""

    def given(self) -> Iterator[tuple[str, str, Tensor]]:
        """What the pass starts from: kind, name, tensor."""
        modules = {"": self.model}
        if isinstance(self.loss_fn, nn.Module):
            modules["loss_fn."] = self.loss_fn
        for prefix, module in modules.items():
            yield from (("parameter", prefix + n, p) for n, p in module.named_parameters())
            yield from (("buffer", prefix + n, b) for n, b in module.named_buffers())
        inputs, targets = self._split()
        yield from (("input", name, tensor) for name, tensor in walk_tensors(inputs, "input"))
        yield from (("target", name, tensor) for name, tensor in walk_tensors(targets, "target"))

    def run(self, within: AbstractContextManager | None = None, loss_scale: float = 1.0) -> None:
        """Forward, loss, backward, within a context."""
        loss = [self.loss_fn] if isinstance(self.loss_fn, nn.Module) else []
        kept = preserve_state(self.model, *loss)
        with kept, self._hooks(), torch.enable_grad(), run_eagerly(), within or nullcontext():
            result = call_model(self.model, self.batch)
            if self.loss_fn is not None:
                self.phase = PassPhase.LOSS
                result = self.loss_fn(result, *_beside(result, self._split()[1]))
            self.reached(result)
            self.phase = PassPhase.BACKWARD
            roots = [tensor for _, tensor in walk_tensors(result) if tensor.requires_grad]
            if loss_scale != 1:  # as GradScaler does it: a loss in fp16 becomes float32
                roots = [root * torch.tensor(loss_scale, device=root.device) for root in roots]
            if roots:
                torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])

    def maker(self, node: Any) -> str:
        """The innermost module whose forward pass made an autograd node."""
        number = node._sequence_nr()
        inside = [(first, -end, name) for first, end, name in self._made if first <= number < end]
        return max(inside)[2] if inside else LOSS

    def _split(self) -> tuple[Any, tuple]:
        if not isinstance(self.batch, (tuple, list)):
            return self.batch, ()
        return self.batch[0], tuple(self.batch[1:]) if self.loss_fn is not None else ()

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        started: list[int] = []

        def enter(name, module, inputs, keywords):
            started.append(_get_sequence_nr())
            self.running.append(name)
            self.entered(module, (*inputs, keywords) if keywords else inputs)

        def leave(name, module, inputs, output):
            self._made.append((started.pop(), _get_sequence_nr(), name))
            self.left(module, output)
            self.running.pop()

        with ExitStack() as hooks:
            for path, module in self.model.named_modules():
                name = f"{path or 'the model'} ({type(module).__name__})"
                self.paths[name] = path
                before = module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
            yield


def _beside(result: Any, targets: tuple) -> list:
    """The targets, on the device of the result."""
    device = next((tensor.device for _, tensor in walk_tensors(result)), None)
    return move_tensors(list(targets), device)
