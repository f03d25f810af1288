"""Freeze BatchNorm layers: they keep and use their running statistics, in train mode too."""

from __future__ import annotations

from functools import partial

from torch import nn

from nbkit.base.model_call import unwrap_model
from nbkit.batchnorm.layers import find_batch_norms, require_shapes, stay_in_eval
from nbkit.batchnorm.undo import Undo


def freeze_bn_(model: nn.Module, *, affine: bool = True) -> Undo:
    """Freeze BatchNorm: keep and use its running statistics, in train mode too.

    Args:
        model: a model in any mode.
        affine: also stop training weight and bias (`requires_grad`). Their `.grad` is dropped, so
            that an optimizer with momentum or weight decay does not change them either.
    Returns:
        Undo: takes the freeze back, by `undo()` or as a context manager. A layer then gets the mode
        of the module that holds it, if both had the same mode when it was frozen; otherwise the
        mode that it had.
    Raises:
        ValueError: if a lazy layer has no shape yet; nothing is changed.

    The freeze survives `model.train()`, a copy and a save of the model. Other layers are left
    unchanged. Layers without running statistics cannot stop normalising by the batch: `left` lists
    them.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> frozen = freeze_bn_(model)
    >>> print(frozen)
    frozen: 1 BatchNorm layers, 0 left
    layer  before                             after
    1      train mode, weight and bias train  frozen, weight and bias fixed
    >>> [layer.training for layer in model.train()]
    [True, False]
    >>> frozen.undo()
    >>> [layer.training for layer in model]
    [True, True]
    """
    model = unwrap_model(model)
    layers = find_batch_norms(model)
    require_shapes(layers)

    undo = Undo("frozen")
    for name, layer in layers.items():
        if layer.running_mean is None:
            undo.left[name] = "it has no running statistics (track_running_stats=False)"
            continue
        undo.before[name] = _describe_mode(layer)
        weights: dict[nn.Parameter, bool] = {}  # each with whether it trained
        if affine:
            weights = {weight: weight.requires_grad for weight in layer.parameters(recurse=False)}
        _freeze_layer(model, name, layer, weights, undo)
        undo.after[name] = _describe_mode(layer)
    return undo


def _freeze_layer(
    model: nn.Module, name: str, layer: nn.Module, weights: dict[nn.Parameter, bool], undo: Undo
) -> None:
    """Freeze one layer, and add the steps that take it back."""
    if _has_fixed_mode(layer):
        # A second freeze adds no `train`, so taking it back only lets the weights train again.
        undo.add_step(partial(_release_weights, layer, vars(layer)["train"], weights))
    else:
        holder = model.get_submodule(name.rpartition(".")[0])
        # A layer that differed from its holder was set by hand, and gets its mode back.
        follows = holder if holder.training == layer.training else None
        # `model.train()` calls each layer's `train`; on the instance it hides that of the class.
        frozen = vars(layer)["train"] = partial(stay_in_eval, layer)
        # Steps run in reverse order: the weights need the layer to be frozen still.
        undo.add_step(partial(_thaw_layer, layer, frozen, follows, layer.training))
        undo.add_step(partial(_release_weights, layer, frozen, weights))
        layer.training = False
    for weight in weights:
        # An optimizer skips parameters without a gradient, also their weight decay.
        weight.requires_grad_(False)
        weight.grad = None


def _has_fixed_mode(layer: nn.Module) -> bool:
    """Return whether an earlier freeze has replaced the layer's `train`."""
    return "train" in vars(layer)


def _describe_mode(layer: nn.Module) -> str:
    """Describe which statistics a layer uses, and whether its weight and bias train."""
    mode = "train mode" if layer.training else "eval mode"
    if _has_fixed_mode(layer):
        mode = "frozen"
    trains = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
    if not trains:  # affine=False: the layer has no weight and bias
        return mode
    return f"{mode}, weight and bias {'train' if any(trains) else 'fixed'}"


def _thaw_layer(layer: nn.Module, frozen: object, holder: nn.Module | None, before: bool) -> None:
    """Remove the `train` that keeps a layer in eval mode, if it is still this one.

    Args:
        layer: the frozen layer.
        frozen: the `train` that the freeze gave it.
        holder: the module whose mode the layer gets; None, or the layer, gives it `before`.
        before: the layer's mode before the freeze.
    """
    if vars(layer).get("train") is frozen:
        del vars(layer)["train"]
        layer.training = before if holder is None or holder is layer else holder.training


def _release_weights(layer: nn.Module, frozen: object, weights: dict[nn.Parameter, bool]) -> None:
    """Let weight and bias train as before, if the layer is still frozen by this `train`."""
    if vars(layer).get("train") is frozen:
        for weight, trained in weights.items():
            weight.requires_grad_(trained)
