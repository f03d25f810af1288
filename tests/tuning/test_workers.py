"""In parallel a search finds the same, to the last bit, and counts what was really trained."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from tunings import (
    Recorder,
    train_badly,
    train_line,
    train_with_global_numbers,
    train_with_torchs_numbers,
)

import nbkit
from nbkit import digest, successive_halving
from nbkit.tuning import workers

CONFIGS = [{"lr": 0.001 * 2**k} for k in range(9)]
SUPPORT = str(Path(__file__).parents[1] / "support")
ROOT = str(Path(nbkit.__file__).parents[1])


def search(train=train_line, executor=None, **more):
    return successive_halving(train, CONFIGS, 18, seeds=(100, 101), executor=executor, **more)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield pool


@pytest.fixture
def threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool


class Inline:
    """An executor that has nothing but `submit`, and runs a call at once, from its pickle."""

    def __init__(self):
        self.submitted = 0

    def submit(self, function, *arguments):
        self.submitted += 1
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_threads_give_the_report_of_the_serial_search(threads):
    assert search(executor=threads) == search()
    threads.submit(int).result()  # the executor is the caller's and stays open


@pytest.mark.parametrize("train", [train_line, train_with_global_numbers])
def test_processes_find_the_same_and_their_repeated_steps_are_counted(processes, train):
    here, there = search(train), search(train, processes)
    assert (there.best, there.loss, there.fresh) == (here.best, here.loss, here.fresh)
    for one, other in zip(here.rungs, there.rungs, strict=True):
        assert one.scores == other.scores and one.promoted == other.promoted
    # 9 configurations up to update 6, then the best 3 from the start to update 18; two seeds.
    assert here.steps == 2 * (9 * 6 + 3 * 12) and there.steps == 2 * (9 * 6 + 3 * 18)
    assert [rung.steps for rung in there.rungs] == [2 * 9 * 6, 2 * 3 * 18]
    assert here.fresh_steps == there.fresh_steps == 3 * 18
    assert processes.submit(int).result() == 0


def test_a_function_of_a_notebook_reaches_the_other_processes(processes):
    shift = 3

    def train(config, seed):  # a local function cannot be imported there
        while True:
            yield abs(config["lr"] - 0.004) + shift

    report = search(train, processes)
    assert report.best == {"lr": 0.004} and report.loss == 3


def test_any_object_with_submit_will_do():
    executor = Inline()
    assert search(executor=executor).best == search().best
    assert executor.submitted == 9 + 3 + 3


def test_an_error_in_another_process_names_the_configuration(processes):
    configs = [{"lr": 0.1}, {"lr": 0.5}, {"lr": 0.9}]
    text = "train({'lr': 0.5}, seed=100) failed at update 3: ArithmeticError: a planted fault"
    with pytest.raises(RuntimeError) as caught:
        successive_halving(train_badly, configs, 9, executor=processes)
    assert str(caught.value) == text


def test_what_another_process_makes_is_closed_there():
    # Inline calls here what another process would call, so that the generators can be looked at.
    train = Recorder(lambda config, seed, update: config["k"])
    configs = [{"k": k} for k in range(9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "pickle_value", lambda value, what: value)
        patch.setattr(workers.pickle, "loads", lambda value: value)
        report = successive_halving(train, configs, 9, executor=Inline())
    assert report.steps + report.fresh_steps == sum(train.made.values()) and not train.open
    assert report.steps == 9 * 3 + 3 * 9


def test_threads_refuse_a_training_that_draws_from_what_they_share(threads):
    before = digest()
    train = Recorder(lambda config, seed, update: torch.rand(()).item())
    with pytest.raises(RuntimeError, match="train uses the global random state"):
        successive_halving(train, [{"k": 0}, {"k": 1}], 4, executor=threads)
    assert not train.open and digest() == before


def test_after_an_error_in_a_thread_every_generator_is_closed(threads):
    def loss(config, seed, update):
        if config["k"] == 1 and update == 2:
            raise ArithmeticError("a planted fault")
        time.sleep(0.001)
        return 1.0

    train = Recorder(loss)
    with pytest.raises(RuntimeError, match=r"train\(\{'k': 1\}, seed=100\) failed at update 2"):
        successive_halving(train, [{"k": k} for k in range(6)], 10_000, executor=threads)
    assert not train.open
    # Those that were running have stopped long before their rung's end.
    assert max(train.made.values()) < 3_000


def test_ctrl_c_stops_the_threads_and_closes_every_generator(threads, monkeypatch):
    begun = threading.Event()

    def loss(config, seed, update):
        begun.set()
        time.sleep(0.001)
        return 1.0

    def press_ctrl_c(futures, return_when=None):
        if return_when is None:  # the wait after Ctrl-C
            return wait(futures)
        assert begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "wait", press_ctrl_c)
    train = Recorder(loss)
    with pytest.raises(KeyboardInterrupt):
        successive_halving(train, [{"k": k} for k in range(6)], 10_000, executor=threads)
    assert train.started and not train.open


def test_after_ctrl_c_what_has_not_begun_elsewhere_never_does():
    futures = []

    class Waiting:
        def submit(self, function, *arguments):
            futures.append(Future())
            if len(futures) == 9:
                futures[0].set_exception(KeyboardInterrupt())
            return futures[-1]

    with pytest.raises(KeyboardInterrupt):
        search(executor=Waiting())
    assert [future.cancelled() for future in futures] == [False] + [True] * 8


@pytest.fixture
def cluster(tmp_path):
    """The address of a dask scheduler with two workers, each a process with one thread."""
    pytest.importorskip("distributed", reason='dask is not installed: pip install "nbkit[cluster]"')
    path = os.pathsep.join([ROOT, SUPPORT, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    scheduler_file = tmp_path / "scheduler.json"
    common = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def start(*words):
        command = [sys.executable, "-m", "distributed.cli." + words[0], *map(str, words[1:])]
        return subprocess.Popen([*command, "--scheduler-file", scheduler_file], **common)

    local = ("--host", "127.0.0.1", "--no-dashboard")
    running = [start("dask_scheduler", *local, "--port", "0")]
    try:
        end = time.monotonic() + 60
        while not (scheduler_file.exists() and scheduler_file.read_text().endswith("}")):
            assert time.monotonic() < end
            time.sleep(0.05)
        single = (*local, "--no-nanny", "--nthreads", "1", "--local-directory", tmp_path)
        running += [start("dask_worker", *single) for _ in range(2)]
        yield json.loads(scheduler_file.read_text())["address"]
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_dask_cluster_finds_the_same(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        there = search(train_with_torchs_numbers, client.get_executor())
    here = search(train_with_torchs_numbers)
    assert (there.best, there.loss, there.fresh) == (here.best, here.loss, here.fresh)
    assert there.steps == 2 * (9 * 6 + 3 * 18)
    for one, other in zip(here.rungs, there.rungs, strict=True):
        assert one.scores == other.scores and one.promoted == other.promoted
