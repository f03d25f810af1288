"""Let a sampler of Optuna propose the configurations, by its ask-and-tell interface.

Nothing is imported: the study is the caller's, and its methods are enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbkit.base.numbers import read_integer
from nbkit.tuning.report import TuneReport
from nbkit.tuning.space import SearchRange, Space, check_space


@dataclass(frozen=True)
class AskedConfigs:
    """What a study has proposed: `configs` for `successive_halving`, whose report goes to `tell`.

    Attributes:
        configs: the configurations.
        trials: the study's trial of each configuration.
        study: the study that was asked.
    """

    configs: list[dict[str, object]]
    trials: list[Any]
    study: Any

    def tell(self, report: TuneReport) -> None:
        """Tell the study what each configuration has shown, so that its sampler can learn from it.

        A configuration that was trained to the full length is complete, with its score. One that
        was lost has failed. One that was stopped at a rung is pruned, with its scores at the
        updates where they were measured: a loss of a short training is never told as one of a full
        training.

        Raises:
            ValueError: if the report belongs to other configurations; nothing has been told.
        """
        if list(report.configs) != self.configs:
            raise ValueError(
                f"the report is of {len(report.configs)} other configurations. Give the one that "
                f"successive_halving returned for these {len(self.configs)}."
            )
        states = _find_states(self.study)
        full = report.rungs[-1].updates
        for number, trial in enumerate(self.trials):
            # The trial reports the rungs that it has reached.
            reached, score = 0, math.inf
            for rung in report.rungs:
                if number in rung.scores:
                    reached, score = rung.updates, rung.scores[number]
                    if math.isfinite(score):
                        trial.report(score, reached)
            if not math.isfinite(score):
                self.study.tell(trial, state=states.FAIL)
            elif reached == full:
                self.study.tell(trial, score)
            else:
                self.study.tell(trial, state=states.PRUNED)


def ask_configs(study: Any, space: Space, n: int) -> AskedConfigs:
    """Ask a study of Optuna for configurations that it does not hold yet.

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        for _ in range(4):
            asked = ask_configs(study, space, 9)
            report = successive_halving(train, asked.configs, 150, space=space)
            asked.tell(report)

    Args:
        study: an `optuna.Study` that minimises one value (`pip install "nbkit[tuning]"`), or an
            object with the same `ask`, `tell`, `trials` and `direction`.
        space: as in `sample_configs`. Lists may hold None, bools, numbers and text.
        n: how many configurations to ask for, >= 1. A sampler learns between two calls only.
    Raises:
        TypeError: if `study` is no study.
        ValueError: if it maximises, or if it proposes a configuration that it holds already; what
            this call had asked for is then marked as failed.

    A study that is loaded and goes on with a sampler of the same seed proposes its trials again
    (optuna#3255), and so may a sampler after pruned trials (optuna#1647). That costs a training
    each time, so it is an error here.
    """
    for name in ("ask", "tell", "trials", "direction"):
        if not hasattr(study, name):
            raise TypeError(
                f"study must be an optuna.Study, got a {type(study).__name__} without {name!r}. "
                f"Make one by optuna.create_study(sampler=...)."
            )
    if getattr(study.direction, "name", "") != "MINIMIZE":
        raise ValueError(f"the study must minimise, as a loss is told; it has {study.direction}.")
    check_space(space)
    count = read_integer(n)
    if count is None or count < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}.")

    known = [dict(trial.params) for trial in study.trials]
    trials: list[Any] = []
    configs: list[dict[str, object]] = []
    try:
        while len(configs) < count:
            trials.append(study.ask())
            config = _suggest_values(trials[-1], space)
            _refuse_repeat(config, [*known, *configs])
            configs.append(config)
    except BaseException:
        # Without this they would stay "running" in the study for ever.
        for trial in trials:
            study.tell(trial, state=_find_states(study).FAIL)
        raise
    return AskedConfigs(configs, trials, study)


def _suggest_values(trial: Any, space: Space) -> dict[str, object]:
    config: dict[str, object] = {}
    for name, setting in space.items():
        if isinstance(setting, SearchRange):
            value = trial.suggest_float(name, setting.low, setting.high, log=setting.log)
        else:
            value = trial.suggest_categorical(name, list(setting))
        config[name] = value
    return config


def _refuse_repeat(config: dict[str, object], known: Sequence[dict[str, object]]) -> None:
    if config in known:
        raise ValueError(
            f"the study proposes {config} again. A study that goes on needs a sampler with another "
            f"seed than before; a space of lists may be exhausted: ask for fewer."
        )


def _find_states(study: Any) -> Any:
    """Return Optuna's enum of trial states, which the study's own trials carry."""
    return type(study.trials[-1].state)
