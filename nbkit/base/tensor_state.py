"""A tensor: the memory that it shows, the bytes there, and what autograd keeps beside it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.base.containers import have_same_items
from nbkit.base.leaves import Places, list_leaves
from nbkit.base.place import MEMORY, Place, name_items

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class TensorState(Place):
    """A tensor: the memory that it shows, the bytes there, and what autograd keeps beside it."""

    def __init__(self, name: str, tensor: Tensor, strict: bool = True) -> None:
        check_tensor(name, tensor)
        self.memory = tensor.data  # an alias, which stays where it is when the tensor is moved
        self.is_dense = tensor.layout is torch.strided
        self.is_leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.grad = tensor.grad if self.is_leaf else None
        self.attributes = dict(vars(tensor))
        # The dict of hooks itself, which torch calls from, and what is in it.
        self.hooks: dict[str, tuple[dict[int, Any] | None, dict[int, Any]]] = {}
        for key in HOOKS:
            hooks = getattr(tensor, key)
            self.hooks[key] = (hooks, dict(hooks or {}))
        # A sparse tensor has no memory of its own, but the two tensors inside it have.
        inside = () if self.is_dense else (tensor._indices(), tensor._values())
        super().__init__(name, tensor, (*inside, self.grad), self._put_bytes_back, MEMORY, strict)

    def list_children(self) -> Iterator[tuple[str, Any]]:
        """List the gradient, the tensors inside a sparse one, and what is hung on the tensor."""
        for inside in self.value:
            yield f"a tensor in {self.name}", inside
        yield from name_items(self.name, self.attributes)

    def describe_value(self, places: Places) -> list[Any]:
        """List the kind of tensor, its gradient, its attributes and its hooks."""
        memory = self.memory
        layout = memory.stride() if self.is_dense else memory.is_coalesced()
        kind = f"{memory.dtype} {memory.device} {tuple(memory.shape)} {layout}"
        found: list[Any] = [f"{kind} {self.requires_grad}"]
        for inside in self.value:
            found += ["None"] if inside is None else list_leaves(inside, places)
        # Most tensors have neither, and a net has hundreds of tensors.
        if self.attributes:
            attributes = {key: self.attributes[key] for key in sorted(self.attributes)}
            found += list_leaves(attributes, places)
        for key, (_, hooks) in self.hooks.items():
            if hooks:
                found += [key, *list_leaves(list(hooks.values()), places)]
        return found

    def save_value(self, memo: dict[int, Any], offload: bool) -> None:
        """Copy the bytes."""
        self.saved = None
        if self.is_dense:
            # The block may resize the storage, as FSDP does.
            self.nbytes = self.memory.untyped_storage().nbytes()
            self.saved = _drop_expanded(self.memory).to("cpu" if offload else None, copy=True)

    def _put_bytes_back(self, saved: Tensor | None) -> None:
        tensor = self.owner
        with torch.inference_mode(self.memory.is_inference()):  # such a tensor is fixed elsewhere
            if saved is not None:
                storage = self.memory.untyped_storage()
                if storage.nbytes() != self.nbytes:
                    storage.resize_(self.nbytes)
                _drop_expanded(self.memory).copy_(saved)
            # The block may have given the tensor other memory, as `module.to(device)` does.
            tensor.data = self.memory
            if self.is_leaf:
                # The block may have made it the result of an in-place operation.
                if not tensor.is_leaf:
                    tensor.detach_()
                tensor.requires_grad_(self.requires_grad)
                tensor.grad = self.grad
        self._put_attributes_back(tensor)

    def _put_attributes_back(self, tensor: Any) -> None:
        """Put back what hangs on the tensor: attributes, and hooks in their own dicts."""
        if not have_same_items(vars(tensor), self.attributes):
            vars(tensor).clear()
            vars(tensor).update(self.attributes)
        for key, (owner, hooks) in self.hooks.items():
            now = getattr(tensor, key)
            if now is not owner:
                if now is not None:
                    now.clear()  # torch would go on calling these hooks after `= None`
                if owner is not None:
                    setattr(tensor, key, owner)
            if owner is not None and not have_same_items(owner, hooks):
                owner.clear()
                owner.update(hooks)

    def read_content(self) -> bytes:
        """Return the bytes in the order of the indices, which strides do not change."""
        if not self.is_dense:
            return b""
        # Expanded dimensions repeat numbers, and would cost memory that the tensor does not have.
        memory = _drop_expanded(self.memory)
        # A copy in plain order: two tensors of equal numbers and other strides have equal bytes.
        rows = torch.empty(memory.shape, dtype=memory.dtype, device="cpu").copy_(memory)
        return ctypes.string_at(rows.data_ptr(), rows.nbytes)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose bytes cannot be copied and put back.

    Raises:
        TypeError: for a tensor without shape or memory, a quantized one, one that is neither dense
            nor sparse COO, and a subclass that wraps other tensors.
    """
    # Such a subclass computes its numbers from other tensors, and has no bytes to copy.
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


def _drop_expanded(memory: Tensor) -> Tensor:
    """Return the tensor without its expanded dimensions, where one number stands for many."""
    strides = memory.stride()
    if 0 not in strides:
        return memory
    once = []
    for stride in strides:
        once.append(slice(1) if stride == 0 else slice(None))
    return memory[tuple(once)]
