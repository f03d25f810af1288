"""The report of a search: the best configuration, what it cost, and what it is worth elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbkit.base.report import Report, ensure_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class HalvingRung:
    """What one rung has shown.

    Attributes:
        updates: the update at which the configurations were compared.
        scores: index of a configuration -> mean score over the tuning seeds; `inf` if it was lost.
        promoted: the indices that went on, the best first; in the last rung, the winner.
        steps: how many updates were made in this rung, over all configurations and seeds.
    """

    updates: int
    scores: Mapping[int, float]
    promoted: tuple[int, ...]
    steps: int

    @property
    def lost(self) -> tuple[int, ...]:
        """Return the configurations that lost a run."""
        return tuple(number for number, score in self.scores.items() if math.isinf(score))


@dataclass(frozen=True)
class TuneReport(Report):
    """Report what a search has found.

    Attributes:
        best: the winning configuration.
        best_index: its index in `configs`.
        loss: its score when it was chosen, on the tuning seeds. The lowest of many noisy scores is
            too low on average.
        fresh: seed -> score of a new training of it with seeds that chose nothing; `inf` if lost.
        steps: how many updates the search made.
        fresh_steps: how many updates the trainings with fresh seeds made.
        at_edge: setting -> "lowest" or "highest", if the best value lies at an edge of the space: a
            better one may lie beyond.
        rungs: what each rung has shown.
        configs: everything that was tried.
        seeds: the tuning seeds.
    """

    best: dict[str, object]
    best_index: int
    loss: float
    fresh: dict[int, float]
    steps: int
    fresh_steps: int
    at_edge: dict[str, str]
    rungs: tuple[HalvingRung, ...]
    configs: tuple[dict[str, object], ...]
    seeds: tuple[int, ...]

    @property
    def fresh_loss(self) -> float:
        """Return the mean score on the fresh seeds; `inf` if one is lost, NaN if there are none."""
        if not self.fresh:
            return math.nan
        return sum(self.fresh.values()) / len(self.fresh)

    @property
    def lost(self) -> tuple[int, ...]:
        """Return the indices of the configurations that lost a run in the search."""
        numbers: list[int] = []
        for rung in self.rungs:
            numbers += rung.lost
        return tuple(sorted(numbers))

    def to_dict(self) -> dict[str, object]:
        """Return every field and the mean on fresh seeds as plain JSON; `inf` and NaN are None."""
        fresh_loss = self.fresh_loss
        told = super().to_dict()
        told["fresh_loss"] = fresh_loss if math.isfinite(fresh_loss) else None
        return told

    def table(self) -> tuple[str, tuple[str, ...], list[list[object]]]:
        """Return a line about the winner and the cost, and a row for each rung."""
        settings = []
        for name, value in self.best.items():
            number = f"{value:.3g}" if isinstance(value, float) else str(value)
            edge = f" (at the edge: {self.at_edge[name]})" if name in self.at_edge else ""
            settings.append(f"{name}={number}{edge}")
        summary = (
            f"best of {len(self.configs)}: {', '.join(settings)}; loss {self.loss:.3g} when "
            f"chosen, {self._describe_fresh()}; {self.steps} steps, "
            f"and {self.fresh_steps} on fresh seeds"
        )
        rows: list[list[object]] = []
        for rung in self.rungs:
            best = min(rung.scores.values())
            tried, lost = len(rung.scores), len(rung.lost)
            rows.append([rung.updates, tried, lost, len(rung.promoted), best, rung.steps])
        columns = ("up to update", "configs", "lost", "promoted", "best loss", "steps")
        return summary, columns, rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each configuration's score at its rungs, the winner's, and its fresh seeds'."""
        ax = ensure_axes(ax)
        for number in range(len(self.configs)):
            updates, scores = self._list_scores(number)
            if number != self.best_index:
                ax.plot(updates, scores, ".-", color="#767676", linewidth=0.8)
        # Drawn last, so that no other line covers it.
        updates, scores = self._list_scores(self.best_index)
        ax.plot(updates, scores, "o-", color="#D55E00", label="winner, when chosen")
        fresh = [score for score in self.fresh.values() if math.isfinite(score)]
        if fresh:
            full = [self.rungs[-1].updates] * len(fresh)
            ax.plot(full, fresh, "x", color="#0072B2", label="winner, fresh seeds")
        ax.legend()
        ax.set(xlabel="update", ylabel="loss")
        ax.set_title(f"best of {len(self.configs)} in {self.steps} steps; {len(self.lost)} lost")
        return ax

    def _describe_fresh(self) -> str:
        if not self.fresh:
            return "not measured on fresh seeds"
        lost = sum(not math.isfinite(score) for score in self.fresh.values())
        if lost:
            return f"{lost} of {len(self.fresh)} fresh seeds lost"
        seeds = "1 fresh seed" if len(self.fresh) == 1 else f"{len(self.fresh)} fresh seeds"
        return f"{self.fresh_loss:.3g} on {seeds}"

    def _list_scores(self, number: int) -> tuple[list[int], list[float]]:
        """Return the updates at which a configuration was compared, and its finite scores there."""
        updates: list[int] = []
        scores: list[float] = []
        for rung in self.rungs:
            score = rung.scores.get(number, math.inf)
            if math.isfinite(score):
                updates.append(rung.updates)
                scores.append(score)
        return updates, scores
