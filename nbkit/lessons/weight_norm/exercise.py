"""The exercise of the lesson weight_norm: a weight from its lengths and its directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nbkit.lab.answers import Answer
from nbkit.lab.exercise import Exercise

Attempt = Callable[..., Any]  # the learner's function; nothing about it is certain


def stub_normed_weight(g: Tensor, v: Tensor) -> Tensor | None:
    """Return nothing: the learner starts from here."""
    return None


def solve_normed_weight(g: Tensor, v: Tensor) -> Tensor:
    """Return g * v / |v|, with a length for each row; g (outputs,), v (outputs, ...)."""
    # All dimensions but the first belong to one unit; g gets as many of size one.
    lengths: Tensor = v.flatten(1).norm(dim=1)
    return v * (g / lengths).view(-1, *[1] * (v.dim() - 1))


def _make_parts(*shape: int) -> tuple[Tensor, Tensor]:
    """Make lengths 1, 2, 3, ... and directions of other lengths, without torch's random state."""
    generator = torch.Generator().manual_seed(0)
    v = 3 * torch.randn(shape, generator=generator)
    return torch.arange(1.0, shape[0] + 1), v


def _check_row_lengths(w: Any, g: Tensor, v: Tensor) -> str | None:
    """Check shape and row lengths of a weight, in a sentence if one is wrong."""
    if not isinstance(w, Tensor) or w.shape != v.shape:
        got = tuple(w.shape) if isinstance(w, Tensor) else repr(w)
        return f"for v of shape {tuple(v.shape)} expected a weight of that shape, got {got}."
    lengths = w.detach().flatten(1).norm(dim=1)
    if not torch.allclose(lengths, g, rtol=1e-4):
        rounded = [round(length, 3) for length in lengths.tolist()]
        return f"expected rows of the lengths g = {g.tolist()}, got {rounded}."
    return None


def each_row_has_its_length(attempt: Attempt) -> str | None:
    """The rows of the weight have the lengths g."""
    g, v = _make_parts(3, 5)
    return _check_row_lengths(attempt(g, v), g, v)


def each_row_keeps_its_direction(attempt: Attempt) -> str | None:
    """A row of the weight points where its row of v points."""
    g, v = _make_parts(4, 6)
    w = attempt(g, v)
    if failure := _check_row_lengths(w, g, v):
        return failure
    cosines = torch.cosine_similarity(w.detach(), v, dim=1)
    if not torch.allclose(cosines, torch.ones(4), rtol=1e-4):
        return f"expected rows along those of v, cosine 1, got cosines {cosines.tolist()}."
    return None


def a_convolution_has_one_length_a_unit(attempt: Attempt) -> str | None:
    """A convolution's unit is v[k], of shape (channels, height, width): it has one length."""
    g, v = _make_parts(3, 2, 3, 3)
    failure = _check_row_lengths(attempt(g, v), g, v)
    return f"for a Conv2d weight, v of shape (3, 2, 3, 3): {failure}" if failure else None


def both_parts_get_gradients(attempt: Attempt) -> str | None:
    """g and v are trained, so the gradient reaches both; v's is at right angles to v."""
    g, v = _make_parts(3, 5)
    before = v.clone()
    v.requires_grad_()
    g.requires_grad_()
    # Fixed weights of the sum: with all ones, some gradients would be zero by chance.
    attempt(g, v).mul(torch.arange(15.0).view(3, 5)).sum().backward()
    if g.grad is None or v.grad is None:
        missing = "g" if g.grad is None else "v"
        return f"expected a gradient in g and in v, got none in {missing}: no detach, no .data."
    if not torch.equal(v.detach(), before):
        return "expected v as it was, got another one: return a new tensor."
    # The length of v does not matter to w, so no gradient can point along v.
    along = (v.grad * before).sum(1).abs() / (v.grad.norm(dim=1) * before.norm(dim=1))
    if float(along.max()) > 1e-3:
        return (
            "expected a gradient of v at right angles to each row, got one that also points along "
            "it: the length |v| has to take part in the gradient."
        )
    return None


EXERCISES = [
    Exercise(
        "normed_weight",
        stub_normed_weight,
        solve_normed_weight,
        [
            each_row_has_its_length,
            each_row_keeps_its_direction,
            a_convolution_has_one_length_a_unit,
            both_parts_get_gradients,
        ],
    )
]

ANSWERS = {
    "rows": Answer(
        choices="abc",
        right="b",
        why="v.norm() is one number, the length of the whole matrix. The rows share it, so each "
        "comes out shorter than its g, and one row that grows makes all others shrink.",
        hints={
            "a": "dim=1 takes the length of each row, and keepdim keeps its place for dividing.",
            "c": "normalize divides along dim=1 by the length, which is what a row needs.",
        },
    )
}
