"""Fresh processes, for real: their values, their errors, and that none of them is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nbkit.lab.cost import processes
from nbkit.lab.cost.busy import Load
from nbkit.lab.cost.process_timing import ProcessTiming, time_in_processes
from nbkit.lab.cost.processes import ProcessError, is_lost_to_load, run_in_fresh_processes

PATIENCE = 120.0  # how long a start may take on a busy machine before it counts as a hang


def tell(index, folder, more=None):
    """Leave this process's number in the folder, for the test to look for."""
    Path(folder, f"pid_{index}_{os.environ.get('NBKIT_RANK', 0)}_{os.getpid()}").touch()
    return index, os.getpid(), more


def tell_and_fail(index, folder):
    tell(index, folder)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    raise ArithmeticError("seven")


def tell_and_die(index, folder):
    tell(index, folder)
    os.kill(os.getpid(), signal.SIGKILL)


def tell_and_wait(index, folder):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(folder, f"pid_child_{index}_{child.pid}").touch()
    tell(index, folder)
    time.sleep(600)


def all_ranks(index):
    import torch.distributed as dist

    seen = [None, None]
    dist.all_gather_object(seen, (dist.get_rank(), os.getpid()))
    return seen


def told(folder):
    """The processes that the functions above told of."""
    return [int(path.name.rpartition("_")[2]) for path in folder.glob("pid_*")]


def is_running(pid):
    """Whether it computes or waits: a process that is dead and not yet buried does neither."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_ended(pids):
    end = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert pids and not any(map(is_running, pids))


@pytest.fixture(scope="module", autouse=True)
def quiet_machine():
    """Tests run beside other tests: here no load ends a measurement early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "is_lost_to_load", lambda load, share: False)
        yield


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    secret = {"a": 1}
    return run_in_fresh_processes(tell, 3, str(folder), secret), folder


def test_each_value_is_of_a_process_to_itself(three):
    run, _ = three
    values = [value for (value,) in run.values]
    assert [index for index, _, _ in values] == [0, 1, 2]
    assert len({pid for _, pid, _ in values} | {os.getpid()}) == 4
    assert all(more == {"a": 1} for _, _, more in values) and run.unfinished == ""


def test_the_load_is_measured_and_no_process_is_left(three):
    run, folder = three
    assert run.load is not None and run.load.seconds >= 0
    assert_ended(told(folder))


def test_a_local_function_travels_and_two_ranks_meet():
    found = run_in_fresh_processes(lambda index: all_ranks(index), 1, ranks=2).values
    ((first, second),) = found
    assert first == second and [rank for rank, _ in first] == [0, 1]
    assert len({pid for _, pid in first} | {os.getpid()}) == 3


def test_an_error_is_told_with_its_traceback_and_ends_what_the_process_started(tmp_path):
    with pytest.raises(ProcessError, match="tell_and_fail failed in fresh process 0: Arithm") as e:
        run_in_fresh_processes(tell_and_fail, 2, str(tmp_path))
    assert 'raise ArithmeticError("seven")' in str(e.value)
    assert_ended(told(tmp_path))


def test_a_process_that_is_killed_is_told_by_its_signal(tmp_path):
    with pytest.raises(ProcessError, match="fresh process 0: it was ended by SIGKILL"):
        run_in_fresh_processes(tell_and_die, 1, str(tmp_path))


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(ProcessError, match=r"did not end within timeout=5 s"):
        run_in_fresh_processes(tell_and_wait, 1, str(tmp_path), timeout=5.0)
    assert_ended(told(tmp_path))


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
from test_processes import tell_and_wait
from nbkit.lab.cost.processes import run_in_fresh_processes
run_in_fresh_processes(tell_and_wait, 2, {folder!r})
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_of_the_caller_leave_no_process(tmp_path, how):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as caller:
        end = time.monotonic() + PATIENCE
        while len(told(tmp_path)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert any(map(is_running, told(tmp_path)))
        caller.send_signal(how)
        said = caller.communicate(timeout=30)[1].decode()
    assert caller.returncode == -how and ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert_ended(told(tmp_path))


def test_no_process_starts_once_the_budget_is_spent(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_started_together", lambda ranks: 1)
    now = iter(range(0, 1000, 40))
    options = {"budget_seconds": 50, "clock": lambda: next(now)}
    run = run_in_fresh_processes(tell, 5, str(tmp_path), **options)
    assert len(run.values) == 2
    assert run.unfinished == "the budget of 50 s ended after 2 of 5 processes"


def test_a_busy_machine_ends_the_measurement_as_soon_as_nothing_can_be_judged(
    monkeypatch, tmp_path
):
    """At 35 % two of ten processes make 7 % of the whole, below the limit of 10 %; three do not."""
    monkeypatch.setattr(processes, "is_lost_to_load", is_lost_to_load)
    monkeypatch.setattr(processes, "_started_together", lambda ranks: 1)
    monkeypatch.setattr(processes, "load_since", lambda before: Load(0.35, seconds=1.0))
    run = run_in_fresh_processes(tell, 10, str(tmp_path))
    assert len(run.values) == 3
    assert run.unfinished == (
        "the machine was busy: other programs used 35 % of the cores: "
        "stopped after 3 of 10 processes"
    )


def test_a_machine_whose_load_is_unknown_or_low_goes_on():
    assert not is_lost_to_load(Load(None), 0.5)
    assert not is_lost_to_load(Load(0.09), 1.0)
    assert is_lost_to_load(Load(0.10), 1.0) and not is_lost_to_load(Load(0.10), 0.9)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 1, "ranks": 0}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        run_in_fresh_processes(tell, **wrong)


# Timing in them


def make_arms():
    return {"long": lambda: sum(range(60_000)), "short": lambda: sum(range(20_000))}


def test_arms_are_compared_within_each_of_several_processes():
    counts = {"sums": 2, "again": 1}
    found = time_in_processes({"sums": make_arms, "again": make_arms}, counts, repeats=6)
    assert list(found) == ["sums", "again"]
    timing = found["sums"]
    assert len(found["again"].rounds["long"]) == 1
    assert {len(rounds) for each in timing.rounds.values() for rounds in each} == {6}
    ratio = timing.ratio("long", to="short")
    assert (ratio.n, ratio.over, len(ratio.values)) == (2, "timings", 2)
    assert ratio.load is timing.load is not None
    assert "2 fresh processes, 6 rounds in each" in str(timing)


def timing_of(long, short, **more):
    seconds = {"long": [rows[0] for rows in long], "short": [rows[0] for rows in short]}
    return ProcessTiming(seconds, rounds={"long": long, "short": short}, **more)


def test_a_process_gives_one_ratio_the_median_of_its_rounds():
    long = [[2.0, 2.0, 90.0], [8.0, 8.0, 8.0], [4.0, 4.0, 4.0]]
    ratio = timing_of(long, [[1.0, 1.0, 1.0]] * 3).ratio("long", to="short")
    assert ratio.values == pytest.approx((2.0, 8.0, 4.0))
    assert (ratio.estimate, ratio.n) == (pytest.approx(4.0), 3)
    assert ratio.low < 2.0  # three processes, and not nine rounds


def test_one_process_has_a_ratio_and_no_interval():
    timing = timing_of([[2.0, 2.0]], [[1.0, 1.0]])
    ratio = timing.ratio("long", to="short")
    assert (ratio.estimate, ratio.low, ratio.n) == (pytest.approx(2.0), 0.0, 1)
    assert "1 fresh processes" in str(timing)


def test_what_was_not_done_and_a_busy_machine_are_told():
    from nbkit.lab.cost.busy import Load

    timing = timing_of([[2.0, 2.0]], [[1.0, 1.0]], unfinished="the budget", load=Load(0.5))
    assert "UNFINISHED: the budget" in str(timing)
    assert "BUSY: other programs used 50 %" in str(timing)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"setups": {}}, "setups must map names"),
        ({"threads": 2}, "threads must be 1 or None, got 2"),
        ({"n": 0}, "n must be at least 1 for every setup, got {'a': 0}"),
        ({"n": {"b": 2}}, "n must be at least 1 for every setup, got {'a': 0}"),
        ({"repeats": 5}, "repeats must be at least 6, got 5"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        time_in_processes(**{"setups": {"a": make_arms}, "n": 2} | options)


# The lessons' own


def test_a_function_with_a_variable_called_classes_travels():
    """cloudpickle would take torch.classes along, which does not pickle by itself."""
    import pickle

    from nbkit.base.pickling import pickle_value

    namespace = {}
    exec("import torch\nclasses = ops = 3\ndef f(): return torch.zeros(classes) + ops", namespace)
    namespace["f"].__module__ = "__main__"
    assert pickle.loads(pickle_value(namespace["f"], "f"))().tolist() == [3.0, 3.0, 3.0]


def test_pairs_of_cases_are_timed_on_two_fresh_ranks():
    from nbkit.lessons.ddp.timings import Case, time_pairs

    cases = {"last": Case(4, "last", micro_batches=2), "each": Case(4, micro_batches=2)}
    found = time_pairs({"no_sync": cases}, 1, rounds=2, warmup=1)["no_sync"]
    assert list(found.rounds) == ["last", "each"]
    assert all(second > 0 for (rounds,) in found.rounds.values() for second in rounds)
    assert found.ratio("last", to="each").n == 1
