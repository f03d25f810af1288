"""The report about the BatchNorm layers of a model: gaps, verdicts and advice."""

from __future__ import annotations

from dataclasses import dataclass

from nbkit.base.report import Report, Word

NO_STATISTICS_ADVICE = (
    "It has no running statistics (track_running_stats=False) and normalises by the batch at "
    "hand, in eval mode too. Build it with track_running_stats=True if predictions must not "
    "depend on their batch."
)


class BNVerdict(Word):
    """Name the state of one BatchNorm layer."""

    FRESH = "fresh"
    STALE = "stale"
    TOO_FEW_STEPS = "too few steps"
    BATCH_TOO_SMALL = "batch too small"
    FROZEN = "frozen"
    POISONED = "poisoned"
    NOT_FINITE = "not finite"
    NO_STATISTICS = "no statistics"
    NOT_CALLED = "not called"
    ESTIMATED = "estimated"


@dataclass
class BNLayer:
    """Describe one BatchNorm layer; a gap is a root mean square over channels, None if unknown.

    Attributes:
        name: name of the layer in the model.
        mean_gap: distance between two means, in standard deviations.
        var_gap: distance between two variances, as |log(ratio)|: 0.69 is a factor of two.
        verdict: a code, such as BNVerdict.STALE.
        advice: a sentence about the reason and what to do; empty if there is nothing to do.
    """

    name: str
    mean_gap: float | None
    var_gap: float | None
    verdict: BNVerdict
    advice: str = ""


@dataclass
class BNReport(Report):
    """Report on the BatchNorm layers of a model, in order.

    Attributes:
        layers: one entry per layer.
        output_gap: norm of the difference between the outputs in train and in eval mode, divided by
            the norm of the former; None if it was not measured.
    """

    layers: list[BNLayer]
    output_gap: float | None = None

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[object, ...]]]:
        """Return a summary, the names of the columns, and one row per layer."""
        rows: list[tuple[object, ...]] = []
        for layer in self.layers:
            rows.append((layer.name, layer.mean_gap, layer.var_gap, layer.verdict, layer.advice))
        summary = f"{len(rows)} BatchNorm layers" if rows else "no BatchNorm layer in this model"
        if self.output_gap is not None:
            summary += f"; outputs in train and eval mode differ by {self.output_gap:.1%}"
        return summary, ("layer", "mean_gap", "var_gap", "verdict", "advice"), rows
