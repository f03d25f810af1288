"""The message after many skipped steps: which values are not finite."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from nbkit.amp.skips import SkipCount, StepReport
from nbkit.base.gradients import join_names, named_parameters, read_gradients


def explain_skips(
    optimizer: Optimizer, count: SkipCount, report: StepReport, loss: Tensor | None
) -> str:
    """Name the first cause in the order of the computation: parameters, loss, gradients.

    Args:
        report: of the last step that was skipped.
        loss: before scaling, from the last `backward`; None without a scaler.
    """
    return (
        f"{count.streak} steps of {count.name} in a row were skipped, the last one at a loss scale "
        f"of {report.scale:g}: {_find_cause(optimizer, loss)}"
    )


def _find_cause(optimizer: Optimizer, loss: Tensor | None) -> str:
    advice = "find_nonfinite(model, batch, loss_fn) names the module."
    # Each look reads a value from the device: this is the way out, where waiting costs nothing.
    parameters = named_parameters(optimizer)
    lost = _list_nonfinite_names(parameters)
    if lost:
        return f"the parameters {join_names(lost)} hold infinity or NaN. Go back to a checkpoint."
    if loss is not None and not loss.isfinite().all():
        return f"the loss is {loss.tolist()}, before any scaling. {advice}"
    # Parameters and loss are finite, so the backward pass made these.
    bad = _list_nonfinite_names(read_gradients(parameters))
    before = "" if loss is None else "the loss is finite, "
    return f"{before}the gradients of {join_names(bad)} are not. {advice}"


def _list_nonfinite_names(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
