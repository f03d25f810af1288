"""The live lab of the lesson batchnorm: one training, evaluated with any running statistics."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbkit.lab.data import digits
from nbkit.lab.evidence.stats import paired_difference
from nbkit.lessons.batchnorm import pictures
from nbkit.lessons.batchnorm.side_by_side import SideBySide
from nbkit.lessons.batchnorm.task import brighten_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = (15, 30, 45, 60)  # steps after which the accuracy is measured
GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # momenta to choose the best of
CLEAR = 0.05  # a difference of accuracy that the status line calls one
Statistics = list[tuple[Tensor, Tensor]]  # for each layer its mean and its variance


@dataclass
class Recording:
    """One training of all networks, so that any momentum can be looked at afterwards.

    In train mode BatchNorm does not use its running statistics, so the weights are the same for
    every momentum. The running statistics follow from those of the batches.

    Attributes:
        nets: the networks.
        weights: their state after each of LOOKS.
        batches: for each step the statistics of its batch.
    """

    nets: SideBySide
    weights: dict[int, dict[str, Tensor]]
    batches: list[Statistics]

    def list_layers(self) -> list[nn.BatchNorm1d]:
        """List the BatchNorm layers of the networks."""
        return [layer for layer in self.nets.model.modules() if isinstance(layer, nn.BatchNorm1d)]

    def restore(self, step: int, momentum: float) -> None:
        """Put the networks into the state after this step, as a BatchNorm of that momentum has it.

        running <- (1 - momentum) * running + momentum * batch,  from mean 0 and variance 1
        """
        self.nets.model.load_state_dict(self.weights[step])
        for index, layer in enumerate(self.list_layers()):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.fill_(0.0)
            layer.running_var.fill_(1.0)
            for batch in self.batches[:step]:
                mean, var = batch[index]
                layer.running_mean.lerp_(mean, momentum)
                layer.running_var.lerp_(var, momentum)


@lru_cache(maxsize=8)
def record_training(batch_size: int, seeds: tuple[int, ...]) -> Recording:
    """Train a network of five hidden layers for each seed, and record every batch's statistics."""
    # With momentum 1 the running statistics are those of the last batch.
    nets = SideBySide(seeds, depth=5, momentum=1.0)
    recording = Recording(nets, {}, [])
    layers = recording.list_layers()
    for step in nets.train_networks(digits(), lr=0.02, steps=LOOKS[-1], batch_size=batch_size):
        statistics = []
        for layer in layers:
            assert layer.running_mean is not None and layer.running_var is not None
            statistics.append((layer.running_mean.clone(), layer.running_var.clone()))
        recording.batches.append(statistics)
        if step in LOOKS:
            state = nets.model.state_dict()
            recording.weights[step] = {name: tensor.clone() for name, tensor in state.items()}
    return recording


@lru_cache(maxsize=32)
def measure_reestimated(batch_size: int, seeds: tuple[int, ...], shift: float) -> list[Tensor]:
    """Measure the accuracy (runs,) after each of LOOKS, re-estimated on 500 training images.

    It does not depend on the momentum, whose statistics are thrown away.
    """
    data, recording = brighten_images(digits(), shift), record_training(batch_size, seeds)
    accuracies = []
    for step in LOOKS:
        recording.nets.model.load_state_dict(recording.weights[step])
        recording.nets.reestimate_statistics(data.x_train[:500])
        accuracies.append(recording.nets.measure_accuracies(data.x_test, data.y_test))
    return accuracies


@lru_cache(maxsize=8)
def find_best_momentum(batch_size: int, seeds: tuple[int, ...]) -> float:
    """Find the momentum of GRID with the highest accuracy, on 500 training images."""
    data = digits()
    recording = record_training(batch_size, seeds)
    scores = []
    for momentum in GRID:
        recording.restore(LOOKS[-1], momentum)
        accuracies = recording.nets.measure_accuracies(data.x_train[-500:], data.y_train[-500:])
        scores.append(float(accuracies.mean()))
    return GRID[scores.index(max(scores))]


def draw_lab(
    fig: Figure,
    *,
    bn_momentum: float,
    batch_size: int,
    shift: float,
    best_momentum: bool,
    seeds: Sequence[int],
) -> Generator[None, None, str]:
    """Draw eval accuracy as training left it and re-estimated, and the gap of each layer."""
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    data, runs = brighten_images(digits(), shift), tuple(seeds)
    recording = record_training(batch_size, runs)
    yield
    momenta = {"as trained": bn_momentum}
    if best_momentum:
        momenta["best momentum"] = find_best_momentum(batch_size, runs)
    looks: dict[str, list[Tensor]] = {}
    for name, momentum in momenta.items():
        looks[name] = []
        for step in LOOKS:
            recording.restore(step, momentum)
            looks[name].append(recording.nets.measure_accuracies(data.x_test, data.y_test))
    looks["re-estimated"] = measure_reestimated(batch_size, runs, shift)
    yield

    recording.restore(LOOKS[-1], bn_momentum)
    report = recording.nets.reestimate_statistics(data.x_train[:500])
    pictures.draw_accuracies(left, LOOKS, looks)
    pictures.draw_layer_gaps(right, {"as trained": report}, widest=3.0)
    ends = [looks[name][-1].tolist() for name in ("as trained", "re-estimated")]
    return describe_gain(*ends, bn_momentum=bn_momentum, batch_size=batch_size, shift=shift)


def describe_gain(
    left: Sequence[float],
    again: Sequence[float],
    *,
    bn_momentum: float,
    batch_size: int,
    shift: float,
) -> str:
    """Say in a sentence what re-estimation brought, and which goal has been reached.

    Args:
        left: each seed's accuracy with the statistics that training left.
        again: each seed's accuracy with re-estimated ones.
    """
    gain = paired_difference(again, left)
    if gain.low <= 0 or gain.estimate < CLEAR:
        sentence = f"no difference of {CLEAR:.0%} that these {len(left)} seeds can see"
        if batch_size <= 8 and shift == 0:
            sentence = f"goal 1 reached: {sentence}"
        return sentence
    sentence = f"re-estimated is better by {gain.estimate:.0%} of the test images"
    if shift > 0 and bn_momentum == 0.1:
        return f"goal 3 reached: {sentence}"
    if batch_size <= 8 and shift == 0 and bn_momentum > 0.2:
        return f"goal 2 reached, noise: {sentence}"
    return sentence
