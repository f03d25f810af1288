"""Are two gradients the same but for rounding, and if not, why: what two techniques ask."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nbkit.base.model_call import copy_batch, run_eagerly, unwrap_model
from nbkit.base.report import Report
from nbkit.base.state import preserve_state

Gradients = dict[str, Tensor]

# What makes a gradient depend on how a batch is divided, and the sentence for a report.
SUSPECTS: dict[str, tuple[tuple[type[nn.Module], ...], str]] = {
    "BatchNorm": (
        (_BatchNorm,),
        "each part of the batch is normalised by its own statistics; freeze it, use a norm over "
        "the sample (LayerNorm, GroupNorm), or accept the difference",
    ),
    "dropout": (
        (_DropoutNd, nn.RReLU, nn.MultiheadAttention),
        "the masks are drawn anew for each part; the gradient is another sample of the same, "
        "not a wrong one",
    ),
}
COUPLED = (
    "none of the known causes: neither weights of the parts nor BatchNorm nor dropout explain it, "
    "so the loss or the model couples the samples of a batch (contrastive loss, root or logarithm "
    "of a mean, batch statistics made by hand)"
)
STARVED = (
    "a part gives it one value a channel, which has no variance, so torch refuses to train on it; "
    "take larger parts, freeze it, or use a norm over the sample (LayerNorm, GroupNorm)"
)
NOT_FINITE = "a gradient is not finite, so there is nothing to compare; find_nonfinite says where"


@dataclass
class EquivalenceReport(Report):
    """Two gradients compared.

    Attributes:
        error: largest absolute difference over the largest absolute reference gradient; infinite
            where a part of the batch cannot be computed at all.
        equivalent: whether the difference is within rounding.
        cause: why it is not, with the cure; None if it is.
        tolerance: the error up to which rounding explains it: the square root of the dtype's eps.
        parameters: the error of each parameter, on the same scale.
    """

    error: float
    equivalent: bool
    cause: str | None = None
    tolerance: float = 0.0
    parameters: dict[str, float] = field(default_factory=dict)

    def table(self):
        """The verdict, and the five parameters that differ most."""
        verdict = "equivalent" if self.equivalent else f"NOT equivalent: {self.cause}"
        summary = f"{verdict} (error {self.error:.2g}, rounding explains {self.tolerance:.2g})"
        worst = sorted(self.parameters.items(), key=lambda item: -item[1])
        return summary, ("parameter", "error"), worst[:5]


def gradients(model: nn.Module, loss_fn: Callable, batch: Any, seed: int = 0) -> Gradients:
    """The gradient of `loss_fn(model(x), y)`, from zero and from one random state.

    The batch stays as it is, also where the model works in place.
    """
    return _differentiate(model, loss_fn, batch, seed)[0]


def _differentiate(
    model: nn.Module, loss_fn: Callable, batch: Any, seed: int = 0
) -> tuple[Gradients, float]:
    """The gradient, and the loss that it belongs to."""
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    x, y = read_pair(copy_batch(batch))
    loss = loss_fn(apply_model(model, x), y)
    loss.backward()
    return taken(model), float(loss.detach())


def read_pair(batch: Any) -> tuple[Any, Any]:
    """Split a batch into the model's input and what the loss takes beside the output.

    A mapping, as a Hugging Face loader gives it, is both.
    """
    if isinstance(batch, Mapping):
        return batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TypeError(
        f"batch must be a pair (x, y), or a dict of the model's keywords, got a "
        f"{type(batch).__name__}{size}. Put more inputs into x and more targets into y, as in "
        f"((x1, x2), y), and take them apart in the model and in loss_fn."
    )


def apply_model(model: nn.Module, x: Any) -> Any:
    """Call the model with x; a mapping is passed as keywords if its keys are arguments."""
    if isinstance(x, Mapping) and _misfit(model, (), x) is None:
        return model(**x)
    return model(x)


def check_batch(model: nn.Module, batch: Any) -> None:
    """Refuse a batch that the model cannot be called with, before anything is computed."""
    x, _ = read_pair(batch)
    if not isinstance(x, Mapping) or _misfit(model, (x,), {}) is None:
        return
    misfit = _misfit(model, (), x)
    if misfit is not None:
        raise TypeError(
            f"the batch's keys must be arguments of the model's forward, got "
            f"{', '.join(map(str, x))}: {misfit}. Leave out the keys that it does not take, or "
            f"give a pair (x, y)."
        )


def _misfit(model: nn.Module, args: tuple[Any, ...], keywords: Mapping[Any, Any]) -> str | None:
    """Why the model's forward does not take these arguments; None if it does or is scripted."""
    try:
        signature = inspect.signature(unwrap_model(model).forward)
    except ValueError:  # scripted: it has none
        return None
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        return str(error)
    return None


def taken(model: nn.Module) -> Gradients:
    """A copy of each parameter's gradient; where there is none, zeros."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone().to_dense()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def compare(reference: Gradients, measured: Gradients, term: float = 0.0) -> EquivalenceReport:
    """The error of `measured`. `term`: the largest gradient that was summed up to it.

    Where large terms cancel to a small gradient, their rounding is large beside it.
    """
    scale = _largest(reference)
    off = {name: _largest({"": measured[name] - g}) for name, g in reference.items()}
    worst = max(off.values(), default=0.0, key=_nan_first)
    eps = max((torch.finfo(g.dtype).eps for g in reference.values()), default=0.0)
    errors = {name: value / scale if scale else value for name, value in off.items()}
    return EquivalenceReport(
        error=worst / scale if scale else worst,
        equivalent=worst <= max(eps**0.5 * scale, 100 * eps * term),
        tolerance=eps**0.5,
        parameters=errors,
    )


def suspects(model: nn.Module) -> dict[str, list[str]]:
    """The layers in train mode that let a gradient depend on how the batch is divided."""
    found = {
        kind: [name or "the model" for name, m in model.named_modules() if _active(m, types)]
        for kind, (types, _) in SUSPECTS.items()
    }
    return {kind: names for kind, names in found.items() if names}


@contextmanager
def without(model: nn.Module, kinds: frozenset[str]) -> Iterator[None]:
    """Put the layers of these kinds into eval mode, and back."""
    types = tuple(t for kind in kinds for t in SUSPECTS[kind][0])
    changed = [module for module in model.modules() if _active(module, types)]
    bare = [m for m in changed if isinstance(m, _BatchNorm) and m.running_mean is None]
    try:
        for module in changed:
            module.training = False
        for module in bare:  # it has no statistics but the batch's: lend it some
            zeros = next(model.parameters()).new_zeros(module.num_features)
            module.running_mean, module.running_var = zeros, zeros + 1
        yield
    finally:
        for module in changed:
            module.training = True
        for module in bare:
            module.running_mean = module.running_var = None


def starved_layers(model: nn.Module, part: Any) -> list[str]:
    """Name the BatchNorm layers in train mode that a part of a batch gives one value a channel."""
    starved: list[str] = []
    model = unwrap_model(model)

    def note(name: str, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        x = args[0] if args else keywords["input"]
        if x.dim() > 1 and x.numel() == x.shape[1]:
            starved.append(name or "the model")

    layers = {name: m for name, m in model.named_modules() if _active(m, (_BatchNorm,))}
    if not layers:
        return []
    with ExitStack() as undo:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
            undo.callback(hook.remove)
        undo.enter_context(preserve_state(model))
        undo.enter_context(torch.no_grad())
        undo.enter_context(run_eagerly())
        try:
            apply_model(model, read_pair(copy_batch(part))[0])
        except ValueError:
            if not starved:
                raise
    return starved


def explained(
    present: dict[str, list[str]],
    measure: Callable[[frozenset[str]], EquivalenceReport],
    otherwise: Callable[[frozenset[str]], str],
    starved: Sequence[str] = (),
) -> EquivalenceReport:
    """The comparison and, if it is not rounding, the cause.

    Args:
        present: the suspects in the model.
        measure: compares with these kinds of layers switched off.
        otherwise: the sentence for what remains with all suspects switched off.
        starved: BatchNorm layers that cannot be measured with the others, see `starved_layers`.
    """
    if starved:
        return _explain_rest(present, measure, otherwise, starved)
    report = measure(frozenset())
    if not report.equivalent:
        finite = math.isfinite(report.error)
        report.cause = _cause(present, measure, otherwise) if finite else NOT_FINITE
    return report


def _explain_rest(
    present: dict[str, list[str]],
    measure: Callable[[frozenset[str]], EquivalenceReport],
    otherwise: Callable[[frozenset[str]], str],
    starved: Sequence[str],
) -> EquivalenceReport:
    """BatchNorm is one cause; what others there are shows with it switched off."""
    off = frozenset({"BatchNorm"})
    rest = {kind: names for kind, names in present.items() if kind not in off}
    report = explained(rest, lambda more: measure(off | more), lambda more: otherwise(off | more))
    told = [f"BatchNorm ({', '.join(starved[:3])}): {STARVED}", *filter(None, [report.cause])]
    return EquivalenceReport(math.inf, False, "; ".join(told), report.tolerance)


def _cause(
    present: dict[str, list[str]],
    measure: Callable[[frozenset[str]], EquivalenceReport],
    otherwise: Callable[[frozenset[str]], str],
) -> str:
    """Which of the suspects cause a difference, and what else does if they do not."""
    every = frozenset(present)
    guilty = list(present)
    remaining = []
    if present and measure(every).equivalent:
        guilty = [kind for kind in present if not measure(every - {kind}).equivalent]
    else:
        remaining = [otherwise(every)]
    told = [f"{kind} ({', '.join(present[kind][:3])}): {SUSPECTS[kind][1]}" for kind in guilty]
    return "; ".join(told + remaining)


def reason(
    model: nn.Module,
    loss_fn: Callable,
    batch: Any,
    parts: Sequence[Any],
    wrong_weights: Callable[[list[float]], str],
    off: frozenset[str],
) -> str:
    """What makes the parts' gradients not add up to the batch's, where none of the suspects does.

    Args:
        wrong_weights: the sentence for a loss that other weights of the parts would make right.
        off: the suspects, to be switched off.
    """
    with without(model, off):
        reference = gradients(model, loss_fn, batch)
        if not compare(reference, gradients(model, loss_fn, batch, seed=1)).equivalent:
            return "dropout: the forward draws random numbers outside of dropout layers"
        _, loss = _differentiate(model, loss_fn, batch)
        each = [_differentiate(model, loss_fn, part) for part in parts]
    fitted = fitted_weights(reference, [gradient for gradient, _ in each])
    if fitted is None or not _are_shares(fitted, loss, [part for _, part in each], reference):
        return COUPLED
    return wrong_weights(fitted)


def _are_shares(
    weights: Sequence[float], loss: float, parts: Sequence[float], reference: Gradients
) -> bool:
    """Whether weights are shares of loss terms, as in a mean, or all 1, as in a sum.

    A function of a mean, such as its root or its logarithm, has a gradient that is a weighted sum
    of the parts' too. But shares of terms sum to 1, which those of a root do not, and give the
    loss from the parts' losses, which those of a logarithm do not.
    """
    if all(abs(weight - 1) < 0.01 for weight in weights):
        return True
    rounding = 4 * max(torch.finfo(g.dtype).eps for g in reference.values()) ** 0.5
    terms = [weight * part for weight, part in zip(weights, parts, strict=True)]
    sums_to_one = abs(sum(weights) - 1) <= rounding
    return sums_to_one and abs(sum(terms) - loss) <= rounding * sum(map(abs, terms))


def fitted_weights(reference: Gradients, parts: Sequence[Gradients]) -> list[float] | None:
    """The weights w with sum(w_i parts_i) = reference, if there are any.

    Least squares by its normal equations, in float64, a parameter at a time.
    """
    if len(parts) >= sum(g.numel() for g in reference.values()):
        return None  # with so few numbers some weights always fit
    gram = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    right = torch.zeros(len(parts), 1, dtype=torch.float64)
    for name, target in reference.items():
        columns = torch.stack([part[name].flatten().double().cpu() for part in parts])
        gram += columns @ columns.T
        right += columns @ target.flatten().double().cpu()[:, None]
    if not gram.isfinite().all() or not right.isfinite().all():
        return None
    solution = torch.linalg.lstsq(gram, right, driver="gelsd").solution.flatten().tolist()
    combined = {
        name: sum(w * part[name] for w, part in zip(solution, parts, strict=True))
        for name in reference
    }
    return solution if compare(reference, combined, largest(parts)).equivalent else None


def largest(parts: Sequence[Gradients]) -> float:
    """The largest absolute number in several gradients."""
    return max(map(_largest, parts), default=0.0)


def _largest(gradient: Gradients) -> float:
    sizes = [g.abs().max().item() for g in gradient.values() if g.numel()]
    return max(sizes, default=0.0, key=_nan_first)


def _nan_first(value: float) -> tuple[bool, float]:
    return value != value, value


def _active(module: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Whether the layer is of these types, in train mode and does something there."""
    rate = getattr(module, "p", getattr(module, "dropout", 1.0))
    return isinstance(module, types) and module.training and rate != 0
