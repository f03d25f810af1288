"""Provide what experiments and lessons need on top of the techniques.

A notebook imports everything from here: `from nbkit.lab import Lesson, digits`. A name is looked up
in its module when it is first used, so that the command line need not load matplotlib.
"""

from importlib import import_module
from typing import Any

# For each public name, the module under `nbkit.lab` that defines it.
_HOMES = {
    "Lesson": "lesson",
    "Answer": "answers",
    "Exercise": "exercise",
    "load_exercise": "exercise",
    "KnobError": "knobs",
    "between": "knobs",
    "choice": "knobs",
    "curve": "curve_knob",
    "flag": "knobs",
    "log": "knobs",
    "Data": "data",
    "digits": "data",
    "load_data": "data",
    "signals": "signal_data",
    "mlp": "models",
    "examine": "doctor",
    "Runs": "runs.seeds",
    "train_runs": "runs.seeds",
    "train": "runs.training",
    "one_thread": "runs.training",
    "one_cycle": "runs.schedules",
    "stack": "runs.stacking",
    "Tuned": "runs.tuned",
    "tuned": "runs.tuned",
    "Claim": "evidence.claims",
    "Verdict": "evidence.verdicts",
    "judge": "evidence.verdicts",
    "Interval": "evidence.intervals",
    "compare_losses": "evidence.comparisons",
    "first_step": "evidence.comparisons",
    "mean_interval": "evidence.stats",
    "paired_difference": "evidence.stats",
    "paired_ratio": "evidence.stats",
    "accuracy_interval": "evidence.proportions",
    "proportion": "evidence.proportions",
    "proportion_difference": "evidence.proportions",
    "Explorer": "live.explorer",
    "explore": "live.explorer",
    "show": "live.explorer",
    "is_live": "live.is_live",
    "MemoryReport": "cost.memory",
    "memory_report": "cost.memory",
    "Timing": "cost.timing",
    "time_it": "cost.timing",
    "flops": "cost.flops",
}

__all__ = sorted([*_HOMES, "plots"])  # plots is a module: `plots.grid(...)`


def __getattr__(name: str) -> Any:
    # Python calls this for a name that the module does not have yet.
    if name not in _HOMES:
        raise AttributeError(f"module 'nbkit.lab' has no attribute {name!r}")
    # import_module is cached: a second look-up costs a dict access.
    return getattr(import_module(f"nbkit.lab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
