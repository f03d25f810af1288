"""Tune the learning rate of every arm with the same budget, so that no baseline is a straw man."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nbkit.base.numbers import read_real
from nbkit.base.report import Report, ensure_axes
from nbkit.lab.data import Data
from nbkit.lab.runs.seeds import Runs, train_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What may be asked for as `score`, and how a table calls it.
SCORES = {"loss": "final training loss", "held out": "loss on held-out training samples"}


@dataclass(frozen=True)
class Tuned(Report):
    """The best lr of each arm, and what every tried lr scored.

    Attributes:
        arms: the arms with their `lr` filled in, for `train_runs` on seeds that tuned nothing.
        lrs: the best lr of each arm.
        at_edge: the arms whose best lr is the lowest or the highest that was tried: a better one
            may lie beyond.
        grids: the lrs that each arm tried, in ascending order.
        scores: (arms, lrs), the mean score over the seeds; `inf` where a seed was lost.
        lost: (arms, lrs), how many seeds were lost.
        score: what was scored, a key of SCORES.
        seeds: the seeds that tuned; measure on others.
        steps: length of each run.
    """

    arms: dict[str, dict[str, Any]]
    lrs: dict[str, float]
    at_edge: list[str]
    grids: dict[str, list[float]]
    scores: Tensor
    lost: Tensor
    score: str
    seeds: list[int]
    steps: int

    def table(self) -> tuple[str, list[str], list[list[object]]]:
        """Return a line on how it was tuned, and a row for each arm."""
        budget = f"{self.scores.shape[1]} lrs x {len(self.seeds)} seeds x {self.steps} steps"
        summary = f"tuned by the {SCORES[self.score]}, {budget} for each arm"
        columns = ["arm", "best lr", "score", "tried", "lrs that lost seeds", "note"]
        rows: list[list[object]] = []
        for row, (arm, lr) in enumerate(self.lrs.items()):
            grid = self.grids[arm]
            best = self.scores[row, grid.index(lr)].item()
            lost = int((self.lost[row] > 0).sum())
            note = "best lr at the edge: try lrs beyond it" if arm in self.at_edge else ""
            rows.append([arm, lr, best, f"{grid[0]:g} to {grid[-1]:g}", lost, note])
        return summary, columns, rows

    def to_dict(self) -> dict[str, object]:
        """Return every field but `arms` as plain JSON: their functions are not JSON."""
        told = super().to_dict()
        del told["arms"]
        return told

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each arm's score against lr, with a ring around the best; lost lrs have no point."""
        from nbkit.lab import plots  # here: plots imports this package's Runs

        ax = ensure_axes(ax)
        palette = (plots.BASELINE, plots.TECHNIQUE, plots.BEST, plots.QUIET)
        for row, (arm, grid) in enumerate(self.grids.items()):
            color = palette[row % len(palette)]
            # matplotlib leaves a gap at NaN, but an infinite point would stretch its axes.
            scores = self.scores[row].masked_fill(self.scores[row].isinf(), math.nan).tolist()
            ax.plot(grid, scores, "o-", color=color, markersize=4, label=arm)
            best = scores[grid.index(self.lrs[arm])]
            ax.plot(self.lrs[arm], best, "o", color=color, markersize=12, fillstyle="none")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set(xlabel="learning rate", ylabel=SCORES[self.score])
        ax.legend()
        return ax


def tuned(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    score: str = "loss",
    vectorize: bool = True,
) -> Tuned:
    """Train every arm at every lr with the same seeds, and choose each arm's best lr.

    An lr counts only if no seed was lost at it, that is if no run's loss became infinite. Of those
    the one with the lowest mean score wins. All runs are trained in one call of `train_runs`.

    Args:
        make_model: as in `train_runs`.
        data: as in `train_runs`; its test set is never looked at.
        arms: as in `train_runs`, but without `lr`. An arm may name its own `lrs`, as many as the
            others try, because its optimizer needs other ones.
        lrs: the grid of all other arms: at least two different numbers above 0.
        seeds: seeds to tune with; do not measure with the same ones.
        steps: number of optimizer updates of each run.
        batch_size: number of samples in each batch.
        score: "loss" is the final training loss (`Runs.final`); "held out" trains on three quarters
            of the training samples and takes the loss on the others.
        vectorize: as in `train_runs`.
    Returns:
        Tuned: `.arms` for the measurement, `.at_edge`, a table and a picture.
    Raises:
        ValueError: if an argument cannot be used, or an arm lost seeds at every lr.

    >>> from nbkit.lab.data import digits
    >>> from nbkit.lab.models import mlp
    >>> arms = {"plain": {}, "momentum": {"momentum": 0.9}}
    >>> found = tuned(mlp, digits(), arms, [1e-4, 0.1], range(100, 102), steps=50, batch_size=64)
    >>> found.lrs, found.at_edge
    ({'plain': 0.1, 'momentum': 0.1}, ['plain', 'momentum'])
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    grids = _read_grids(arms, lrs)

    # The held-out samples take the place of the test set, which is left out.
    tuning = data.hold_out() if score == "held out" else data
    trials = _list_trials(arms, grids)
    *_, runs = train_runs(
        make_model, tuning, trials, seeds, steps=steps, batch_size=batch_size, vectorize=vectorize
    )
    each = _score_runs(runs, tuning, score).reshape(len(arms), -1, len(seeds)).cpu()
    lost = (~each.isfinite()).sum(-1)  # (arms, lrs)
    # A lost seed has an infinite score, and so has the mean.
    return _choose_lrs(arms, grids, each.mean(-1), lost, score, list(seeds), steps)


def _read_grids(
    arms: Mapping[str, Mapping[str, Any]], lrs: Sequence[float]
) -> dict[str, list[float]]:
    """Return the lrs that each arm tries, in ascending order.

    Raises:
        ValueError: if there is no arm, an arm sets its lr, or a grid cannot be used.
    """
    if not arms:
        raise ValueError('arms must hold at least one, such as {"plain": {}}, got none.')
    shared = _check_grid("lrs", lrs)
    grids = {}
    for name, values in arms.items():
        if "lr" in values:
            raise ValueError(
                f"arm {name!r} sets lr={values['lr']}, which is what is tuned: leave it out. To "
                f"try other learning rates than the other arms do, name them in its lrs."
            )
        grid = _check_grid(f"arm {name!r}: lrs", values["lrs"]) if "lrs" in values else shared
        if len(grid) != len(shared):
            raise ValueError(
                f"arm {name!r} must try {len(shared)} lrs as the other arms do, got {len(grid)}: "
                f"with more trials, an arm wins by luck."
            )
        grids[name] = grid
    return grids


def _check_grid(what: str, lrs: Sequence[float]) -> list[float]:
    """Return the lrs in ascending order; refuse what is no grid."""
    numbers = []
    for lr in lrs:
        number = read_real(lr)
        if number is None or not 0 < number < math.inf:
            raise ValueError(f"{what} must be finite numbers above 0, got {lr!r}.")
        numbers.append(number)
    if len(set(numbers)) < max(2, len(numbers)):
        raise ValueError(f"{what} must hold at least two numbers, all different, got {numbers}.")
    return sorted(numbers)


def _fill_lr(values: Mapping[str, Any], lr: float) -> dict[str, Any]:
    """Return an arm for `train_runs`: the grid leaves it, and the lr comes in."""
    arm = {name: value for name, value in values.items() if name != "lrs"}
    return {"lr": lr, **arm}


def _list_trials(
    arms: Mapping[str, Mapping[str, Any]], grids: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Make an arm of each pair of an arm and an lr: arm after arm, and within it lr after lr."""
    trials = {}
    for name, values in arms.items():
        for lr in grids[name]:
            trials[f"{name}, lr {lr!r}"] = _fill_lr(values, lr)
    return trials


def _score_runs(runs: Runs, data: Data, score: str) -> Tensor:
    """Return the score of each run, (trials, seeds): lower is better, `inf` is lost."""
    if score == "held out":
        return runs.evaluate(data.x_test, data.y_test)[0]
    # A run that has diverged stays so: its last losses, and thus their mean, are infinite.
    return runs.final()


def _choose_lrs(
    arms: Mapping[str, Mapping[str, Any]],
    grids: dict[str, list[float]],
    scores: Tensor,
    lost: Tensor,
    score: str,
    seeds: list[int],
    steps: int,
) -> Tuned:
    """Choose the lr with the lowest score for each arm, the lower one of two that are equal."""
    lrs, at_edge = {}, []
    for row, (name, grid) in enumerate(grids.items()):
        if lost[row].all():
            raise ValueError(
                f"arm {name!r} lost seeds at every lr from {grid[0]:g} to {grid[-1]:g}: "
                f"{lost[row].tolist()} of {len(seeds)}. Try lower ones."
            )
        best = int(scores[row].argmin())
        lrs[name] = grid[best]
        if best in (0, len(grid) - 1):
            at_edge.append(name)
    filled = {name: _fill_lr(values, lrs[name]) for name, values in arms.items()}
    return Tuned(filled, lrs, at_edge, grids, scores, lost, score, seeds, steps)
