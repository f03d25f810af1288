"""Watch one forward and backward pass of a user's model, module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]  # torch's profiler too

from nbkit.base.model_call import call_model, copy_batch, run_eagerly, unwrap_model
from nbkit.base.nested import move_tensors, walk_tensors
from nbkit.base.report import Word
from nbkit.base.state import preserve_state

LOSS = "the loss function"


class PassPhase(Word):
    """A part of one forward and backward pass."""

    GIVEN = "given"
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"


class Trial:
    """One forward and backward pass, after which all is as before; subclasses watch it.

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

    def __init__(self, model: nn.Module, batch: Any, loss_fn: Callable[..., Any] | None) -> None:
        self.model, self.loss_fn = unwrap_model(model), loss_fn
        self.batch = copy_batch(batch)
        self.phase = PassPhase.FORWARD
        self.running: list[str] = []
        self.paths: dict[str, str] = {}
        self._made: list[tuple[int, int, str]] = []

    def entered(self, module: nn.Module, inputs: Any) -> None:
        """Take note before a module runs; `running` ends with its name."""

    def left(self, module: nn.Module, output: Any) -> None:
        """Take note after a module has run."""

    def reached(self, result: Any) -> None:
        """Take note between forward and backward, of the loss, or of the output without one."""

    def given(self) -> Iterator[tuple[str, str, Tensor]]:
        """List what the pass starts from: kind, name, tensor."""
        modules = {"": self.model}
        if isinstance(self.loss_fn, nn.Module):
            modules["loss_fn."] = self.loss_fn
        for prefix, module in modules.items():
            for name, parameter in module.named_parameters():
                yield "parameter", prefix + name, parameter
            for name, buffer in module.named_buffers():
                yield "buffer", prefix + name, buffer
        inputs, targets = self._split_batch()
        for kind, part in (("input", inputs), ("target", targets)):
            for name, tensor in walk_tensors(part, kind):
                yield kind, name, tensor

    def run(
        self, within: AbstractContextManager[Any] | None = None, loss_scale: float = 1.0
    ) -> None:
        """Run forward, loss and backward, within a context.

        Args:
            within: a context for the pass, such as autocast; None for none.
            loss_scale: factor on the loss before the backward pass, as GradScaler has one.
        """
        # A loss that is a module may have parameters and buffers too.
        loss = [self.loss_fn] if isinstance(self.loss_fn, nn.Module) else []
        kept = preserve_state(self.model, *loss)
        with (
            kept,
            self._watch_modules(),
            torch.enable_grad(),
            run_eagerly(),
            within or nullcontext(),
        ):
            result = call_model(self.model, self.batch)
            if self.loss_fn is not None:
                self.phase = PassPhase.LOSS
                result = self.loss_fn(result, *_move_beside(result, self._split_batch()[1]))
            self.reached(result)
            self.phase = PassPhase.BACKWARD
            roots = [tensor for _, tensor in walk_tensors(result) if tensor.requires_grad]
            if loss_scale != 1:
                # A tensor as the factor, as GradScaler has it: a loss in fp16 becomes float32.
                for i, root in enumerate(roots):
                    roots[i] = root * torch.tensor(loss_scale, device=root.device)
            if roots:
                # An output without a loss counts as the sum of its numbers.
                torch.autograd.backward(roots, list(map(torch.ones_like, roots)))

    def maker(self, node: Any) -> str:
        """Name the innermost module whose forward pass made an autograd node."""
        number = node._sequence_nr()
        # Each module made the nodes from `first` to before `end`. Of the modules around a node the
        # innermost started last; of two that started together, it ended first.
        innermost = None
        for first, end, name in self._made:
            if first <= number < end:
                found = (first, -end, name)
                innermost = found if innermost is None else max(innermost, found)
        return LOSS if innermost is None else innermost[2]

    def _split_batch(self) -> tuple[Any, tuple[Any, ...]]:
        """Split the batch into inputs and targets; without a loss there are no targets."""
        if not isinstance(self.batch, (tuple, list)):
            return self.batch, ()
        return self.batch[0], tuple(self.batch[1:]) if self.loss_fn is not None else ()

    @contextmanager
    def _watch_modules(self) -> Iterator[None]:
        """Keep `running` up to date, and call `entered` and `left`, by a hook on every module."""
        started: list[int] = []  # for each running module, the number of the next autograd node

        def note_entry(name: str, module: nn.Module, inputs: Any, keywords: Any) -> None:
            started.append(_get_sequence_nr())
            self.running.append(name)
            self.entered(module, (*inputs, keywords) if keywords else inputs)

        def note_exit(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            # Numbers of autograd nodes count up: all from `started` on were made in this call.
            self._made.append((started.pop(), _get_sequence_nr(), name))
            self.left(module, output)
            self.running.pop()

        with ExitStack() as hooks:
            for path, module in self.model.named_modules():
                name = f"{path or 'the model'} ({type(module).__name__})"
                self.paths[name] = path
                before = module.register_forward_pre_hook(
                    partial(note_entry, name), with_kwargs=True
                )
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(partial(note_exit, name)).remove)
            yield


def _move_beside(result: Any, targets: tuple[Any, ...]) -> list[Any]:
    """Move the targets to the device of the result."""
    _, first = next(walk_tensors(result), ("", None))
    moved: list[Any] = move_tensors(list(targets), None if first is None else first.device)
    return moved
