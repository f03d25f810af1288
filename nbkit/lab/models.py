"""The small networks of the lessons: plain torch modules, nothing to inherit from."""

from itertools import pairwise

from torch import nn


def mlp(depth: int = 3, width: int = 64, inputs: int = 64, classes: int = 10) -> nn.Sequential:
    """A multilayer perceptron: `depth` hidden layers of Linear and ReLU, then a Linear.

    Raises:
        ValueError: if depth is negative or another size is not positive.

    The weights are torch's default, drawn from the global random state.

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

    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
