"""The numbers of a first step, as the checks look them up."""

from __future__ import annotations

import math

from torch import nn

from nbkit.initialization.calls import Call, Gate
from nbkit.initialization.probe import Probe


class FirstStep:
    """Look up the numbers of one call beside those of the others. `i` and `j` count calls.

    Attributes:
        mixing: the calls of layers that mix their inputs; embeddings do not.
        last: the last of these, -1 if there is none.
    """

    def __init__(self, probe: Probe) -> None:
        self.calls, self.gates, self.merges = probe.calls, probe.gates, probe.merges
        self.samples = probe.samples
        self.input_rms = probe.totals.input_rms
        self.mixing: list[int] = []
        for i, call in enumerate(self.calls):
            # An embedding looks up rows, whose size says nothing about the layers after it.
            if not isinstance(call.module, (nn.Embedding, nn.EmbeddingBag)):
                self.mixing.append(i)
        self.last = self.mixing[-1] if self.mixing else -1

    def read_size(self, j: int) -> float:
        """Return the root mean square of an output; 0 if it is not finite."""
        size = self.calls[j].numbers.output_rms
        return size if math.isfinite(size) else 0.0

    def read_gradient_norm(self, j: int) -> float | None:
        """Return the norm of the gradient at an output; None if there is none, or no finite one.

        Unlike the mean square, the norm does not change with a stride or a pooling.
        """
        rms = self.calls[j].numbers.gradient_rms
        if rms is None or not math.isfinite(rms):
            return None
        return rms * math.sqrt(self.calls[j].size)

    def list_stretch(self, i: int) -> list[int]:
        """List the layers between the same two normalisations as `i` that have an output.

        The last layer is left out.
        """
        found = []
        for j in self.mixing[:-1]:
            if self.calls[j].stretch == self.calls[i].stretch and self.read_size(j):
                found.append(j)
        return found

    def find_first_nonfinite(self) -> Call | None:
        """Return the first call whose output is not finite."""
        for call in self.calls:
            if not math.isfinite(call.numbers.output_rms):
                return call
        return None

    def owns_gate(self, call: Call) -> bool:
        """Check whether a parameter in the layer starts at zero on purpose."""
        # The model itself has no path: then every parameter is in it.
        prefix = f"{call.path}." if call.path else ""
        return any(gate.name.startswith(prefix) for gate in self.gates)

    def find_gate_after(self, call: Call) -> Gate | None:
        """Return the first parameter from this call on that starts at zero and moves."""
        for gate in self.gates:
            if gate.order >= call.order:
                return gate
        return None

    def mention_dead_layer(self) -> str:
        """Return, in parentheses, the first layer whose units are all dead; "" if there is none."""
        for call in self.calls:
            # Where the output itself is zero all units count as dead, for another reason.
            if call.numbers.dead == 1 and call.numbers.output_rms:
                return f" (all units of {call.name} are dead)"
        return ""
