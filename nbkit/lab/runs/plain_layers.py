"""Layers of torch written in plain steps, where vmap does not get torch's own kernel right.

RNN, GRU and LSTM are one kernel each, which has no run dimension; Embedding mistakes its padding.
The formulas and the names of the weights are those of torch.nn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]


class PlainRecurrent(nn.Module):
    """A torch.nn.RNN, GRU or LSTM with that layer's own weights, as a Python loop over time.

    A layer with proj_size or dropout is refused before it comes here.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.options: Any = {
            name: getattr(layer, name)
            for name in ("num_layers", "hidden_size", "bias", "batch_first", "bidirectional")
        }
        self.cell, self.states = _CELLS[layer.mode]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, start: Any = None) -> tuple[Tensor, Any]:
        """The outputs of all times, and the last states, as torch.nn gives them."""
        batch_first = self.options["batch_first"]
        x = x.transpose(0, 1) if batch_first else x
        directions = ["", "_reverse"][: 1 + self.options["bidirectional"]]
        ends: list[State] = []
        for number in range(self.options["num_layers"]):
            outputs = []
            for direction in directions:
                state = self._start(x, start, len(ends))
                turned = x.flip(0) if direction else x
                output, end = self._scan(turned, state, f"_l{number}{direction}")
                outputs.append(output.flip(0) if direction else output)
                ends.append(end)
            x = torch.cat(outputs, -1)
        last = tuple(torch.stack(states) for states in zip(*ends, strict=True))
        return (x.transpose(0, 1) if batch_first else x), (last if self.states > 1 else last[0])

    def _start(self, x: Tensor, start: Any, index: int) -> State:
        if start is None:
            return (x.new_zeros(x.shape[1], self.options["hidden_size"]),) * self.states
        return tuple(states[index] for states in (start if self.states > 1 else (start,)))

    def _scan(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        weights: Any = self._parameters
        bias, of_state = (weights.get(f"bias_{side}{suffix}") for side in ("ih", "hh"))
        into, across = weights[f"weight_ih{suffix}"], weights[f"weight_hh{suffix}"]
        inputs = F.linear(x, into, bias)
        outputs = []
        for now in inputs:
            state = self.cell(now, state, across, of_state)
            outputs.append(state[0])
        return torch.stack(outputs), state


def _rnn(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        return (activation(inputs + F.linear(state[0], weight, bias)),)

    return cell


def _gru(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    reset, update, new = inputs.chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, weight, bias).chunk(3, -1)
    keep = torch.sigmoid(update + update_h)
    new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    return (new + keep * (h - new),)


def _lstm(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    write, forget, new, output = (inputs + F.linear(h, weight, bias)).chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(output) * torch.tanh(c), c


class PlainCell(nn.Module):
    """A torch.nn.RNNCell, GRUCell or LSTMCell with that cell's own weights."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        name = f"RNN_{cell.nonlinearity.upper()}" if isinstance(cell, nn.RNNCell) else ""
        self.cell, self.states = _CELLS[name or type(cell).__name__.removesuffix("Cell")]
        self.hidden_size = cell.hidden_size
        for name, parameter in cell.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """The next state."""
        weights: Any = self._parameters
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size),) * self.states
        inputs = F.linear(x, weights["weight_ih"], weights.get("bias_ih"))
        state = state if isinstance(state, tuple) else (state,)
        new = self.cell(inputs, state, weights["weight_hh"], weights.get("bias_hh"))
        return new if self.states > 1 else new[0]


class PlainEmbedding(nn.Module):
    """A torch.nn.Embedding with padding: under vmap torch's own masks it in the first run only."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.padding = layer.weight, layer.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        """The row of each token; the padding's gets no gradient."""
        rows = F.embedding(tokens, self.weight)
        if self.padding is None:
            return rows
        return torch.where((tokens == self.padding)[..., None], rows.detach(), rows)


_CELLS: dict[str, tuple[Cell, int]] = {
    "RNN_TANH": (_rnn(torch.tanh), 1),
    "RNN_RELU": (_rnn(torch.relu), 1),
    "GRU": (_gru, 1),
    "LSTM": (_lstm, 2),
}

PLAIN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Embedding: PlainEmbedding,
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), PlainRecurrent),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), PlainCell),
}
