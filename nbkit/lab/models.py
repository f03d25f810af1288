"""Build the small networks of the lessons from plain torch modules."""

from itertools import pairwise

from torch import nn


def mlp(depth: int = 3, width: int = 64, inputs: int = 64, classes: int = 10) -> nn.Sequential:
    """Build a multilayer perceptron: `depth` hidden layers of Linear and ReLU, then a Linear.

    Raises:
        ValueError: if depth is negative or another size is not positive.

    The weights are torch's defaults, drawn from the global random state.

    >>> print(mlp(depth=1))
    Sequential(
      (0): Linear(in_features=64, out_features=64, bias=True)
      (1): ReLU()
      (2): Linear(in_features=64, out_features=10, bias=True)
    )
    """
    if depth < 0 or min(width, inputs, classes) < 1:
        raise ValueError(
            f"depth must be at least 0, and width, inputs and classes at least 1, got "
            f"depth={depth}, width={width}, inputs={inputs}, classes={classes}."
        )

    # With depth 0 there is one size and no pair: the model is a single Linear.
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    # No ReLU after the last layer: cross_entropy takes logits of any sign.
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
