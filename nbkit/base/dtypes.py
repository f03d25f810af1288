"""Check that a device has a precision, and compute in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

WIDE = (torch.float64, torch.complex128)
DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_supported(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        ValueError: naming the precisions that it has.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA device here for {precision} on {device}; try 'cpu'.")
    supported = _list_supported(device)
    if precision not in supported:
        raise ValueError(
            f"{precision} is not supported on {device}, which has {', '.join(supported)}. "
            f"(tf32 needs CUDA, and both tf32 and bf16 there compute capability 8.0.)"
        )


def _list_supported(device: torch.device) -> list[str]:
    if device.type == "cuda":
        # TF32 and bf16 came with Ampere.
        recent = torch.cuda.get_device_capability(device) >= (8, 0)
        return ["fp32", "tf32", "bf16", "fp16"] if recent else ["fp32", "fp16"]
    return ["fp32", "bf16", "fp16"] if torch.amp.is_autocast_available(device.type) else ["fp32"]


def forward_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute the forward pass and the loss in this precision, while the context lasts."""
    dtype = DTYPES[precision]
    return backward_context(precision) if dtype is None else torch.autocast(device.type, dtype)


def backward_context(precision: str) -> AbstractContextManager[Any]:
    """Compute the backward pass in this precision: autocast is for the forward pass only."""
    return use_tf32() if precision == "tf32" else nullcontext()


@contextmanager
def use_tf32() -> Iterator[None]:
    """Multiply and convolve float32 tensors in TF32, and put the settings back at the end."""
    backends: Any = torch.backends
    switches = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    before = [switch.fp32_precision for switch in switches]
    # torch.compile reads the older switch, and fails where the two disagree.
    if before[0] != "tf32":
        backends.cuda.matmul.allow_tf32 = True
    for switch in switches:
        switch.fp32_precision = "tf32"
    try:
        yield
    finally:
        if before[0] != "tf32":
            backends.cuda.matmul.allow_tf32 = False
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
