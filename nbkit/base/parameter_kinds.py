"""Say what each parameter of a model is: by the types of the layers that own it, not by its name.

A name says little: a norm called `scale` was decayed by tools that look for "norm" in the name
(huggingface/transformers#16908).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from nbkit.base.report import Word

LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
# _NormBase is the base of every BatchNorm and InstanceNorm.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class ParameterKind(Word):
    """What a parameter is in its model."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    NORM = "norm"
    VECTOR = "vector"
    PARAMETRIZED = "parametrized"
    OTHER = "other"

    @property
    def is_decayed(self) -> bool:
        """Return whether weight decay applies: not to norms, vectors (biases) and embeddings."""
        return self in (ParameterKind.MATRIX, ParameterKind.PARAMETRIZED, ParameterKind.OTHER)

    @property
    def has_weights(self) -> bool:
        """Return whether a layer with it counts as a step of depth; a norm or a bias does not."""
        return self not in (ParameterKind.NORM, ParameterKind.VECTOR)


@dataclass(frozen=True)
class Owner:
    """One place where a parameter is registered.

    Attributes:
        path: name of the layer, for `get_submodule`.
        layer: the layer.
        attribute: name of the parameter in it; of a parametrized tensor, the tensor's name.
        is_parametrized: whether the layer's tensor is computed from the parameter.
    """

    path: str
    layer: nn.Module
    attribute: str
    is_parametrized: bool = False


@dataclass(frozen=True)
class ParameterRole:
    """A parameter, frozen or not, and what it is in its model.

    Attributes:
        name: its first name.
        parameter: the parameter.
        kind: what it is.
        owners: where it is registered: several layers, if it is tied.
    """

    name: str
    parameter: nn.Parameter
    kind: ParameterKind
    owners: tuple[Owner, ...]

    @property
    def layer(self) -> str:
        """Return the name of its layer; of a parameter beside other layers, its own name."""
        owner = self.owners[0]
        below = {name for name, _ in owner.layer.named_children()} - {"parametrizations"}
        return self.name if below else owner.path


def list_roles(model: nn.Module) -> list[ParameterRole]:
    """List each parameter of a model once, in the order of registration, with what it is.

    A weight of a layer of torch is a MATRIX, or PARAMETRIZED if torch computes it from the
    parameter, as `weight_norm` does. The table of an embedding is an EMBEDDING, also where it is
    tied to another layer. What belongs to a norm is NORM. Anything else with one axis is a VECTOR,
    as is what has one row or one column, such as a class token. The rest is OTHER.

    Raises:
        ValueError: if a lazy layer has not seen its first batch.
    """
    owners = _list_owners(model)
    roles = []
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"expected parameters with a shape, but {name!r} belongs to a lazy layer that has "
                f"not seen a batch. Run the model on one batch first."
            )
        found = tuple(owners[id(parameter)])
        roles.append(ParameterRole(name, parameter, _classify_parameter(parameter, found), found))
    return roles


def _list_owners(model: nn.Module) -> dict[int, list[Owner]]:
    """List the places where each parameter is registered, by its id."""
    layers = dict(model.named_modules(remove_duplicate=False))
    owners: dict[int, list[Owner]] = {}
    for path, layer in layers.items():
        for attribute, parameter in layer._parameters.items():
            if parameter is None:
                continue
            owner = Owner(path, layer, attribute)
            if isinstance(layer, ParametrizationList):
                # It is registered as <layer>.parametrizations.<tensor>.
                parts = path.split(".")
                above = ".".join(parts[:-2])
                owner = Owner(above, layers[above], parts[-1], is_parametrized=True)
            owners.setdefault(id(parameter), []).append(owner)
    return owners


def _classify_parameter(parameter: nn.Parameter, owners: tuple[Owner, ...]) -> ParameterKind:
    for owner in owners:
        if isinstance(owner.layer, LOOKUPS):
            return ParameterKind.EMBEDDING
        if isinstance(owner.layer, NORMS):
            return ParameterKind.NORM
    if parameter.dim() < 2:
        return ParameterKind.VECTOR
    if any(owner.is_parametrized for owner in owners):
        return ParameterKind.PARAMETRIZED
    if any(map(_is_layer_weight, owners)):
        return ParameterKind.MATRIX
    # A class token is (1, 1, width), a position table (1, places, width).
    rows, numbers = parameter.shape[0], parameter.numel()
    return ParameterKind.VECTOR if rows == 1 or numbers == rows else ParameterKind.OTHER


def _is_layer_weight(owner: Owner) -> bool:
    """Say whether torch's layer multiplies its input by the parameter."""
    layer, attribute = owner.layer, owner.attribute
    if isinstance(layer, nn.Linear | _ConvNd):
        return attribute == "weight"
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        # Old-style weight_norm adds weight_hh_l0_g and weight_hh_l0_v, which are no weights.
        return attribute.startswith("weight_") and not attribute.endswith(("_g", "_v"))
    return isinstance(layer, nn.MultiheadAttention) and attribute.endswith("proj_weight")
