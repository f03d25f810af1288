"""The check passes the reference, fails the stub, and fails every plausible wrong version."""

import math

import pytest
import torch

from nbkit.lab.exercise import load_exercise

CLIP = load_exercise("clipping", "clip_by_norm")


def norm_of(parameters):
    return math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))


def each_on_its_own(parameters, max_norm):
    parameters = list(parameters)
    total_norm = norm_of(parameters)
    for p in parameters:
        if p.grad is not None and p.grad.norm() > max_norm:
            p.grad *= max_norm / p.grad.norm()
    return total_norm


def always_to_the_threshold(parameters, max_norm):
    parameters = list(parameters)
    total_norm = norm_of(parameters)
    for p in parameters:
        if p.grad is not None:
            p.grad *= max_norm / total_norm
    return total_norm


def adds_the_norms(parameters, max_norm):
    grads = [p.grad for p in parameters if p.grad is not None]
    return sum(float(grad.norm()) for grad in grads)


def returns_what_is_left(parameters, max_norm):
    parameters = list(parameters)
    CLIP.reference(parameters, max_norm)
    return norm_of(parameters)


def clamps_the_elements(parameters, max_norm):
    parameters = list(parameters)
    total_norm = norm_of(parameters)
    for p in parameters:
        if p.grad is not None:
            p.grad.clamp_(-max_norm, max_norm)
    return total_norm


def forgets_the_frozen(parameters, max_norm):
    parameters = list(parameters)
    total_norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    for p in parameters:
        p.grad *= min(1.0, max_norm / total_norm)
    return total_norm


def reads_the_generator_twice(parameters, max_norm):
    total_norm = norm_of(parameters)
    for p in parameters:
        if p.grad is not None:
            p.grad *= min(1.0, max_norm / total_norm)
    return total_norm


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (each_on_its_own, "expected [[0.6, 0.0], [0.8]], all by one factor, got [[1.0, 0.0], [1"),
        (always_to_the_threshold, "shorter than max_norm=10.0, expected them unchanged"),
        (adds_the_norms, "expected the norm 5.0 to be returned, got 7.0"),
        (
            returns_what_is_left,
            "for the gradients [3.0, 0.0] and [4.0] and max_norm=1.0 expected the norm before "
            "clipping to be returned, 5.0, got 1.",
        ),
        (clamps_the_elements, "all by one factor, got [[1.0, 0.0], [1.0]]"),
        (forgets_the_frozen, "it raised AttributeError: 'NoneType'"),
        (reads_the_generator_twice, "a generator can be read only once"),
        (lambda parameters, max_norm: None, "to be returned, got None"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in CLIP.check(wrong)


def test_the_reference_passes_and_the_stub_does_not():
    assert CLIP.check(CLIP.reference) is None
    assert CLIP.check(CLIP.stub) == (
        "for the gradients [3.0] and [4.0] expected the norm 5.0 to be returned, got 0.0."
    )


def one_long_vector(parameters, max_norm):
    grads = [p.grad for p in parameters if p.grad is not None]
    total_norm = torch.cat([grad.flatten() for grad in grads]).norm()
    factor = torch.clamp(max_norm / (total_norm + 1e-6), max=1.0)
    for grad in grads:
        grad *= factor
    return total_norm


def all_at_once(parameters, max_norm):
    grads = [p.grad for p in parameters if p.grad is not None]
    total_norm = float(torch.stack(torch._foreach_norm(grads)).norm())
    torch._foreach_mul_(grads, min(1.0, max_norm / total_norm))
    return total_norm


def new_gradients(parameters, max_norm):
    parameters = [p for p in parameters if p.grad is not None]
    total_norm = norm_of(parameters)
    for p in parameters:
        p.grad = p.grad * min(1.0, max_norm / total_norm)
    return total_norm


@pytest.mark.parametrize(
    "right", [one_long_vector, all_at_once, new_gradients, torch.nn.utils.clip_grad_norm_]
)
def test_any_right_solution_passes(right):
    assert CLIP.check(right) is None
