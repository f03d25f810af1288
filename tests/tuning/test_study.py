"""ask_configs: proposals by Optuna's ask and tell, and what the study learns from a report."""

import enum
import math
import random

import pytest
from tunings import Recorder

from nbkit import SearchRange, ask_configs, successive_halving

SPACE = {"k": SearchRange(0.1, 10, log=True), "norm": ["a", "b"]}


class State(enum.Enum):
    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3


class Direction(enum.Enum):
    MINIMIZE = 1
    MAXIMIZE = 2


class FakeTrial:
    def __init__(self, source):
        self.source, self.params, self.reported = source, {}, {}
        self.state, self.value = State.RUNNING, None

    def suggest_float(self, name, low, high, *, log=False):
        assert log == SPACE[name].log
        self.params[name] = low + (high - low) * self.source.random()
        return self.params[name]

    def suggest_categorical(self, name, choices):
        self.params[name] = choices[int(self.source.random() * len(choices))]
        return self.params[name]

    def report(self, value, step):
        self.reported[step] = value


class FakeStudy:
    """Random proposals behind the four names of optuna.Study that are used."""

    def __init__(self, seed=0):
        self.trials, self.direction, self.source = [], Direction.MINIMIZE, random.Random(seed)

    def ask(self):
        self.trials.append(FakeTrial(self.source))
        return self.trials[-1]

    def tell(self, trial, value=None, state=None):
        assert trial.state == State.RUNNING and (value is None) == (state is not None)
        trial.value, trial.state = value, state or State.COMPLETE


def loss(config, seed, update):
    """A third of the range is lost; the rest is the better the smaller k is."""
    return math.nan if config["k"] > 7 else config["k"]


def test_each_trial_is_told_what_it_has_shown_and_no_more():
    study = FakeStudy()
    asked = ask_configs(study, SPACE, 9)
    assert len(asked.configs) == 9 and all(
        list(config) == ["k", "norm"] for config in asked.configs
    )
    report = successive_halving(Recorder(loss), asked.configs, 9, fresh_seeds=())
    asked.tell(report)
    full, short = set(report.rungs[1].scores), set(report.rungs[0].scores)
    assert report.lost and short - full - set(report.lost)  # all three kinds are there
    for number, trial in enumerate(study.trials):
        score = asked.configs[number]["k"]
        if number in report.lost:
            assert (trial.state, trial.value, trial.reported) == (State.FAIL, None, {})
        elif number in full:
            assert (trial.state, trial.value) == (State.COMPLETE, score)
            assert trial.reported == {3: score, 9: score}
        else:
            # A loss of 3 updates is never told as one of 9.
            assert (trial.state, trial.value) == (State.PRUNED, None)
            assert trial.reported == {3: score}


def test_a_study_that_proposes_what_it_holds_is_stopped():
    # optuna#3255: a study that goes on with a sampler of the same seed repeats its trials.
    study = FakeStudy(seed=0)
    ask_configs(study, SPACE, 3)
    study.source = random.Random(0)
    with pytest.raises(ValueError, match=r"the study proposes \{'k': .*\} again"):
        ask_configs(study, SPACE, 3)
    assert [trial.state for trial in study.trials[3:]] == [State.FAIL]
    # With another seed it goes on.
    study.source = random.Random(1)
    assert len(ask_configs(study, SPACE, 3).configs) == 3


def test_what_was_pruned_is_not_proposed_again():
    # optuna#1647: a sampler may come back to a trial that was pruned.
    study = FakeStudy()
    space = {"norm": ["a", "b"]}
    (trial,) = ask_configs(study, space, 1).trials
    study.tell(trial, state=State.PRUNED)
    study.source.random = lambda: 0.0 if trial.params["norm"] == "a" else 0.9
    with pytest.raises(ValueError, match="again"):
        ask_configs(study, space, 1)


def test_after_an_interrupt_no_trial_is_left_running():
    study = FakeStudy()

    def interrupt():
        if len(study.trials) == 4:
            raise KeyboardInterrupt
        return FakeStudy.ask(study)

    study.ask = interrupt
    with pytest.raises(KeyboardInterrupt):
        ask_configs(study, SPACE, 9)
    assert [trial.state for trial in study.trials] == [State.FAIL] * 4


def test_a_report_of_other_configurations_is_refused():
    study = FakeStudy()
    asked, other = ask_configs(study, SPACE, 3), ask_configs(study, SPACE, 3)
    report = successive_halving(Recorder(loss), other.configs, 9, fresh_seeds=())
    with pytest.raises(ValueError, match="the report is of 3 other configurations"):
        asked.tell(report)
    assert {trial.state for trial in study.trials} == {State.RUNNING}


def test_what_is_no_study_is_refused():
    with pytest.raises(TypeError, match="must be an optuna.Study, got a dict without 'ask'"):
        ask_configs({}, SPACE, 3)
    study = FakeStudy()
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        ask_configs(study, SPACE, 0)
    study.direction = Direction.MAXIMIZE
    with pytest.raises(ValueError, match="the study must minimise"):
        ask_configs(study, SPACE, 3)
    assert study.trials == []


@pytest.fixture
def optuna():
    found = pytest.importorskip("optuna", reason='pip install "nbkit[tuning]"')
    found.logging.set_verbosity(found.logging.ERROR)
    return found


def count_states(study):
    names = [trial.state.name for trial in study.trials]
    return {name: names.count(name) for name in set(names)}


def test_optunas_tpe_learns_from_the_reports(optuna):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    space = {"k": SearchRange(0.01, 100, log=True), "norm": ["a", "b"]}
    for _ in range(4):
        asked = ask_configs(study, space, 9)
        train = Recorder(lambda config, seed, update: abs(math.log(config["k"])))
        report = successive_halving(train, asked.configs, 9, fresh_seeds=(), space=space)
        asked.tell(report)
    assert count_states(study) == {"COMPLETE": 12, "PRUNED": 24}
    assert study.best_value == min(report.loss, study.best_value)
    # The median proposal of the last round is nearer to the planted 1 than that of the first one.
    distances = [abs(math.log(trial.params["k"])) for trial in study.trials]
    assert sorted(distances[27:])[4] < sorted(distances[:9])[4]


def test_optuna_counts_a_lost_trial_as_failed(optuna):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = ask_configs(study, SPACE, 27)
    report = successive_halving(Recorder(loss), asked.configs, 27, fresh_seeds=())
    asked.tell(report)
    assert count_states(study)["FAIL"] == len(report.lost) > 0
    assert study.best_params == report.best and study.best_value == report.loss


def test_optuna_repeats_itself_when_it_goes_on_and_that_is_refused(optuna):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ask_configs(study, SPACE, 3)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    with pytest.raises(ValueError, match="again"):
        ask_configs(study, SPACE, 3)
