"""The check of 05_amp passes the reference, fails the stub, and fails plausible wrong versions."""

import pytest
import torch

from nbkit.lab.exercise import load_exercise

STEP = load_exercise("amp", "scaled_step")


def grads_of(optimizer):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.grad for p in parameters if p.grad is not None]


def unscales_after_the_step(loss, optimizer, scale):
    (loss * scale).backward()
    optimizer.step()
    for grad in grads_of(optimizer):
        grad /= scale
    return True, scale


def unscales_the_first_group_only(loss, optimizer, scale):
    (loss * scale).backward()
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad /= scale
    optimizer.step()
    return True, scale


def trips_over_a_weight_without_gradient(loss, optimizer, scale):
    (loss * scale).backward()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad /= scale
    optimizer.step()
    return True, scale


def never_skips(loss, optimizer, scale):
    (loss * scale).backward()
    for grad in grads_of(optimizer):
        grad /= scale
    optimizer.step()
    return True, scale


def looks_for_infinity_only(loss, optimizer, scale):
    (loss * scale).backward()
    for grad in grads_of(optimizer):
        grad /= scale
    if any(grad.isinf().any() for grad in grads_of(optimizer)):
        return False, scale / 2
    optimizer.step()
    return True, scale


def sets_lost_gradients_to_zero(loss, optimizer, scale):
    (loss * scale).backward()
    for grad in grads_of(optimizer):
        grad.div_(scale).nan_to_num_(0.0, 0.0, 0.0)
    optimizer.step()
    return True, scale


def looks_at_the_loss(loss, optimizer, scale):
    (loss * scale).backward()
    for grad in grads_of(optimizer):
        grad /= scale
    if not loss.isfinite():
        return False, scale / 2
    optimizer.step()
    return True, scale


def keeps_the_scale(loss, optimizer, scale):
    stepped, _ = STEP.reference(loss, optimizer, scale)
    return stepped, scale


def lowers_the_scale_always(loss, optimizer, scale):
    stepped, _ = STEP.reference(loss, optimizer, scale)
    return stepped, scale / 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (unscales_after_the_step, "expected the weight 1 - 3 = -2, got -3071"),
        (unscales_the_first_group_only, "[-2.0, -4.0, 1.0], got [-2.0, -5119.0, 1.0]"),
        (trips_over_a_weight_without_gradient, "it raised TypeError"),
        (never_skips, "with gradients 3 and inf, expected no step: False"),
        (looks_for_infinity_only, "with gradients 3 and nan, expected no step: False"),
        (sets_lost_gradients_to_zero, "got True, and [-2.0, 1.0]"),
        (looks_at_the_loss, "for the loss sqrt(w) at w = 0"),
        (keeps_the_scale, "expected (False, 512.0) to be returned, got (False, 1024.0)"),
        (lowers_the_scale_always, "expected (True, 1024.0) to be returned, got (True, 512.0)"),
        (lambda loss, optimizer, scale: None, "expected the weight 1 - 3 = -2, got 1"),
    ],
)
def test_plausible_wrong_versions_fail_and_are_told_why(wrong, said):
    assert said in STEP.check(wrong)


def divides_by_new_tensors(loss, optimizer, scale):
    (loss * scale).backward()
    finite = True
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad / scale
                finite = finite and bool(parameter.grad.isfinite().all())
    if finite:
        optimizer.step()
    return finite, scale if finite else scale / 2


def asks_torchs_scaler(loss, optimizer, scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() == scale, scaler.get_scale()


def looks_before_it_divides(loss, optimizer, scale):
    (scale * loss).backward()
    if not all(grad.abs().sum() < float("inf") for grad in grads_of(optimizer)):
        return False, 0.5 * scale
    torch._foreach_mul_(grads_of(optimizer), 1 / scale)
    optimizer.step()
    return True, scale


@pytest.mark.parametrize(
    "right", [divides_by_new_tensors, asks_torchs_scaler, looks_before_it_divides]
)
def test_other_right_solutions_pass(right):
    assert STEP.check(right) is None


def test_the_reference_passes_and_the_stub_does_not():
    assert STEP.check(STEP.reference) is None
    assert STEP.check(STEP.stub) == (
        "for a weight of 1 with gradient 3, SGD at lr 1 and scale 1024, expected the weight "
        "1 - 3 = -2, got -3071 after the step."
    )
