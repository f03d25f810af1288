"""The parameters and gradients at hand: each one once, and by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

Parameters = nn.Module | Optimizer | Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]

LISTED = 10  # rows of a table, names in a message


def named_parameters(source: Parameters) -> dict[str, Tensor]:
    """Each parameter once, by name: of a model, an optimizer, or whatever yields parameters."""
    if isinstance(source, nn.Module):
        return dict(source.named_parameters())
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in _pairs(source):
        if not isinstance(name, str) or not isinstance(parameter, Tensor):
            raise TypeError(
                f"expected a model, an optimizer, parameters or (name, parameter) pairs; "
                f"got an item of type {type(parameter).__name__}: {parameter!r:.60}."
            )
        if id(parameter) in seen:
            continue  # tied
        if name in named:
            raise ValueError(
                f"two different parameters are both called {name!r}. Tell them apart, for example "
                f"by generator.named_parameters(prefix='generator')."
            )
        seen.add(id(parameter))
        named[name] = parameter
    if not named:
        raise ValueError(
            "no parameters came. A generator can be read only once: pass the model, or "
            "list(model.parameters())."
        )
    return named


def _pairs(source) -> Iterable[tuple[str, Tensor]]:
    if isinstance(source, Optimizer):
        for g, group in enumerate(source.param_groups):
            unnamed = [f"group{g}.{i}" for i in range(len(group["params"]))]
            yield from zip(group.get("param_names", unnamed), group["params"], strict=True)
        return
    for i, item in enumerate([source] if isinstance(source, Tensor) else source):
        yield item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)


def sum_repeated_rows(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients there are; in place of a sparse one where rows may repeat, their sum."""
    grads = {name: p.grad for name, p in named.items() if p.grad is not None}
    for name, grad in grads.items():
        if grad.is_sparse:
            grads[name] = grad.coalesce()
    return grads


def view_values(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a gradient holds: itself, or the values of a sparse one, as a view."""
    return {name: grad._values() if grad.is_sparse else grad for name, grad in grads.items()}


def read_gradients(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients there are, to read; of a sparse one its values, repeated rows summed."""
    return view_values(sum_repeated_rows(named))


def join_names(names: Sequence[str]) -> str:
    """The names, as many as one reads."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
