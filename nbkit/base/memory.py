"""A tensor: the memory that it shows, the bytes there, and what autograd keeps beside it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.containers import identify_items
from nbkit.base.leaves import Places, list_leaves
from nbkit.base.place import MEMORY, Place, name_items

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class Memory(Place):
    """A tensor: the memory that it shows, the bytes there, and what autograd keeps beside it."""

    def __init__(self, name: str, tensor: Tensor, strict: bool = True) -> None:
        check_tensor(name, tensor)
        self.memory = tensor.data  # an alias, which stays where it is when the tensor is moved
        self.dense = tensor.layout is torch.strided
        self.leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.grad = tensor.grad if self.leaf else None
        self.attributes = dict(vars(tensor))
        hooks = {key: getattr(tensor, key) for key in HOOKS}
        self.hooks = {key: (each, dict(each or {})) for key, each in hooks.items()}
        # A sparse tensor has no memory of its own, but the two tensors inside it have.
        inside = () if self.dense else (tensor._indices(), tensor._values())
        layout = tensor.stride() if self.dense else tensor.is_coalesced()
        kind = f"{tensor.dtype} {tensor.device} {tuple(tensor.shape)} {layout} {self.requires_grad}"
        super().__init__(name, tensor, (kind, *inside, self.grad), self._put, MEMORY, strict)

    def children(self) -> Iterator[tuple[str, Any]]:
        """List the gradient, the tensors inside a sparse one, and what is hung on the tensor."""
        for inside in self.value[1:]:
            yield f"a tensor in {self.name}", inside
        yield from name_items(self.name, self.attributes)

    def describe(self, places: Places) -> list[Any]:
        """List the kind of tensor, its gradient, its attributes and its hooks."""
        hooks = [list(each.values()) for _, each in self.hooks.values()]
        attributes = {key: self.attributes[key] for key in sorted(self.attributes)}
        return list_leaves([*self.value, attributes, *hooks], places)

    def save(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the bytes."""
        self.saved = None
        if self.dense:
            self.nbytes = self.memory.untyped_storage().nbytes()
            self.saved = _each_once(self.memory).to("cpu" if offload else None, copy=True)

    def _put(self, saved: Tensor | None) -> None:
        tensor = self.owner
        with torch.inference_mode(self.memory.is_inference()):  # such a tensor is fixed elsewhere
            if saved is not None:
                storage = self.memory.untyped_storage()
                if storage.nbytes() != self.nbytes:
                    storage.resize_(self.nbytes)
                _each_once(self.memory).copy_(saved)
            tensor.data = self.memory
            if self.leaf:
                if not tensor.is_leaf:
                    tensor.detach_()
                tensor.requires_grad_(self.requires_grad)
                tensor.grad = self.grad
        self._put_attributes(tensor)

    def _put_attributes(self, tensor: Any) -> None:
        """Put back what hangs on the tensor: attributes, and hooks in their own dicts."""
        if identify_items(vars(tensor)) != identify_items(self.attributes):
            vars(tensor).clear()
            vars(tensor).update(self.attributes)
        for key, (owner, hooks) in self.hooks.items():
            now = getattr(tensor, key)
            if now is not owner:
                if now is not None:
                    now.clear()  # torch would go on calling these hooks after `= None`
                if owner is not None:
                    setattr(tensor, key, owner)
            if owner is not None and identify_items(owner) != identify_items(hooks):
                owner.clear()
                owner.update(hooks)

    def content(self) -> bytes:
        """Return the bytes, in the order of the indices, whatever the strides."""
        if not self.dense:
            return b""
        memory = _each_once(self.memory)
        rows = torch.empty(memory.shape, dtype=memory.dtype, device="cpu").copy_(memory)
        return ctypes.string_at(rows.data_ptr(), rows.nbytes)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose bytes cannot be copied and put back."""
    wraps = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if nn.parameter.is_lazy(tensor):
        problem = "has no shape yet: run one batch through the model first"
    elif wraps or tensor.is_quantized or tensor.layout not in (torch.strided, torch.sparse_coo):
        what = f"{type(tensor).__name__}, {tensor.dtype}, {tensor.layout}"
        problem = f"is a {what}: expected a plain tensor, dense or sparse COO"
    elif tensor.layout is torch.strided and tensor.numel() and not tensor.data_ptr():
        problem = f"has no memory on {tensor.device}: load its values first"
    else:
        return
    raise TypeError(f"{name} cannot be put back: it {problem}.")


def _each_once(memory: Tensor) -> Tensor:
    """Return the tensor without its expanded dimensions, where one number stands for many."""
    if 0 not in memory.stride():
        return memory
    return memory[tuple(slice(1) if step == 0 else slice(None) for step in memory.stride())]
