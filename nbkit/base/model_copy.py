"""Copy a model, also one that keeps tensors of its forward pass."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

_lock = threading.RLock()


def copy_model(model: Model) -> Model:
    """Copy a model deeply; a tensor that it keeps of a computation is copied as a plain value.

    `copy.deepcopy` refuses such a tensor: an auxiliary loss or an attention map that the forward
    pass stores as an attribute, the weight that the old `weight_norm` and `spectral_norm` compute.
    The next forward pass of the copy replaces it.

    Args:
        model: any module.
    Returns:
        A copy that shares no tensor with the model.
    Raises:
        TypeError: if the model holds something else that cannot be copied; the message names it.

    >>> layer = nn.Linear(2, 1)
    >>> layer.kept = layer.weight * 2
    >>> copy_model(layer).kept.requires_grad
    False
    """
    try:
        with _copying_results():
            return copy.deepcopy(model)
    except Exception as error:
        raise TypeError(
            f"expected a model that copy.deepcopy can copy, but {type(model).__name__} holds "
            f"something that it cannot: {error}. Make locks, files, generators and the like when "
            f"they are used, or give the model a __deepcopy__."
        ) from error


@contextmanager
def _copying_results() -> Iterator[None]:
    """Let `copy.deepcopy` copy tensors that are not leaves."""
    # torch's method refuses a tensor that is the result of a computation.
    usual = Tensor.__deepcopy__

    def copy_tensor(tensor: Tensor, memo: dict[int, Any]) -> Any:
        if tensor.is_leaf:
            return usual(tensor, memo)  # type: ignore[no-untyped-call]  # torch's own
        if id(tensor) not in memo:
            # A tensor that is held twice is copied once.
            memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]

    # The patch is global, so two threads take turns.
    with _lock:
        Tensor.__deepcopy__ = copy_tensor  # type: ignore[method-assign]
        try:
            yield
        finally:
            Tensor.__deepcopy__ = usual  # type: ignore[method-assign]
