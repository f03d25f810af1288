"""successive_halving: finds what is planted, counts every step, and closes what it opened."""

import math
import random

import pytest
import torch
from exits import exit_name, leaving
from tunings import Recorder, train_badly, train_line, train_with_global_numbers

from nbkit import digest, successive_halving
from nbkit.tuning import plan_rungs


def numbered(n):
    return [{"k": k} for k in range(n)]


def closed_form_cost(n, updates, eta):
    """Steps of a search without lost runs, from the definition: every rung adds its own length."""
    sizes = [n]
    while sizes[-1] > eta:
        sizes.append(-(-sizes[-1] // eta))
    lengths = [updates // eta**k for k in reversed(range(len(sizes)))]
    assert lengths[0] >= 1
    cost, before = 0, 0
    for size, length in zip(sizes, lengths, strict=True):
        cost += size * (length - before)
        before = length
    return cost


@pytest.mark.parametrize(
    "n, eta", [(27, 3), (9, 3), (10, 3), (8, 2), (5, 4), (3, 3), (2, 3), (1, 3)]
)
@pytest.mark.parametrize("seeds", [(100,), (100, 107)])
def test_the_planted_best_is_found_and_every_step_is_counted(n, eta, seeds):
    best = 7 * n // 9
    train = Recorder(lambda config, seed, update: 1 + abs(config["k"] - best) + seed / 1000)
    report = successive_halving(train, numbered(n), 64, eta=eta, seeds=seeds, fresh_seeds=())
    assert report.best == {"k": best} and report.best_index == best
    assert report.steps == len(seeds) * closed_form_cost(n, 64, eta)
    assert report.steps == sum(train.made.values()) == sum(rung.steps for rung in report.rungs)
    assert report.loss == pytest.approx(1 + sum(seeds) / len(seeds) / 1000)
    # Each was started once: nothing was trained again from its start.
    assert len(train.started) == len(set(train.started)) == n * len(seeds)


def test_the_plan_is_what_is_paid():
    train = Recorder(lambda config, seed, update: config["k"])
    report = successive_halving(train, numbered(20), 50, min_updates=7, fresh_seeds=())
    plan = plan_rungs(20, 50, min_updates=7)
    assert [rung.steps for rung in report.rungs] == [rung.steps for rung in plan]
    assert [rung.updates for rung in report.rungs] == [rung.updates for rung in plan]
    assert [len(rung.scores) for rung in report.rungs] == [rung.configs for rung in plan]


def test_the_best_of_each_rung_go_on_and_the_winner_is_trained_to_the_end():
    # Each configuration is best at one time: at update 4 the order is 0, 1, 2, ...
    train = Recorder(lambda config, seed, update: config["k"])
    report = successive_halving(train, numbered(9), 12, fresh_seeds=())
    assert [rung.promoted for rung in report.rungs] == [(0, 1, 2), (0,)]
    assert train.made == {(k, 100): 12 if k < 3 else 4 for k in range(9)}


def slow_starter(config, seed, update):
    """Number 0 is the worst up to update 9, and then the best; the others do not change."""
    if config["k"] == 0:
        return 100.0 if update <= 9 else 0.0
    return float(config["k"])


def test_a_slow_starter_wins_only_if_the_shortest_rung_lets_it():
    lost = successive_halving(Recorder(slow_starter), numbered(9), 27, fresh_seeds=())
    won = successive_halving(
        Recorder(slow_starter), numbered(9), 27, min_updates=10, fresh_seeds=()
    )
    assert [rung.updates for rung in lost.rungs] == [9, 27] and lost.best == {"k": 1}
    assert [rung.updates for rung in won.rungs] == [27] and won.best == {"k": 0}


def test_of_equal_configurations_the_earlier_ones_go_on():
    report = successive_halving(Recorder(lambda *_: 1.0), numbered(9), 9, fresh_seeds=())
    assert report.rungs[0].promoted == (0, 1, 2) and report.best == {"k": 0}


def test_the_mean_over_the_seeds_decides():
    # On seed 100 number 0 is the best, on the mean of both number 1.
    losses = {(0, 100): 0.0, (0, 101): 9.0, (1, 100): 2.0, (1, 101): 2.0}
    train = Recorder(lambda config, seed, update: losses[config["k"], seed])
    report = successive_halving(train, numbered(2), 5, seeds=(100, 101), fresh_seeds=())
    assert report.best == {"k": 1} and report.loss == 2.0


@pytest.mark.parametrize("average, best", [(1, 0), (2, 1)])
def test_the_last_losses_are_averaged(average, best):
    # Number 0 ends low after a high loss; number 1 is the same all the time.
    flat = {0: [4.0, 0.0], 1: [1.0, 1.0]}
    train = Recorder(lambda config, seed, update: flat[config["k"]][(update - 1) % 2])
    report = successive_halving(train, numbered(2), 6, average=average, fresh_seeds=())
    assert report.best == {"k": best}


# -- lost runs


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_a_lost_run_stops_at_once_and_never_goes_on(bad):
    # Number 0 would be the best; it is lost at update 2 of the first rung, of 3 updates.
    train = Recorder(lambda config, seed, update: bad if config["k"] == 0 and update > 1 else 1.0)
    report = successive_halving(train, numbered(9), 9, fresh_seeds=())
    assert train.made[0, 100] == 2 and report.best == {"k": 1} and report.lost == (0,)
    assert report.rungs[0].lost == (0,) and report.rungs[0].scores[0] == math.inf
    assert report.steps == closed_form_cost(9, 9, 3) - 1 == sum(train.made.values())


def test_one_lost_seed_loses_the_configuration():
    train = Recorder(lambda config, seed, update: math.nan if (config["k"], seed) == (0, 5) else 1)
    report = successive_halving(train, numbered(2), 4, seeds=(5, 6), fresh_seeds=())
    assert report.best == {"k": 1} and report.lost == (0,)
    # The other seed of number 0 is not begun any more.
    assert train.made == {(0, 5): 1, (1, 5): 4, (1, 6): 4}


def test_fewer_than_there_are_places_may_be_left():
    train = Recorder(lambda config, seed, update: 1.0 if config["k"] == 4 else math.nan)
    report = successive_halving(train, numbered(9), 9, fresh_seeds=())
    assert report.rungs[0].promoted == (4,) and train.made[4, 100] == 9
    assert report.steps == 8 + 9


def test_a_search_that_loses_everything_says_so():
    train = Recorder(lambda *_: math.nan)
    with pytest.raises(ValueError, match="every configuration was lost by update 3: 9 of 9"):
        successive_halving(train, numbered(9), 9)
    assert not train.open


def test_a_fresh_seed_may_be_lost():
    train = Recorder(lambda config, seed, update: math.nan if seed == 1 else 1.0)
    report = successive_halving(train, numbered(2), 4, fresh_seeds=(0, 1))
    assert report.fresh == {0: 1.0, 1: math.inf} and report.fresh_loss == math.inf
    assert report.fresh_steps == 4 + 1 and "1 of 2 fresh seeds lost" in str(report)
    assert report.to_dict()["fresh_loss"] is None


# -- fresh seeds


def test_the_winner_is_trained_anew_with_seeds_that_chose_nothing():
    train = Recorder(lambda config, seed, update: config["k"] + seed / 100)
    report = successive_halving(train, numbered(9), 9, seeds=(50, 51), fresh_seeds=(1, 2, 3))
    # Three trainings more, of the winner alone, each from its start to the full length.
    assert train.started[18:] == [(0, 1), (0, 2), (0, 3)] and len(train.started) == 21
    assert [train.made[0, seed] for seed in (1, 2, 3)] == [9, 9, 9]
    assert report.fresh == {1: 0.01, 2: 0.02, 3: 0.03} and report.fresh_steps == 27
    assert report.fresh_loss == pytest.approx(0.02) and report.loss == pytest.approx(0.505)
    assert {seed for _, seed in train.started[:18]} == {50, 51}


def test_what_was_chosen_on_luck_is_worth_less_on_fresh_seeds():
    # All configurations are the same: what differs is noise, so the lowest was lucky.
    def noise(config, seed, update):
        return random.Random(f"{config} {seed}").gauss(0, 1)

    seeds = range(100)
    report = successive_halving(Recorder(noise), numbered(27), 27, fresh_seeds=seeds, seeds=(200,))
    assert report.loss < -1 and report.fresh_loss == pytest.approx(0, abs=4 / len(seeds) ** 0.5)


def test_a_seed_that_chose_cannot_measure():
    with pytest.raises(ValueError, match=r"seeds and fresh_seeds share \[1\]"):
        successive_halving(
            Recorder(lambda *_: 1.0), numbered(2), 4, seeds=(1, 5), fresh_seeds=(0, 1)
        )
    defaults = successive_halving(Recorder(lambda *_: 1.0), numbered(2), 4)
    assert not set(defaults.seeds) & set(defaults.fresh)


# -- what train may yield


class Step:
    def __init__(self, loss):
        self.loss = loss


def with_graph(loss):
    return torch.tensor(loss, requires_grad=True) * 1


@pytest.mark.parametrize(
    "wrap",
    [
        float,
        torch.tensor,
        with_graph,
        Step,
        lambda loss: Step(torch.tensor(loss)),
        lambda loss: lambda: loss,
    ],
    ids=["float", "tensor", "tensor with its graph", "step", "step of a tensor", "function"],
)
def test_a_loss_may_come_as(wrap):
    train = Recorder(lambda config, seed, update: wrap(float(abs(config["k"] - 4))))
    report = successive_halving(train, numbered(9), 9)
    assert report.best == {"k": 4} and report.loss == 0.0 and report.fresh_loss == 0.0


def test_a_function_is_called_only_where_its_value_is_needed():
    called = []

    def loss(config, seed, update):
        return lambda: called.append((config["k"], update)) or float(config["k"])

    successive_halving(Recorder(loss), numbered(9), 18, average=2, fresh_seeds=())
    first = [(k, update) for k in range(9) for update in (5, 6)]
    assert called == first + [(k, update) for k in range(3) for update in (17, 18)]


def test_the_loop_of_the_lab_is_such_a_generator():
    from nbkit.lab.runs.training import train as train_steps

    def train(config, seed):
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
        x = torch.randn(32, 3)
        batches = [(x, x.sum(1, keepdim=True))]
        yield from train_steps(model, batches, optimizer, torch.nn.functional.mse_loss, steps=30)

    report = successive_halving(train, [{"lr": lr} for lr in (1e-4, 1e-3, 0.1, 1e-2)], 30)
    assert report.best == {"lr": 0.1}


@pytest.mark.parametrize("bad", ["0.1", None, torch.ones(2), True])
def test_what_is_no_loss_is_refused(bad):
    train = Recorder(lambda config, seed, update: bad)
    with pytest.raises(TypeError, match=r"train\(\{'k': 0\}, seed=100\) yielded"):
        successive_halving(train, numbered(2), 4)
    assert not train.open


# -- the random state


def test_a_run_does_not_depend_on_the_others():
    configs = [{"lr": float(k)} for k in range(9)]
    together = successive_halving(train_with_global_numbers, configs, 9, fresh_seeds=())
    for number in together.rungs[-1].scores:
        alone = successive_halving(train_with_global_numbers, [configs[number]], 9, fresh_seeds=())
        assert alone.loss == together.rungs[-1].scores[number]


def test_the_global_generators_are_seeded_with_the_seed():
    (config,) = [{"lr": 0.0}]
    report = successive_halving(train_with_global_numbers, [config], 5, seeds=(3,), fresh_seeds=())
    torch.manual_seed(3)
    source = random.Random(3)
    expected = sum(torch.rand(()).item() for _ in range(6)) + sum(source.random() for _ in range(5))
    assert report.loss == pytest.approx(expected, abs=1e-12)


def test_the_same_search_gives_the_same_report():
    configs = [{"lr": 0.01 * 2**k} for k in range(9)]
    torch.manual_seed(0)
    first = successive_halving(train_with_global_numbers, configs, 9)
    torch.manual_seed(1)
    assert successive_halving(train_with_global_numbers, configs, 9) == first


# -- every way out


@pytest.mark.parametrize("way_out", (KeyboardInterrupt, SystemExit, GeneratorExit), ids=exit_name)
@pytest.mark.parametrize("where", ["a generator", "a function that it yields", "a fresh seed"])
def test_every_generator_is_closed_and_the_random_state_is_back(way_out, where):
    before = digest()
    with leaving(way_out) as leave:

        def loss(config, seed, update):
            torch.rand(1), random.random()
            is_here = config["k"] == 4 and update == 3 and seed == 100
            if where == "a fresh seed":
                is_here = seed == 1 and update == 5
            if is_here and where == "a function that it yields":
                return leave
            if is_here:
                leave()
            return abs(config["k"] - 1.0)

        train = Recorder(loss)
        successive_halving(train, numbered(9), 9)
    assert train.started and not train.open
    assert digest() == before


def test_every_generator_is_closed_and_the_random_state_is_back_after_a_search():
    before = digest()
    train = Recorder(lambda config, seed, update: config["k"] + torch.rand(()).item())
    successive_halving(train, numbered(9), 9)
    assert len(train.started) == 12 and not train.open
    assert digest() == before


def test_an_exception_names_the_configuration_and_closes_everything():
    opened = []

    def train(config, seed):
        losses = train_badly(config, seed)
        opened.append(losses)
        yield from losses

    before = digest()
    with pytest.raises(RuntimeError) as caught:
        successive_halving(train, [{"lr": 0.1}, {"lr": 0.5}, {"lr": 0.9}], 9)
    text = "train({'lr': 0.5}, seed=100) failed at update 3: ArithmeticError: a planted fault"
    assert str(caught.value) == text and isinstance(caught.value.__cause__, ArithmeticError)
    assert len(opened) == 2 and all(losses.gi_frame is None for losses in opened)
    assert digest() == before


def test_an_exception_in_a_yielded_function_names_the_configuration():
    train = Recorder(lambda config, seed, update: lambda: 1 / config["k"])
    with pytest.raises(RuntimeError, match=r"train\(\{'k': 0\}, seed=100\) failed at update 4"):
        successive_halving(train, numbered(2), 4)
    assert not train.open


def test_a_generator_that_ends_early_is_an_error():
    train = Recorder(lambda *_: 1.0, length=5)
    with pytest.raises(RuntimeError, match=r"ended after 5 updates, expected at least 9"):
        successive_halving(train, numbered(9), 9)
    assert not train.open
    successive_halving(Recorder(lambda *_: 1.0, length=9), numbered(9), 9)


def test_what_does_not_go_on_is_closed_at_its_rung():
    alive = []

    def loss(config, seed, update):
        alive.append((update, len(train.open)))
        return float(config["k"])

    train = Recorder(loss)
    successive_halving(train, numbered(9), 9, fresh_seeds=())
    assert {count for update, count in alive if update > 3} == {3}


def test_a_generator_that_fails_while_it_is_closed_leaves_no_other_open():
    closed = []

    def train(config, seed):
        try:
            while True:
                yield float(config["k"])
        finally:
            closed.append(config["k"])
            if config["k"] == 5:
                raise OSError("the log is gone")

    with pytest.raises(OSError, match="the log is gone"):
        successive_halving(train, numbered(9), 9)
    assert sorted(closed) == list(range(9))


def test_iterators_that_are_no_generators_will_do():
    report = successive_halving(lambda config, seed: [config["k"]] * 9, numbered(9)[::-1], 9)
    assert report.best == {"k": 0}


# -- arguments


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"configs": []}, ValueError, "configs must hold at least one configuration, got none"),
        ({"configs": [{"k": 1}, 3]}, TypeError, r"configs\[1\] must be a dict of settings.* got 3"),
        ({"configs": [{}]}, TypeError, r"configs\[0\] must be a dict of settings"),
        (
            {"configs": [{"a": 1, "b": 2}, {"a": 2}, {"b": 2, "a": 1}]},
            ValueError,
            r"configs\[0\] and configs\[2\] are equal",
        ),
        ({"updates": 0}, ValueError, "updates must be an integer of at least 1, got 0"),
        ({"updates": 9.0}, ValueError, "updates must be an integer of at least 1, got 9.0"),
        ({"eta": 1}, ValueError, "eta must be an integer of at least 2, got 1"),
        ({"min_updates": 0}, ValueError, "min_updates must be an integer of at least 1, got 0"),
        ({"min_updates": 10}, ValueError, "min_updates must be at most updates, .* of 9, got 10"),
        ({"seeds": ()}, ValueError, "seeds must hold at least one seed, got none"),
        ({"seeds": (100, 100)}, ValueError, "seeds must be different integers"),
        ({"fresh_seeds": (0.5,)}, ValueError, "fresh_seeds must be different integers"),
        ({"average": 0}, ValueError, "average must be an integer from 1 to 3"),
        ({"average": 4}, ValueError, "average must be an integer from 1 to 3.* got 4"),
        ({"space": {}}, ValueError, "space must name at least one setting"),
        ({"executor": 3}, TypeError, "executor must have a method `submit`.* got a int"),
    ],
)
def test_arguments_are_checked_before_anything_is_trained(change, error, message):
    train = Recorder(lambda *_: 1.0)
    arguments = {"train": train, "configs": numbered(9), "updates": 9, **change}
    with pytest.raises(error, match=message):
        successive_halving(**arguments)
    assert train.started == []


def test_the_configurations_stay_the_callers():
    configs = numbered(3)
    report = successive_halving(Recorder(lambda *_: 1.0), configs, 3)
    report.best["k"] = "changed"
    assert configs == numbered(3)


def test_a_real_training_is_tuned():
    configs = [{"lr": 10.0**power} for power in (-4, -3, -2, -1, 0, 1)]
    report = successive_halving(train_line, configs, 60, seeds=(100, 101))
    # With lr 10 each update multiplies the error by 1 - 20 x'x / n: the float overflows.
    assert report.best == {"lr": 0.1} and 5 in report.lost
    assert report.fresh_loss < 1e-3
