"""List parameters and their gradients, each one once, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Parameters = nn.Module | Optimizer | Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]

LISTED = 10  # rows of a table, names in a message


def named_parameters(source: Parameters) -> dict[str, Tensor]:
    """List each parameter once, by name.

    Args:
        source: a model, an optimizer, a tensor, or an iterable of parameters or of pairs (name,
            parameter).
    Raises:
        TypeError: for an item that is neither.
        ValueError: if there are no parameters, or two of one name.
    """
    if isinstance(source, nn.Module):
        return dict(source.named_parameters())
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in _list_pairs(source):
        if not isinstance(name, str) or not isinstance(parameter, Tensor):
            raise TypeError(
                f"expected a model, an optimizer, parameters or (name, parameter) pairs; "
                f"got an item of type {type(parameter).__name__}: {parameter!r:.60}."
            )
        if id(parameter) in seen:
            continue  # tied weights: one tensor under two names
        # Two models in one list: the reports could not tell their parameters apart.
        if name in named:
            raise ValueError(
                f"two different parameters are both called {name!r}. Tell them apart, for example "
                f"by generator.named_parameters(prefix='generator')."
            )
        seen.add(id(parameter))
        named[name] = parameter
    if not named:
        raise ValueError(
            "got no parameters. A generator can be read only once: pass the model, or "
            "list(model.parameters())."
        )
    return named


def _list_pairs(source: Parameters) -> Iterable[tuple[str, Tensor]]:
    if isinstance(source, Optimizer):
        for g, group in enumerate(source.param_groups):
            # torch keeps names only where the optimizer was given named_parameters().
            names = group.get("param_names")
            for i, parameter in enumerate(group["params"]):
                yield names[i] if names else f"group{g}.{i}", parameter
        return
    items: Iterable[Any] = [source] if isinstance(source, Tensor | nn.Module) else source
    for i, item in enumerate(items):
        yield item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)


def sum_repeated_rows(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients there are; in a sparse one, repeated rows are summed."""
    grads = {}
    for name, parameter in named.items():
        if parameter.grad is not None:
            grad = parameter.grad
            # An embedding's gradient has a row for each use of an index.
            grads[name] = grad.coalesce() if grad.is_sparse else grad
    return grads


def view_values(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the numbers of each gradient: of a sparse one its values, as a view."""
    values = {}
    for name, grad in grads.items():
        values[name] = grad._values() if grad.is_sparse else grad
    return values


def read_gradients(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the numbers of the gradients there are; in a sparse one, repeated rows are summed."""
    return view_values(sum_repeated_rows(named))


def join_names(names: Sequence[str]) -> str:
    """Join names for a message: the first ten, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
