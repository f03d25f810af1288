"""Write torch's layers in plain steps where vmap cannot use torch's own kernel.

RNN, GRU and LSTM are one kernel each, which takes no run dimension; Embedding ignores its padding
in all runs but the first. The formulas and the names of the weights are those of torch.nn.
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
    """Compute a torch.nn.RNN, GRU or LSTM, with its own weights, as a Python loop over time.

    Layers with proj_size or dropout are refused earlier, by `stack`.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.options: Any = {}
        for name in ("num_layers", "hidden_size", "bias", "batch_first", "bidirectional"):
            self.options[name] = getattr(layer, name)
        self.cell, self.states = _CELLS[layer.mode]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, start: Any = None) -> tuple[Tensor, Any]:
        """Return the outputs of all times and the last states, as torch.nn does."""
        batch_first = self.options["batch_first"]
        x = x.transpose(0, 1) if batch_first else x  # (time, batch, features)
        directions = ["", "_reverse"][: 1 + self.options["bidirectional"]]
        ends: list[State] = []
        for number in range(self.options["num_layers"]):
            outputs = []
            for direction in directions:
                state = self._choose_start(x, start, len(ends))
                # The reverse direction reads time backwards, and its outputs are turned back.
                turned = x.flip(0) if direction else x
                output, end = self._scan_times(turned, state, f"_l{number}{direction}")
                outputs.append(output.flip(0) if direction else output)
                ends.append(end)
            x = torch.cat(outputs, -1)
        # The last state of every layer and direction: (layers * directions, batch, hidden) each.
        last = tuple(map(torch.stack, zip(*ends, strict=True)))
        return (x.transpose(0, 1) if batch_first else x), (last if self.states > 1 else last[0])

    def _choose_start(self, x: Tensor, start: Any, index: int) -> State:
        """Return the first state of one layer and direction; zeros if none is given."""
        if start is None:
            return (x.new_zeros(x.shape[1], self.options["hidden_size"]),) * self.states
        given = start if self.states > 1 else (start,)
        return tuple([states[index] for states in given])

    def _scan_times(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        """Run one layer in one direction over all times."""
        weights: Any = self._parameters
        bias, of_state = weights.get(f"bias_ih{suffix}"), weights.get(f"bias_hh{suffix}")
        into, across = weights[f"weight_ih{suffix}"], weights[f"weight_hh{suffix}"]
        inputs = F.linear(x, into, bias)  # of all times in one product; only the state needs a loop
        outputs = []
        for now in inputs:
            state = self.cell(now, state, across, of_state)
            outputs.append(state[0])
        return torch.stack(outputs), state


def _make_rnn_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    def step_rnn(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        # h = activation(W x + b + U h + c), where inputs is W x + b
        return (activation(inputs + F.linear(state[0], weight, bias)),)

    return step_rnn


def _step_gru(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    # torch keeps the three parts of the weights one above the other, in this order.
    reset, update, new = inputs.chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, weight, bias).chunk(3, -1)
    keep = torch.sigmoid(update + update_h)
    # torch resets the product of the state, bias included; the paper resets the state before it.
    new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    return (new + keep * (h - new),)


def _step_lstm(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    # torch keeps the four gates one above the other: input, forget, candidate, output.
    write, forget, new, output = (inputs + F.linear(h, weight, bias)).chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(output) * torch.tanh(c), c


class PlainCell(nn.Module):
    """Compute a torch.nn.RNNCell, GRUCell or LSTMCell with its own weights."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        name = f"RNN_{cell.nonlinearity.upper()}" if isinstance(cell, nn.RNNCell) else ""
        self.cell, self.states = _CELLS[name or type(cell).__name__.removesuffix("Cell")]
        self.hidden_size = cell.hidden_size
        for name, parameter in cell.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """Return the next state."""
        weights: Any = self._parameters
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size),) * self.states
        # A cell without bias has no entries for them.
        inputs = F.linear(x, weights["weight_ih"], weights.get("bias_ih"))
        state = state if isinstance(state, tuple) else (state,)
        new = self.cell(inputs, state, weights["weight_hh"], weights.get("bias_hh"))
        return new if self.states > 1 else new[0]


class PlainEmbedding(nn.Module):
    """Compute a torch.nn.Embedding; under vmap torch's own masks padding in the first run only."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.padding = layer.weight, layer.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the row of each token; the row of the padding gets no gradient."""
        rows = F.embedding(tokens, self.weight)
        if self.padding is None:
            return rows
        # The row of the padding is read but gets no gradient.
        return torch.where((tokens == self.padding)[..., None], rows.detach(), rows)


# By torch's name of the mode: one step of the cell, and how many tensors its state has.
_CELLS: dict[str, tuple[Cell, int]] = {
    "RNN_TANH": (_make_rnn_cell(torch.tanh), 1),
    "RNN_RELU": (_make_rnn_cell(torch.relu), 1),
    "GRU": (_step_gru, 1),
    "LSTM": (_step_lstm, 2),
}

PLAIN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Embedding: PlainEmbedding,
    nn.RNN: PlainRecurrent,
    nn.GRU: PlainRecurrent,
    nn.LSTM: PlainRecurrent,
    nn.RNNCell: PlainCell,
    nn.GRUCell: PlainCell,
    nn.LSTMCell: PlainCell,
}
