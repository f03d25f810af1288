"""Find the best of many configurations without training all of them to the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nbkit.base.numbers import read_integer
from nbkit.tuning.report import HalvingRung, TuneReport
from nbkit.tuning.rungs import RungPlan, plan_rungs
from nbkit.tuning.space import Space, check_space, find_edges
from nbkit.tuning.trial import Config, Train, Trial, close_all, close_trials
from nbkit.tuning.workers import Advance, choose_workers


def successive_halving(
    train: Train,
    configs: Sequence[Config],
    updates: int,
    *,
    eta: int = 3,
    seeds: Sequence[int] = (100,),
    fresh_seeds: Sequence[int] = range(3),
    min_updates: int = 1,
    average: int = 1,
    space: Space | None = None,
    executor: Any = None,
) -> TuneReport:
    """Find the best configuration: train all a little, the best 1/eta of them on, and so forth.

    At the end of a rung every training is paused. The configurations with the lowest scores go on
    from where they are, and the others are closed. The score is the loss that `train` yielded last,
    averaged over the seeds. Of two that are equal the earlier one in `configs` is better. A
    configuration is lost, and never goes on, if one of its runs yields NaN or infinity; that run is
    stopped at once. The winner is then trained anew with fresh seeds, since its score when it was
    chosen is the lowest of many noisy ones.

    Args:
        train: called as `train(config, seed)`; returns a generator that makes one update and yields
            its loss, again and again. It yields a number, a tensor of shape () or an object with
            such a `loss`; or a function without arguments that returns one. A number is read after
            each update, which waits for a GPU. A function is called only where its value is needed:
            that suits a loss on held-out data. The generator may yield more often than `updates`.
        configs: different settings, each a dict; `sample_configs` draws them at random.
        updates: length of a full training, which only the last rung's configurations get.
        eta: of each rung the best 1 / eta go on, rounded up.
        seeds: the seeds that choose. More of them cost as many times the steps.
        fresh_seeds: the seeds that measure the winner, none of them in `seeds`; `()` measures
            nothing.
        min_updates: length of the shortest rung, at least. A configuration that starts slowly but
            ends best can win only if it is among the best 1 / eta there.
        average: number of last losses that are averaged for the score. Losses of single
            mini-batches are noisy: take 10 or more for these.
        space: what `configs` were drawn from; then `at_edge` knows its ends. See `find_edges`.
        executor: trains the configurations of a rung in parallel; None trains them in turn. See
            below.
    Returns:
        TuneReport: the winner, its loss when chosen and on fresh seeds, and every step that was
            made.
    Raises:
        RuntimeError: if a training raises or ends early; it names the configuration. Also if
            trainings in threads use the random state that they share.
        TypeError: if `train` yields something that is no loss, or an argument has a wrong type.
        ValueError: if an argument cannot be used, or every configuration is lost.

    Every generator is closed on every way out, Ctrl-C included. All generators of a rung are alive
    at once, so the first rung needs the memory of `len(configs) * len(seeds)` models.

    Each run has a random state: the global generators of torch, `random` and numpy are seeded with
    its seed, kept while it is paused, and the caller's are put back. So a run does not depend on
    the others, and a configuration that is trained alone with that seed gives the same losses.

    `executor` is any object with the `submit` of concurrent.futures; it stays open. The report is
    the one of a search without it, as far as `train` gives the same losses everywhere, but:
    *processes* (`ProcessPoolExecutor`, a dask client's `get_executor()`) cannot keep a generator
    paused. They train again from the start in each rung, and `steps` counts these steps too. Give
    dask workers one thread each, and draw from torch there: a worker's own thread uses `random`.
    *Threads* (`ThreadPoolExecutor`) keep generators, but share the global random state, so `train`
    must draw from generators of its own; using the global one is an error. After Ctrl-C, what has
    begun in another process runs to the end of its rung.

    Source: Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
    Optimization; with `eta` as in Li et al. 2018, Hyperband.

    >>> def train(config, seed):
    ...     for update in range(90):
    ...         yield abs(config["lr"] - 0.1) / (1 + update)
    >>> report = successive_halving(train, [{"lr": 0.01 * k} for k in range(1, 28)], 90)
    >>> report.best, report.steps, report.fresh_steps
    ({'lr': 0.1}, 630, 270)
    """
    tried = _read_configs(configs)
    plan = plan_rungs(len(tried), updates, eta=eta, min_updates=min_updates)
    tuning, fresh = _read_seeds(seeds, fresh_seeds)
    _check_rest(average, plan, space)
    advance = choose_workers(train, average, executor)

    trials = [Trial(number, config, tuning) for number, config in enumerate(tried)]
    with close_all(trials):
        rungs = _climb_rungs(advance, trials, plan)
    winner = rungs[-1].promoted[0]
    # New trainings from the start: the paused ones have seen the tuning seeds.
    again = [Trial(winner, tried[winner], (seed,)) for seed in fresh]
    with close_all(again):
        advance(again, updates)
    return TuneReport(
        best=tried[winner],
        best_index=winner,
        loss=rungs[-1].scores[winner],
        fresh={trial.seeds[0]: trial.score for trial in again},
        steps=sum(rung.steps for rung in rungs),
        fresh_steps=sum(trial.steps for trial in again),
        at_edge=find_edges(tried[winner], tried, space),
        rungs=tuple(rungs),
        configs=tuple(tried),
        seeds=tuning,
    )


def _climb_rungs(
    advance: Advance, trials: list[Trial], plan: Sequence[RungPlan]
) -> list[HalvingRung]:
    """Train rung after rung; close what does not go on."""
    rungs = []
    for position, rung in enumerate(plan):
        before = sum(trial.steps for trial in trials)
        advance(trials, rung.updates)
        steps = sum(trial.steps for trial in trials) - before
        # The last rung has one winner. Sorting keeps the order of equal scores.
        places = plan[position + 1].configs if position + 1 < len(plan) else 1
        alive = [trial for trial in trials if math.isfinite(trial.score)]
        promoted = sorted(alive, key=lambda trial: trial.score)[:places]
        scores = {trial.number: trial.score for trial in trials}
        numbers = tuple([trial.number for trial in promoted])
        rungs.append(HalvingRung(rung.updates, scores, numbers, steps))
        if not promoted:
            raise ValueError(
                f"every configuration was lost by update {rung.updates}: {len(trials)} of "
                f"{len(trials)} have yielded NaN or infinity. Try others, such as lower lrs."
            )
        close_trials([trial for trial in trials if trial not in promoted])
        trials = promoted
    return rungs


def _read_configs(configs: Sequence[Config]) -> list[dict[str, object]]:
    """Copy the configurations; refuse what is none, and one that comes twice."""
    tried: list[dict[str, object]] = []
    seen: dict[str, int] = {}
    for number, config in enumerate(configs):
        if not isinstance(config, Mapping) or not config:
            raise TypeError(
                f'configs[{number}] must be a dict of settings, such as {{"lr": 0.1}}, '
                f"got {config!r}."
            )
        # Their text is compared: the values may be anything, and a tensor's == is no bool.
        text = repr(sorted(config.items(), key=lambda item: str(item[0])))
        if text in seen:
            raise ValueError(
                f"configs[{seen[text]}] and configs[{number}] are equal: {dict(config)}. The "
                f"second one would be trained with the same seeds and show nothing new."
            )
        seen[text] = number
        tried.append(dict(config))
    if not tried:
        raise ValueError("configs must hold at least one configuration, got none.")
    return tried


def _read_seeds(
    seeds: Sequence[int], fresh_seeds: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return both lists of seeds; refuse what is no integer, comes twice, or stands in both."""
    lists = []
    for name, given in (("seeds", seeds), ("fresh_seeds", fresh_seeds)):
        numbers = []
        for seed in given:
            number = read_integer(seed)
            if number is None or number in numbers:
                raise ValueError(f"{name} must be different integers, got {list(given)}.")
            numbers.append(number)
        lists.append(tuple(numbers))
    tuning, fresh = lists
    if not tuning:
        raise ValueError("seeds must hold at least one seed, got none.")
    both = sorted(set(tuning) & set(fresh))
    if both:
        raise ValueError(
            f"seeds and fresh_seeds share {both}. A seed that has chosen the winner cannot measure "
            f"it: give other fresh_seeds, or () to measure nothing."
        )
    return tuning, fresh


def _check_rest(average: int, plan: Sequence[RungPlan], space: Space | None) -> None:
    """Refuse to average over more losses than the shortest rung has, and a space that is none."""
    if space is not None:
        check_space(space)
    number = read_integer(average)
    shortest = plan[0].updates
    if number is None or not 1 <= number <= shortest:
        raise ValueError(
            f"average must be an integer from 1 to {shortest}, the length of the shortest rung, "
            f"got {average!r}. A larger min_updates makes that rung longer."
        )
