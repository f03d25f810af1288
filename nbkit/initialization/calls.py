"""The records of one watched pass: calls of layers, ends of residual branches, zero parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class CallNumbers:
    """Hold the numbers of one call, from the end of the passes on; None if not measured.

    Attributes:
        output_rms: root mean square of the output.
        gradient_rms: the same of the loss's gradient with respect to the output.
        input_rms: the same of the first input.
        output_varying: share of the output's RMS that differs between samples.
        input_varying: the same of the first input that has more than one sample.
        dead: share of units whose ReLU gives zero for all samples and positions.
        saturated: share of outputs at a limit of their activation.
        duplicates: number of units that copy another one.
    """

    output_rms: float = math.nan  # measured for every call
    gradient_rms: float | None = None
    input_rms: float | None = None
    output_varying: float | None = None
    input_varying: float | None = None
    dead: float | None = None
    saturated: float | None = None
    duplicates: float | None = None


@dataclass
class Call:
    """Record one call of one layer with weights.

    Attributes:
        name: for display, with the number of the call from the second one on.
        path: the layer's path for `get_submodule`.
        order: when it was called, counted in calls of any module.
        stretch: number of normalisations before it.
        size: number of elements of its output.
        expects_gradient: the output requires a gradient.
    """

    name: str
    path: str
    module: nn.Module
    order: int
    stretch: int
    size: int
    expects_gradient: bool
    numbers: CallNumbers = field(default_factory=CallNumbers)


@dataclass
class Merge:
    """Record where a residual branch may end: a sum of two activations, or a container's output.

    Attributes:
        order: of the last call before it.
        size: number of elements.
        past_input: one of the terms needs no gradient, as the model's input does not.
        gradient_rms: root mean square of the gradient at it.
    """

    order: int
    size: int
    past_input: bool
    gradient_rms: float = 0.0

    @property
    def gradient_norm(self) -> float:
        """Return the norm of the gradient at it; 0 if there is none, or no finite one."""
        # The norm is the root mean square times the root of the number of elements.
        norm = self.gradient_rms * math.sqrt(self.size)
        return norm if math.isfinite(norm) else 0.0


@dataclass
class Gate:
    """Record a parameter that may start at zero on purpose.

    Attributes:
        order: of the last call of the module that owns it.
        is_zero: 1 if all of it is zero.
        moves: 1 if its gradient is not zero; without a loss it counts as moving.
    """

    name: str
    order: int
    is_zero: float = 0.0
    moves: float = 1.0


@dataclass
class Totals:
    """Hold the numbers of the whole pass; None if not measured.

    Attributes:
        input_rms: root mean square of the model's first input.
        loss: the mean loss.
        uniform_loss: the loss of equal probabilities.
        frequency_loss: the loss of the classes' frequencies.
    """

    input_rms: float | None = None
    loss: float | None = None
    uniform_loss: float | None = None
    frequency_loss: float | None = None


class PendingNumbers:
    """Keep numbers on the device while the passes run, and read all of them in one transfer.

    A number belongs to an attribute of a record, which is set when it is read.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[int, str], tuple[object, Tensor]] = {}

    def note(self, record: object, attribute: str, number: Tensor) -> None:
        """Keep a number; a later one for the same attribute replaces it."""
        self._tensors[id(record), attribute] = (record, number)

    def note_first(self, record: object, attribute: str, number: Tensor) -> Tensor:
        """Keep a number unless there is one already; return the one that is kept."""
        return self._tensors.setdefault((id(record), attribute), (record, number))[1]

    def has_number(self, record: object, attribute: str) -> bool:
        """Check whether a number is kept for this attribute."""
        return (id(record), attribute) in self._tensors

    def read_all(self) -> None:
        """Set the attributes of all records; this synchronises once."""
        if not self._tensors:
            return
        # One device for all, since a model may be spread over several.
        device = next(iter(self._tensors.values()))[1].device
        tensors = [tensor.to(device, torch.float32) for _, tensor in self._tensors.values()]
        numbers = torch.stack(tensors).tolist()
        for (key, (record, _)), number in zip(self._tensors.items(), numbers, strict=True):
            setattr(record, key[1], number)
        self._tensors.clear()
