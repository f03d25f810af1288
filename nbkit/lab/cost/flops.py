"""How much arithmetic a model does, so that a speed can stand beside what the hardware could do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nbkit.base.model_call import call_model, unwrap_model
from nbkit.base.nested import list_tensors, map_tensors
from nbkit.base.state import preserve_state


def flops(model: nn.Module, batch: Any, *, backward: bool = False) -> int:
    """The floating-point operations of one forward pass, through torch's own counter.

    A multiplication and an addition are two. Counted are matrix products, convolutions and
    attention, which is nearly all the work; not elementwise operations, nor `nn.Bilinear`.

    Args:
        model: called as is; wrappers of compile and DDP are taken off. It is left as it was.
        batch: the inputs, or a tuple or list whose first item they are; a dict is passed as
            keywords.
        backward: count the backward pass from the outputs too.
    Raises:
        ValueError: if backward is asked for and no output needs a gradient.

    The pass runs with plain kernels. Of the fused ones, torch's counter takes some for no work at
    all: an LSTM, attention on a CPU, a TransformerEncoderLayer in eval mode.

    >>> flops(nn.Linear(3, 5), torch.zeros(7, 3)) == 2 * 7 * 3 * 5
    True
    """
    model = unwrap_model(model)
    batch = map_tensors(_copy_leaf, batch)
    counter = FlopCounterMode(display=False)
    with preserve_state(model), _plain_kernels(), torch.set_grad_enabled(backward), counter:
        roots = [each for each in list_tensors(call_model(model, batch)) if each.requires_grad]
        if backward and not roots:
            raise ValueError(
                "backward=True needs an output that requires a gradient, and none does: are all "
                "parameters frozen, or is the output detached?"
            )
        if backward:
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    return counter.get_total_flops()


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused kernels that torch's counter has no formula for."""
    backends: Any = torch.backends
    with ExitStack() as settings:
        settings.callback(backends.mha.set_fastpath_enabled, backends.mha.get_fastpath_enabled())
        backends.mha.set_fastpath_enabled(False)
        for library in (backends.mkldnn, backends.cudnn):  # their recurrent layers are fused
            settings.callback(setattr, library, "enabled", library.enabled)
            library.enabled = False
        settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _copy_leaf(item: Tensor) -> Tensor:
    """A copy of a tensor, so that neither values nor gradients reach the caller's."""
    return item.detach().clone().requires_grad_(item.requires_grad)
