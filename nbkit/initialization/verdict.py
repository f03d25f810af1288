"""What the numbers of a first step mean, in words and with the cure."""

from __future__ import annotations

import math

from torch import nn

from nbkit.initialization.probe import Call, Probe

# A signal that shrinks or grows by more than this between two layers is in trouble. The limit of
# the gradient is wider: pooling spreads it thin, and no harm is done.
_FORWARD, _BACKWARD = 10.0, 100.0
_DEAD = 0.4  # units; 20 ReLU layers of Kaiming weights have half of it
_ENOUGH = 8  # samples: a unit may well be zero for a few of them
_SATURATED = 0.3  # outputs
_LOSS = 1.5  # Kaiming's weights in the last layer give 1.3 of the loss of equal probabilities
_SAME = 0.02  # of an output that differs between samples

RESIDUAL = "residual connections: a normalisation alone does not keep the gradient in size"
SMALLER = "smaller weights (kaiming_normal for ReLU, xavier_uniform for tanh) or a normalisation"
LARGER = "larger weights (kaiming_normal for ReLU, xavier_uniform for tanh) or a normalisation"


class Judge:
    """Looks at each call of a layer in the light of all the others."""

    def __init__(self, probe: Probe) -> None:
        self.calls, self.gates, self.samples = probe.calls, probe.gates, probe.samples
        self.input_rms = probe.totals.get("input")
        self.mixing = [i for i, seen in enumerate(self.calls) if not _is_embedding(seen)]

    def verdict(self, i: int) -> str:
        """The gravest thing there is to say, "ok" if there is none."""
        checks = [self.finite, self.silent, self.copies, self.dead, self.saturated]
        if i in self.mixing:
            checks += [self.forward, self.same]
        return next((said for check in [*checks, self.backward] if (said := check(i))), "ok")

    def finite(self, i: int) -> str | None:
        """Is everything a number?"""
        if not math.isfinite(self.calls[i].values["forward"]):
            first = next(c for c in self.calls if not math.isfinite(c.values["forward"]))
            if first is self.calls[i]:
                return "not finite from here on: look for NaN or inf in its weights and its input"
            return f"not finite, as {first.name} before it"
        if not math.isfinite(self.calls[i].get("backward") or 0.0):
            return "its gradient is not finite: the loss or a layer after it overflows"
        return None

    def silent(self, i: int) -> str | None:
        """Is the output zero, and if so on purpose?"""
        seen = self.calls[i]
        if seen.values["forward"] != 0:
            return None
        if any(gate.name.startswith(f"{seen.path}." if seen.path else "") for gate in self.gates):
            return "ok: starts at zero, and moves at the first step"
        return (
            f"no output, and none to come: its weights or all that reaches it are zero"
            f"{self._because(i)}; draw the weights at random (kaiming_normal)"
        )

    def copies(self, i: int) -> str | None:
        """Are there units that can never differ?"""
        copies = self.calls[i].get("duplicates")
        if not copies:
            return None
        return (
            f"symmetric: {copies:.0f} units are copies of others and stay so, with the same "
            f"weights and gradients; draw the weights at random"
        )

    def dead(self, i: int) -> str | None:
        """Do units never pass anything on?"""
        share = self.calls[i].get("dead") or 0.0
        if share < _DEAD or self.samples < _ENOUGH:
            return None
        return (
            f"{share:.0%} of its units are dead: zero for all {self.samples} samples; start biases "
            f"at zero and weights by kaiming_normal, or use a leaky ReLU"
        )

    def saturated(self, i: int) -> str | None:
        """Are outputs stuck at a limit?"""
        share = self.calls[i].get("saturated") or 0.0
        if share < _SATURATED:
            return None
        return f"{share:.0%} of its outputs are saturated, where no gradient passes; {SMALLER}"

    def forward(self, i: int) -> str | None:
        """Does the signal vanish or explode, with no normalisation after it to set it right?

        Only if what arrives at the layers after it shows the same: the end of a residual branch
        may be small. The last layer is the loss's to judge.
        """
        last = self.mixing[-1]
        if i == last or self.calls[i].stretch != self.calls[last].stretch:
            return None
        stretch = [j for j in self.mixing[:-1] if self.calls[j].stretch == self.calls[i].stretch]
        stretch = [j for j in stretch if self._size(j)]
        first, name = self._size(stretch[0]), self.calls[stretch[0]].name
        if i == stretch[0] == self.mixing[0] and self.input_rms:
            first, name = self.input_rms, "the input"
        arriving = [self.calls[j].get("arriving") for j in self.mixing if j > i]
        known = [size for size in arriving if size is not None and math.isfinite(size)]
        later = [size / first for size in (self._size(i), *known)]
        return self._drift("signal", later, f"since {name}", stretch.index(i) or 1, _FORWARD)

    def _drift(
        self, what: str, factors: list[float], where: str, steps: int, limit: float
    ) -> str | None:
        """All factors far below one or far above it; the first one is the layer's own."""
        rate = f"x{factors[0]:.2g} {where}, x{factors[0] ** (1 / steps):.2f} a layer"
        normalised = what == "gradient" and self.calls[-1].stretch > 0
        if max(factors) < 1 / limit:
            return f"{what} vanishes: {rate}; {RESIDUAL if normalised else LARGER}"
        if min(factors) > limit:
            return f"{what} explodes: {rate}; {RESIDUAL if normalised else SMALLER}"
        return None

    def same(self, i: int) -> str | None:
        """Is the output nearly the same for every sample, here and ever after?"""
        shares = [self.calls[j].get("varying") for j in self.mixing if j >= i]
        known = [share for share in shares if share is not None]
        if not known or shares[0] is None or max(known) >= _SAME:
            return None
        return (
            f"says nearly the same for every sample, {shares[0]:.1%} of it differs"
            f"{self._because(i)}; biases at zero, {LARGER}"
        )

    def backward(self, i: int) -> str | None:
        """Does the gradient arrive, neither vanished nor exploded?

        Only if it has not come back where the layer's inputs come from: the queries and keys of
        attention get little at first.
        """
        seen = self.calls[i]
        pulls = {j: pull for j in range(len(self.calls)) if (pull := self._pull(j)) is not None}
        if not pulls:
            return None
        if seen.get("backward") is None:
            return self._unreached(seen)
        if seen.values["backward"] == 0:
            return self._blocked(i)
        hidden = [j for j in self.mixing[:-1] if pulls.get(j)]
        if i not in hidden or i == hidden[-1]:
            return None
        last, name = hidden[-1], self.calls[hidden[-1]].name
        earlier = [
            pulls[j] / pulls[last] for j in sorted(pulls, reverse=True) if j <= i and pulls[j]
        ]
        steps = len(hidden) - 1 - hidden.index(i)
        return self._drift("gradient", earlier, f"from {name} to here", steps, _BACKWARD)

    def _unreached(self, seen: Call) -> str | None:
        if not seen.expects_gradient:
            return None  # all before it is frozen
        return "no gradient: the loss does not depend on it; is it detached, or not used?"

    def _blocked(self, i: int) -> str:
        gate = next((g for g in self.gates if g.order >= self.calls[i].order), None)
        if gate is not None:
            return f"ok: waits one step for {gate.name}, which starts at zero and moves"
        return f"gets no gradient: something after it passes none on{self._because(i)}"

    def _because(self, i: int) -> str:
        """The layer whose units are all dead, if there is one."""
        dead = [
            seen.name for seen in self.calls if seen.get("dead") == 1 and seen.values["forward"]
        ]
        return f" (all units of {dead[0]} are dead)" if dead else ""

    def _size(self, j: int) -> float:
        size = self.calls[j].values["forward"]
        return size if math.isfinite(size) else 0.0

    def _pull(self, j: int) -> float | None:
        """Norm of the gradient at a layer's output; unlike its mean, no stride changes it."""
        pull = self.calls[j].get("backward")
        if pull is None or not math.isfinite(pull):
            return None
        return pull * math.sqrt(self.calls[j].size)


def judge_loss(loss: float | None, expected: float | None) -> str:
    """Is the first loss that of a model that knows nothing?"""
    if loss is None:
        return "ok: not measured, there is no loss_fn"
    if not math.isfinite(loss):
        return "not finite: look for NaN or inf in the batch, the weights and the loss"
    if expected is None:
        return "ok: nothing to compare it with"
    if loss > _LOSS * expected:
        return (
            f"{loss / expected:.2g} times that of equal probabilities: sure of itself before it "
            f"has learned anything; scale the last layer down, or start it at zero"
        )
    if loss < 0.9 * expected:
        return (
            "below that of equal probabilities: is it trained, or does the input hold the target?"
        )
    return "ok"


def _is_embedding(seen: Call) -> bool:
    return isinstance(seen.module, (nn.Embedding, nn.EmbeddingBag))
