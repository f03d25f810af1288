"""A busy machine: counters written by the tests, and a verdict that is not given on one."""

import json
import os
from dataclasses import replace

import pytest

from nbkit.lab import doctor
from nbkit.lab.cost import busy
from nbkit.lab.cost.busy import Load, Reading, load_since, read_cores, watch_others
from nbkit.lab.cost.processes import mean_load
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.evidence.verdicts import judge

TICK = 1 / os.sysconf("SC_CLK_TCK")


class Proc:
    """A folder like /proc for two cores; all times in seconds."""

    def __init__(self, folder, monkeypatch, cores=(0, 1)):
        self.folder, self.cores = folder, cores
        monkeypatch.setattr(busy, "_allowed_cores", lambda: {0, 1})
        self.stat()

    def stat(self, user=0.0, steal=0.0, idle=0.0):
        """Each core has these seconds."""
        ticks = [round(seconds / TICK) for seconds in (user, idle, steal)]
        line = "{0} 0 0 {1} 7 0 0 {2} 0 0"
        lines = [f"cpu{core} {line.format(*ticks)}" for core in self.cores]
        text = "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3", "btime 4"])
        (self.folder / "stat").write_text(text)

    def process(self, pid, parent, seconds, ended=0.0, name="python"):
        """One that has computed for so long; its children that have ended, for `ended`."""
        (self.folder / str(pid)).mkdir(exist_ok=True)
        own, children = round(seconds / TICK), round(ended / TICK)
        text = f"{pid} ({name}) S {parent} 1 1 0 -1 4 5 6 7 8 {own} 0 {children} 0 20 0 1 0 9"
        (self.folder / str(pid) / "stat").write_text(text)

    def read(self, now):
        return read_cores(self.folder, 100, lambda: now)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    return Proc(tmp_path, monkeypatch)


def test_what_others_used_is_what_all_used_without_our_own(proc):
    proc.process(100, 1, 50.0)
    before = proc.read(0.0)
    proc.stat(user=8.0)  # on each of the two cores
    proc.process(100, 1, 56.0)
    load = load_since(before, proc.read(10.0))
    assert load.others == pytest.approx(0.5)  # 16 - 6 of 20
    assert load.reason == "the machine was busy: other programs used 50 % of the cores"


def test_what_we_have_started_is_ours_also_after_it_has_ended(proc):
    proc.process(100, 1, 50.0)
    proc.process(101, 100, 3.0, name="a (b) 1 2")
    proc.process(102, 101, 4.0)
    proc.process(200, 1, 1.0)  # another one's
    before = proc.read(0.0)
    proc.stat(user=10.0)
    proc.process(101, 100, 5.0, ended=20.0, name="a (b) 1 2")  # 102 ended with 20 s
    (proc.folder / "102" / "stat").unlink()
    proc.process(200, 1, 3.0)
    load = load_since(before, proc.read(10.0))
    assert load.others == pytest.approx((20 - 18) / 20)


def test_what_a_hypervisor_takes_counts_and_is_told(proc):
    proc.process(100, 1, 0.0)
    before = proc.read(0.0)
    proc.stat(steal=3.0)
    load = load_since(before, proc.read(10.0))
    assert (load.others, load.stolen) == (pytest.approx(0.3), pytest.approx(0.3))
    assert str(load).endswith("30 % of the cores (30 % went to other virtual machines)")


def test_only_the_cores_that_we_may_use_count(tmp_path, monkeypatch):
    proc = Proc(tmp_path, monkeypatch, cores=(0, 1, 2, 3))
    proc.process(100, 1, 0.0)
    proc.stat(user=1.0)
    assert proc.read(0.0).cores == 2 and proc.read(0.0).busy == pytest.approx(2.0)


def test_idle_and_waiting_for_the_disk_are_not_busy(proc):
    proc.process(100, 1, 0.0)
    proc.stat(idle=50.0)
    assert proc.read(0.0).busy == 0.0


def test_the_time_in_which_some_program_waited_is_told(proc):
    proc.process(100, 1, 0.0)
    (proc.folder / "pressure").mkdir()
    pressure = proc.folder / "pressure" / "cpu"
    pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull total=7\n")
    before = proc.read(0.0)
    pressure.write_text("some avg10=9.00 avg60=0.00 avg300=0.00 total=3500000\nfull total=7\n")
    assert load_since(before, proc.read(10.0)).stalled == pytest.approx(0.25)


def test_a_measurement_too_short_for_the_counters_tells_nothing(proc):
    proc.process(100, 1, 0.0)
    before = proc.read(0.0)
    proc.stat(user=1.0)
    load = load_since(before, proc.read(0.05))
    assert load.others is None and not load.is_busy and "too short" in str(load)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_without_counters_a_spin_tells_and_that_is_said(tmp_path, monkeypatch, share):
    monkeypatch.setattr(busy, "_spin_briefly", lambda clock: share)
    monkeypatch.delattr(os, "sysconf")  # as on Windows
    before, after = (read_cores(tmp_path / "none", 100, lambda now=now: now) for now in (0.0, 9.0))
    load = load_since(before, after)
    assert load.others == pytest.approx(1 - share) and load.is_busy == (share < 0.9)
    assert "known from a short spin" in str(load)


def test_counters_that_stand_still_are_not_believed(proc, monkeypatch):
    monkeypatch.setattr(busy, "_spin_briefly", lambda clock: 0.5)
    proc.process(100, 1, 0.0)
    before = proc.read(0.0)
    proc.process(100, 1, 9.0)  # and /proc/stat says that nobody computed
    load = load_since(before, proc.read(10.0))
    assert load.others == pytest.approx(0.5) and load.source == busy.SPUN


def test_a_spin_that_has_the_core_to_itself_half_the_time_gets_half(monkeypatch):
    class Half:
        """A core that is ours every other moment: the wall clock runs twice as fast."""

        cpu = 0.0

        def thread(self):
            self.cpu += 0.01
            return self.cpu

        def wall(self):
            return 2 * self.cpu

    half = Half()
    monkeypatch.setattr(busy.time, "thread_time", half.thread)
    assert busy._spin_briefly(half.wall) == pytest.approx(0.5, rel=0.2)


def test_this_machine_can_be_read():
    load = watch_others(0.15)
    assert 0.0 <= load.others <= 1.0 and load.seconds >= 0.15
    assert json.loads(json.dumps(load.to_dict()))["others"] == load.others


def test_loads_are_averaged_by_their_seconds():
    loads = [Load(0.2, 0.0, 0.1, 1.0), Load(0.6, 0.4, 0.5, 3.0), Load(None, source=busy.TOO_SHORT)]
    mean = mean_load(loads)
    assert (mean.others, mean.stolen, mean.stalled) == pytest.approx((0.5, 0.3, 0.4))
    assert mean_load(loads[2:]).others is None and mean_load([]) is None


# The verdict


def timed(load, n=10):
    values = [2.0 + 0.01 * i for i in range(n)]
    return replace(paired_ratio(values, [1.0] * n, over="timings"), values=tuple(values), load=load)


def claim(**more):
    return Claim(
        "id", "l", "s.", "w", "m", "ratio", "above", 10, margin=1.1, over="timings", **more
    )


def test_on_a_busy_machine_nothing_is_judged_and_the_numbers_are_kept():
    got = judge(claim(), timed(Load(0.71)))
    assert (got.verdict, got.p_value) == ("SKIPPED", None)
    assert got.reason == "the machine was busy: other programs used 71 % of the cores"
    told = json.loads(json.dumps(got.to_dict()))
    assert told["values"] == [2.0 + 0.01 * i for i in range(10)] and told["n"] == 10
    assert told["load"]["others"] == 0.71 and told["interval"][0] > 1.1


def test_a_busy_machine_is_the_reason_even_if_there_were_too_few():
    assert "busy" in judge(claim(), timed(Load(0.71), n=4)).reason


@pytest.mark.parametrize("load", [None, Load(0.02), Load(None)])
def test_on_a_quiet_machine_it_is_judged(load):
    assert judge(claim(), timed(load)).verdict == "SUPPORTED"


def test_the_rounds_of_one_process_decide_no_claim_over_timings():
    rounds = paired_ratio([2.0, 2.1, 2.2], [1.0] * 3, over="rounds")
    with pytest.raises(ValueError, match="one timing: measure in fresh processes, by time_in_proc"):
        judge(claim(), rounds)


def test_the_check_up_tells_whether_the_machine_is_quiet_enough_now(monkeypatch):
    monkeypatch.setattr(doctor, "watch_others", lambda: Load(0.71))
    assert doctor._check_other_programs() == doctor.MachineCheck(
        "other programs", "used 71 % of the cores", "too busy now: claims over timings are skipped"
    )
    monkeypatch.setattr(doctor, "watch_others", lambda: Load(0.02))
    assert doctor._check_other_programs().advice == ""


def test_readings_compare_as_numbers():
    before = Reading(wall=0, busy=1.0, stolen=0, own=5.0, stalled=None, cores=2)
    after = replace(before, wall=1.0, busy=1.5, own=6.0)
    assert load_since(before, after).others == 0.0  # the counters' steps are no negative load
