"""Judge the numbers of a first step: a code for each layer, and the cure."""

from __future__ import annotations

import math

from torch import nn

from nbkit.base.report import Word
from nbkit.initialization.probe import Call, Probe

# A signal that shrinks or grows by more than this between two layers is in trouble. The limit of
# the gradient is wider: pooling spreads it thin, and no harm is done.
_FORWARD, _BACKWARD = 10.0, 100.0
_DEAD = 0.4  # units; 20 ReLU layers of Kaiming weights have half of it
_ENOUGH = 8  # samples: a unit may well be zero for a few of them
_SATURATED = 0.3  # outputs
_LOSS = 1.5  # Kaiming's weights in the last layer give 1.3 of the loss of equal probabilities
_SAME = 0.02  # of an output that differs between samples
_MOSTLY = 0.5  # of an output: less than this differs between samples, the rest is the bias


class InitVerdict(Word):
    """The gravest thing that there is to say of a layer at its first step."""

    OK = "ok"
    NOT_FINITE = "not finite"
    NO_OUTPUT = "no output"
    SYMMETRIC = "symmetric"
    DEAD = "dead"
    SATURATED = "saturated"
    SIGNAL_VANISHING = "signal vanishing"
    SIGNAL_EXPLODING = "signal exploding"
    CONSTANT = "constant"
    GRADIENT_NOT_FINITE = "gradient not finite"
    GRADIENT_VANISHING = "gradient vanishing"
    GRADIENT_EXPLODING = "gradient exploding"
    NO_GRADIENT = "no gradient"
    UNUSED = "unused"


class LossVerdict(Word):
    """What there is to say of the loss before the first step."""

    OK = "ok"
    NOT_FINITE = "not finite"
    TOO_HIGH = "too high"
    TOO_LOW = "too low"


Found = tuple[InitVerdict, str]

RESIDUAL = "Add residual connections: a normalisation alone does not keep the size of the gradient."
_WEIGHTS = "weights (kaiming_normal for ReLU, xavier_uniform for tanh) or a normalisation."
SMALLER, LARGER = f"Use smaller {_WEIGHTS}", f"Use larger {_WEIGHTS}"


class Judge:
    """Looks at each call of a layer in the light of all the others."""

    def __init__(self, probe: Probe) -> None:
        self.calls, self.gates, self.samples = probe.calls, probe.gates, probe.samples
        self.merges = probe.merges
        self.input_rms = probe.totals.get("input")
        self.mixing = [i for i, seen in enumerate(self.calls) if not _is_embedding(seen)]
        self.last = self.mixing[-1] if self.mixing else -1

    def verdict(self, i: int) -> Found:
        """Return the gravest thing there is to say, and the advice."""
        checks = [self.finite, self.silent, self.copies, self.dead, self.saturated]
        if i in self.mixing:
            checks += [self.forward, self.same]
        for check in [*checks, self.backward]:
            found = check(i)
            if found is not None:
                return found
        return InitVerdict.OK, ""

    def finite(self, i: int) -> Found | None:
        """Is everything a number?"""
        if not math.isfinite(self.calls[i].values["forward"]):
            first = next(c for c in self.calls if not math.isfinite(c.values["forward"]))
            where = f"{first.name} before it is not finite already."
            if first is self.calls[i]:
                where = "It is the first: look for NaN or inf in its weights and its input."
            return InitVerdict.NOT_FINITE, where
        if not math.isfinite(self.calls[i].get("backward") or 0.0):
            return InitVerdict.GRADIENT_NOT_FINITE, "The loss or a layer after it overflows."
        return None

    def silent(self, i: int) -> Found | None:
        """Is the output zero, and if so on purpose?"""
        seen = self.calls[i]
        if seen.values["forward"] != 0:
            return None
        if any(gate.name.startswith(f"{seen.path}." if seen.path else "") for gate in self.gates):
            return InitVerdict.OK, "It starts at zero, and moves at the first step."
        return InitVerdict.NO_OUTPUT, (
            f"It gives zeros and will go on so: its weights or all that reaches it are zero"
            f"{self._because(i)}. Draw the weights at random (kaiming_normal)."
        )

    def copies(self, i: int) -> Found | None:
        """Are there units that can never differ?

        A target drives those of a last layer apart, once it holds the classes of both.
        """
        copies = self.calls[i].get("duplicates")
        starts_at_zero = any(g.name == f"{self.calls[i].path}.weight" for g in self.gates)
        if not copies or starts_at_zero or i == self.last:
            return None
        return InitVerdict.SYMMETRIC, (
            f"{copies:.0f} units are copies of others and stay so, with the same weights and "
            f"gradients. Draw the weights at random."
        )

    def dead(self, i: int) -> Found | None:
        """Do units never pass anything on?"""
        share = self.calls[i].get("dead") or 0.0
        if share < _DEAD or self.samples < _ENOUGH:
            return None
        return InitVerdict.DEAD, (
            f"{share:.0%} of its units are zero for all {self.samples} samples. Start biases at "
            f"zero and weights by kaiming_normal, or use a leaky ReLU."
        )

    def saturated(self, i: int) -> Found | None:
        """Are outputs stuck at a limit?

        A last layer may be there by its bias: it starts at the probability of a rare class.
        """
        share = self.calls[i].get("saturated") or 0.0
        varying = self.calls[i].get("varying")
        by_bias = varying is not None and varying < _MOSTLY and i == self.last
        if share < _SATURATED or by_bias:
            return None
        return InitVerdict.SATURATED, (
            f"{share:.0%} of its outputs are at a limit, where no gradient passes. {SMALLER}"
        )

    def forward(self, i: int) -> Found | None:
        """Does the signal vanish or explode, with no normalisation after it to set it right?

        Only if what arrives at the layers after it shows the same: the end of a residual branch
        may be small. The last layer is the loss's to judge.
        """
        if i == self.last or self.calls[i].stretch != self.calls[self.last].stretch:
            return None
        stretch = [j for j in self.mixing[:-1] if self.calls[j].stretch == self.calls[i].stretch]
        stretch = [j for j in stretch if self._size(j)]
        first, name = self._size(stretch[0]), self.calls[stretch[0]].name
        if i == stretch[0] == self.mixing[0] and self.input_rms:
            first, name = self.input_rms, "the input"
        arriving = [self.calls[j].get("arriving") for j in self.mixing if j > i]
        known = [size for size in arriving if size is not None and math.isfinite(size)]
        later = [size / first for size in (self._size(i), *known)]
        rate = _rate(later[0], f"since {name}", stretch.index(i) or 1)
        if max(later) < 1 / _FORWARD:
            return InitVerdict.SIGNAL_VANISHING, f"{rate} {LARGER}"
        if min(later) > _FORWARD:
            return InitVerdict.SIGNAL_EXPLODING, f"{rate} {SMALLER}"
        return None

    def same(self, i: int) -> Found | None:
        """Is the output nearly the same for every sample, here and ever after?

        Only if what arrives at the layers after it, or at the last layer itself, is so as well: a
        head may start at a constant by its bias, such as the log of the classes' frequencies or
        the mean of the target.
        """
        own = self.calls[i].get("varying")
        after = [self.calls[j] for j in self.mixing if j > i] or [self.calls[i]]
        shares = [own, *(c.get("varying") for c in after), *(c.get("coming") for c in after)]
        known = [share for share in shares if share is not None]
        if own is None or max(known) >= _SAME:
            return None
        return InitVerdict.CONSTANT, (
            f"Only {own:.1%} of its output differs from sample to sample{self._because(i)}. Start "
            f"biases at zero. {LARGER}"
        )

    def backward(self, i: int) -> Found | None:
        """Does the gradient arrive, neither vanished nor exploded?

        Only if it has not come back where the layer's inputs come from: the queries and keys of
        attention get little at first, and so does a residual branch behind a small factor.
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
        last = hidden[-1]
        earlier = [pulls[j] for j in sorted(pulls, reverse=True) if j <= i and pulls[j]]
        earlier += [m.pull for m in self.merges if m.order < seen.order and m.pull]
        ends = [pulls[last], *self._pulls_at_the_end(last)]
        steps = len(hidden) - 1 - hidden.index(i)
        rate = _rate(earlier[0] / pulls[last], f"from {self.calls[last].name} to here", steps)
        normalised = self.calls[-1].stretch > 0
        if max(earlier) < min(ends) / _BACKWARD and not self._in_first_branch(seen):
            return InitVerdict.GRADIENT_VANISHING, f"{rate} {RESIDUAL if normalised else LARGER}"
        if min(earlier) > max(ends) * _BACKWARD:
            return InitVerdict.GRADIENT_EXPLODING, f"{rate} {RESIDUAL if normalised else SMALLER}"
        return None

    def _pulls_at_the_end(self, last: int) -> list[float]:
        """Return the gradient where the last branch ends, if the last hidden layer is in it.

        That layer then ends a branch, and a small factor behind it (LayerScale, ReZero, the weight
        of a BatchNorm) makes its gradient small, while all of it reaches the layers before.
        """
        head = self.calls[self.last].order
        ends = [m for m in self.merges if self.calls[last].order <= m.order < head and m.pull]
        return [ends[-1].pull] if ends else []

    def _in_first_branch(self, seen: Call) -> bool:
        """Whether the model's own input goes past this layer, and needs no gradient for it."""
        return any(m.past_input and m.order >= seen.order for m in self.merges)

    def _unreached(self, seen: Call) -> Found | None:
        if not seen.expects_gradient:
            return None  # all before it is frozen
        return InitVerdict.UNUSED, "The loss does not depend on it: is it detached, or not used?"

    def _blocked(self, i: int) -> Found:
        gate = next((g for g in self.gates if g.order >= self.calls[i].order), None)
        if gate is not None:
            why = f"It waits one step for {gate.name}, which starts at zero and moves."
            return InitVerdict.OK, why
        because = self._because(i)
        return InitVerdict.NO_GRADIENT, f"Something after it passes none on{because}."

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


def judge_loss(
    loss: float | None, expected: float | None, frequent: float | None
) -> tuple[LossVerdict, str]:
    """Is the first loss that of a model that knows nothing?

    Args:
        expected: the loss of equal probabilities.
        frequent: the loss of the classes' frequencies, by which a head's bias may start.
    """
    if loss is None:
        return LossVerdict.OK, "Not measured: there is no loss_fn."
    if not math.isfinite(loss):
        return LossVerdict.NOT_FINITE, "Look for NaN or inf in the batch, the weights and the loss."
    if expected is None:
        return LossVerdict.OK, "There is nothing to compare it with."
    if loss > _LOSS * expected:
        return LossVerdict.TOO_HIGH, (
            f"It is {loss / expected:.2g} times that of equal probabilities: the model is sure of "
            f"itself before it has learned anything. Scale the last layer down, or start it at "
            f"zero."
        )
    known = [size for size in (expected, frequent) if size is not None and math.isfinite(size)]
    if loss < 0.9 * min(known, default=0.0):
        return LossVerdict.TOO_LOW, (
            "It is below that of equal probabilities, and of the classes' frequencies. Is the "
            "model trained, or does the input hold the target?"
        )
    return LossVerdict.OK, ""


def _rate(factor: float, where: str, steps: int) -> str:
    return f"x{factor:.2g} {where}, x{factor ** (1 / steps):.2f} a layer."


def _is_embedding(seen: Call) -> bool:
    return isinstance(seen.module, (nn.Embedding, nn.EmbeddingBag))
