"""What 07_ddp stands on: timings, two processes that wait, timelines, the live lab, pictures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import nbformat
import pytest
import torch
from matplotlib.figure import Figure
from ranks import PATIENCE
from torch import nn

from nbkit.base.equivalence import EquivalenceReport
from nbkit.course.kernel.execute import execute_notebook, find_fault
from nbkit.ddp import LaunchError, all_mean, rank
from nbkit.lab import digits, plots, signals
from nbkit.lab.cost.busy import Load
from nbkit.lab.cost.process_timing import ProcessTiming
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.shipped import lessons_dir
from nbkit.lessons.ddp import pictures, task
from nbkit.lessons.ddp.lab import SpeedLab, describe_times, find_goals
from nbkit.lessons.ddp.timeline import Timeline, record_update
from nbkit.lessons.ddp.timings import (
    Case,
    compare_fastest,
    compare_rounds,
    speed_arms,
    time_cases,
)

matplotlib.use("agg")


# ---- timings ----


@pytest.mark.parametrize(
    ("case", "updates"),
    [
        (Case(16), 16),
        (Case(16, "last", micro_batches=8), 2),
        (Case(512, width=512), 2),
        (Case(512, width=512, micro_batches=8), 1),
        (Case(16, most=2), 2),
    ],
)
def test_a_case_is_repeated_until_a_clock_can_read_it(case, updates):
    assert case.updates == updates


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="way must be among alone, threads, .* got 'sometimes'"):
        Case(16, "sometimes")


def test_the_rival_of_two_processes_is_one_process_with_one_thread_and_with_two():
    arms = speed_arms(1024, 512)
    assert list(arms) == ["two processes", "one thread", "two threads"]
    assert [case.way for case in arms.values()] == ["last", "alone", "threads"]
    assert {(case.rows, case.width) for case in arms.values()} == {(1024, 512)}


def processes(**rounds):
    """A timing of fresh processes from the rounds of each arm, a list for each process."""
    seconds = {arm: [each[0] for each in groups] for arm, groups in rounds.items()}
    return ProcessTiming(seconds, rounds=rounds)


def test_the_faster_rival_counts_whichever_it_is():
    two, slow, fast = [[1.0], [1.0]], [[4.0], [5.0]], [[2.0], [2.5]]
    for rivals in ({"one": slow, "threads": fast}, {"one": fast, "threads": slow}):
        ratio = compare_fastest({"speed": processes(two=two, **rivals)})["speed"]
        assert ratio.values == pytest.approx([1 / 2, 1 / 2.5])
        assert ratio.over == "timings"


def test_rounds_name_the_rival_and_its_ratio():
    seconds = {"two": [3.0, 3.0, 3.0], "one": [2.0, 2.1, 2.2], "threads": [9.0, 9.0, 9.0]}
    rival, ratio = compare_rounds(seconds)
    assert rival == "one" and (ratio.n, ratio.over) == (3, "rounds")
    assert ratio.estimate == pytest.approx((27 / (2.0 * 2.1 * 2.2)) ** (1 / 3))


# ---- two processes that wait: one start for all that goes right ----


def counted():
    """How often DDP averages in one update of each way, and whether the weights moved."""
    from ranks import count_averages

    from nbkit.lessons.ddp import timings as ddp_timings

    found = {}
    for way in ("every", "last", "never"):
        case, averages = Case(4, way, micro_batches=3), []
        model, optimizer = ddp_timings._choose_net({}, case)
        before = [p.detach().clone() for p in model.parameters()]
        model.register_comm_hook(averages, count_averages)
        x, y = torch.randn(4, 64), torch.zeros(4, dtype=torch.long)
        ddp_timings._run_update(case, model, optimizer, x, y)
        pairs = zip(before, model.parameters(), strict=True)
        found[way] = (len(averages), not any(torch.equal(a, b) for a, b in pairs))
    return found


def threads_of_each_way():
    """How many threads compute an update of each way, on this rank; None where it waits."""
    from nbkit.lessons.ddp import timings as ddp_timings

    found, run = {}, ddp_timings._run_update
    for way in ("alone", "threads", "every"):
        seen = []
        ddp_timings._run_update = lambda *_, seen=seen: seen.append(torch.get_num_threads())
        try:
            ddp_timings._time_case({}, Case(4, way))
        finally:
            ddp_timings._run_update = run
        found[way] = seen[0] if seen else None
    return found, torch.get_num_threads()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()


def several(n):
    data = digits()
    report = task.weighted_report(net, (data.x_train[:n].double(), data.y_train[:n]))
    cases = [Case(4, way) for way in ("alone", "threads", "never")] + [Case(4, bucket_kb=1)]
    times = time_cases(cases, rounds=2)
    return report, times, cases, counted(), threads_of_each_way()


@pytest.fixture(scope="module")
def waiting():
    ranks = task.Ranks()
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def found(waiting):
    return waiting(several, 43)


def test_the_same_two_processes_answer_again_and_again(waiting):
    first, second = waiting(os.getpid), waiting(os.getpid)
    assert first == second and len({*first, os.getpid()}) == 3
    assert waiting(all_mean, torch.ones(1)) == [torch.ones(1)] * 2
    assert waiting(rank) == [0, 1]


def test_a_call_that_nobody_waits_for_does_not_disturb_the_next(waiting):
    forgotten = waiting.iterate(os.getpid)
    next(forgotten)
    forgotten.close()
    assert waiting(rank) == [0, 1]


def test_weighted_parts_are_the_whole_batch(found):
    report, *_ = found[0]
    assert report.equivalent and report.error < 1e-12


def test_both_ranks_have_each_case_in_each_round_and_the_slower_rank_counts(found):
    (_, first, cases, *_), (_, second, *_) = found
    assert first == second and list(first) == cases
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in first.values())


def test_an_update_averages_as_often_as_its_way_says(found):
    for _, _, _, counts, _ in found:
        assert counts == {"every": (3, True), "last": (1, True), "never": (0, True)}


def test_one_process_computes_with_one_thread_or_with_two_and_the_other_rank_waits(found):
    (*_, (first, kept)), (*_, (second, _)) = found
    assert first == {"alone": 1, "threads": 2, "every": 1} and kept == 1
    assert second == {"alone": None, "threads": None, "every": 1}


def plain_mean(model, share, all_mean):
    for p in model.parameters():
        p.grad = all_mean(p.grad)


@pytest.mark.parametrize("make_data", [digits, signals])
def test_two_ranks_train_the_weights_of_one(waiting, make_data):
    data = make_data()
    alone = task.train_weights(3, data, steps=5)
    for way in ("DDP", plain_mean):
        zero, one = waiting(task.train_weights, 3, data, way, steps=5)
        assert torch.equal(zero, one) and task.agree(zero, alone)
    zero, one = waiting(task.train_weights, 3, data, steps=5)  # nothing is averaged
    assert not task.agree(zero, one) and not task.agree(zero, alone)


def test_two_ranks_that_share_nothing_drift_apart_from_the_same_start(waiting):
    zero, one = waiting(task.train_apart, 0)
    assert torch.equal(zero, one)
    zero, one = waiting(task.train_apart, 3)
    assert not torch.allclose(zero, one)


def test_what_breaks_the_equality_is_named(waiting):
    names = ("nothing special", "43 rows: 21 and 22", "BatchNorm")
    reports = waiting(task.check_networks, {name: task.NETWORKS[name] for name in names})[0]
    assert [str(report.cause) for report in reports.values()][1:3] == ["ragged shards", "batchnorm"]
    assert [report.equivalent for report in reports.values()] == [True, False, False, True]


# ---- timelines ----


def test_a_timeline_has_its_parts_in_order_and_a_bucket_for_each_message(waiting):
    sizes = {"rows": 8, "width": 32, "depth": 3, "updates": 5}
    for kb, sent in ((1, 4), (1000, 1)):  # 1 kB: three hidden layers and the output's
        lines = waiting(record_update, kb, **sizes)
        assert min(line.forward[0] for line in lines) == 0
        for line in lines:
            spans = [line.forward, line.backward, line.waiting, line.step]
            times = [moment for span in spans for moment in span]
            assert times == sorted(times)
            assert len(line.buckets) == sent
            # A backward has ended only when all means are there.
            assert all(line.forward[1] <= a <= b <= line.waiting[1] for a, b in line.buckets)
            assert line.buckets[-1][0] == line.backward[1] and line.overlapped == sent - 1


def weights_with_and_without_the_log():
    """The weights after the recorded updates, and after the same ones under plain DDP."""
    from nbkit.lab import mlp
    from nbkit.lessons.ddp import timeline

    x, y = torch.randn(4, 64), torch.zeros(4, dtype=torch.long)
    ends = []
    for is_logged in (True, False):
        torch.manual_seed(1)
        model = nn.parallel.DistributedDataParallel(mlp(depth=1, width=8), bucket_cap_mb=0.001)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if is_logged:
            log = timeline.BucketLog()
            model.register_comm_hook(log, timeline._send_bucket)
        for _ in range(3):
            if is_logged:
                log.clear()
                timeline._record_one(model, optimizer, log, x, y)
            else:
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    return ends


def test_a_recorded_update_is_the_update_of_ddp(waiting):
    for logged, plain in waiting(weights_with_and_without_the_log):
        torch.testing.assert_close(logged, plain)


def timeline(*, early=True):
    buckets = [(0.002 if early else 0.004, 0.005), (0.004, 0.006)]
    return Timeline((0.0, 0.001), (0.001, 0.004), (0.004, 0.006), (0.006, 0.007), buckets)


def test_a_bucket_is_early_if_it_leaves_before_the_backward_has_ended():
    assert timeline().overlapped == 1 and timeline(early=False).overlapped == 0


def test_a_shifted_timeline_is_later_in_every_part():
    moved = timeline().shift(1.0)
    assert moved.forward == (1.0, 1.001) and moved.step == (1.006, 1.007)
    assert moved.buckets == [(1.002, 1.005), (1.004, 1.006)]


# ---- ends of the two processes ----


def raises():
    raise KeyError("planted")


def test_what_a_rank_raises_is_raised_here_and_the_next_call_starts_two_others():
    ranks = task.Ranks()
    first = ranks(os.getpid)
    with pytest.raises(LaunchError, match="KeyError: 'planted'"):
        ranks(raises)
    assert not {*ranks(os.getpid)} & {*first}
    ranks.close()
    assert not {*ranks(os.getpid)} & {*first}  # a closed pair starts again, too
    ranks.close()


NOTEBOOK = """
import os, time
from pathlib import Path
from nbkit.lessons.ddp import task

def stay(folder):
    Path(folder, f"rank_{os.getpid()}").touch()
    while True:
        sum(range(1000))

if __name__ == "__main__":
    ranks = task.Ranks()
    try:
        ranks(stay, FOLDER)
    except KeyboardInterrupt:
        Path(FOLDER, "interrupted").touch()
        time.sleep(1000)  # as a kernel that waits for the next cell
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_ends_the_ranks_in_the_midst_of_a_call(tmp_path, interrupts):
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK.replace("FOLDER", repr(str(tmp_path))))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    process = subprocess.Popen([sys.executable, str(script)], env=env)
    try:
        wait_until(lambda: len(list(tmp_path.glob("rank_*"))) == 2)
        numbers = [int(path.name.removeprefix("rank_")) for path in tmp_path.glob("rank_*")]
        for _ in range(interrupts):
            process.send_signal(signal.SIGINT)
        # The process that was interrupted lives on; only its ranks end.
        wait_until(lambda: not any(map(is_alive, numbers)))
        if interrupts == 1:
            wait_until((tmp_path / "interrupted").exists)
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def is_alive(number):
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # ended, and nobody has asked for its code


def wait_until(happened):
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- the live lab ----


class PretendRanks:
    """Answers a call of `time_cases` with these seconds, by the way of each case."""

    def __init__(self, **seconds):
        self.seconds, self.cases = seconds, []

    def iterate(self, fn, cases, rounds, warmup, budget):
        assert fn is time_cases
        self.cases.append(cases)
        yield
        return [{case: self.seconds[case.way] for case in cases}] * 2


def drawn(lab, figure, **knobs):
    """Draw one move to its end; return the status."""
    usual = {"rows": 16, "units": 64, "micro_batches": 4, "no_sync": False, "bucket_kb": 50}
    moves = lab.draw(figure, **usual | knobs)
    while True:
        try:
            next(moves)
        except StopIteration as end:
            return end.value


SLOW = {"every": [4.0, 4.1, 4.2], "last": [2.0, 2.1, 2.2], "never": [0.4, 0.4, 0.4]}
RIVALS = {"alone": [1.0, 1.01, 1.02], "threads": [1.5, 1.5, 1.6]}


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr("nbkit.lessons.ddp.lab.load_since", lambda before: Load(0.0))


@pytest.fixture
def figure():
    return Figure()


def test_a_move_times_the_same_update_in_each_way(quiet, figure):
    ranks = PretendRanks(**SLOW, **RIVALS)
    status = drawn(SpeedLab(ranks), figure)
    (cases,) = ranks.cases
    assert [case.way for case in cases] == ["every", "alone", "threads", "never"]
    assert {(c.rows, c.micro_batches, c.width, c.bucket_kb) for c in cases} == {(16, 4, 64, 50)}
    assert "/ one thread: " in status and "slower" in status and "Goal 1 reached" in status


def test_the_place_of_a_move_is_the_computing_between_two_averages(quiet, figure):
    lab = SpeedLab(PretendRanks(**SLOW, **RIVALS))
    drawn(lab, figure)
    figure.clear()
    drawn(lab, figure, no_sync=True)
    (often, slow), (seldom, quick) = lab.visited
    assert often == pytest.approx(100) and seldom == pytest.approx(400)  # ms, of 0.4 s
    assert slow.estimate > quick.estimate
    assert len(figure.axes) == 2 and all(ax.has_data() for ax in figure.axes)


def test_a_busy_machine_gets_no_advice(monkeypatch, figure):
    monkeypatch.setattr("nbkit.lessons.ddp.lab.load_since", lambda before: Load(0.4))
    status = drawn(SpeedLab(PretendRanks(**SLOW, **RIVALS)), figure)
    assert "No advice: 40 % of the cores were busy" in status
    assert "slower" not in status and "Goal" not in status


def test_without_two_processes_the_lab_says_so(figure):
    assert drawn(SpeedLab(None), figure) == "SKIPPED: this machine cannot start two processes"


@pytest.mark.parametrize(
    ("two", "one", "threads", "word", "goals"),
    [
        (3.0, 1.0, 2.0, ", slower", (True, False, False)),
        (0.9, 1.0, 2.0, ", faster", (False, False, True)),
        (0.6, 1.0, 0.5, ", slower", (False, True, False)),
        (0.6, 1.0, 0.7, ", faster", (False, True, True)),
        (1.0, 1.01, 2.0, "no difference of 5 % that 6 rounds can see", (False, False, True)),
    ],
)
def test_the_status_says_no_more_than_the_rounds_can_tell(two, one, threads, word, goals):
    noise = [0.999, 1.0, 1.001, 0.999, 1.0, 1.001]
    means = {"two processes": two, "one thread": one, "two threads": threads}
    seconds = {arm: [mean * each for each in noise] for arm, mean in means.items()}
    rival, ratio = compare_rounds(seconds)
    status = describe_times(seconds, rival, ratio, Load(0.0))
    assert word in status and find_goals(seconds, ratio) == goals
    for number, is_reached in enumerate(goals, start=1):
        assert (f"Goal {number} reached" in status) == is_reached


# ---- the bug hunt ----


def test_one_split_alone_gives_rows_twice_and_its_letter_is_the_answer():
    from nbkit.lab.answers import load_answer

    wrong = []
    for letter, split in task.SPLITS.items():
        for epoch in range(5):
            rows = torch.cat([split(number, epoch, 100) for number in (0, 1)])
            if sorted(rows.tolist()) != list(range(100)):
                wrong.append(letter)
    assert {*wrong} == {"c"} and load_answer("ddp", "rows").right == "c"


def test_the_snippets_of_the_bug_hunt_are_the_ones_that_are_proved():
    lesson = nbformat.read(lessons_dir() / "07_ddp.ipynb", 4)
    (text,) = [cell.source for cell in lesson.cells if cell.source.startswith("## Bug hunt")]
    names = {"torch": torch}
    exec(text.split("```python")[1].split("```")[0], names)
    for letter, split in task.SPLITS.items():
        for number in (0, 1):
            assert torch.equal(names[letter](number, 3, 50), split(number, 3, 50))


# ---- without a second process ----


def test_the_lesson_runs_without_a_second_process_and_says_so(tmp_path):
    """Every cell runs, nothing is launched, and no claim is judged."""
    lesson = nbformat.read(lessons_dir() / "07_ddp.ipynb", 4)
    planted = "import torch.distributed\n\ntorch.distributed.is_available = lambda: False"
    lesson.cells.insert(0, nbformat.v4.new_code_cell(planted))
    nbformat.write(lesson, tmp_path / "07_ddp.ipynb")
    done = execute_notebook(tmp_path / "07_ddp.ipynb", tmp_path / "out.ipynb", {"profile": "smoke"})
    assert find_fault(done) is None
    told = [o for cell in done.cells for o in cell.get("outputs", [])]
    text = "".join(o.get("text", "") for o in told)
    assert "This machine cannot start two processes" in text and "bit for bit" not in text
    claims = [o.get("metadata", {}).get("nbkit", {}) for o in told]
    verdicts = [one["verdict"] for one in claims if one.get("kind") == "verdict"]
    assert verdicts == ["SKIPPED"] * 3


# ---- pictures ----


def test_costs_are_microseconds_an_example_in_a_frame_that_stays(ax):
    seconds = {"two processes": [0.003, 0.001, 0.002], "one thread": [0.01, 0.01, 0.01]}
    assert pictures.draw_costs(ax, seconds, examples=100) is ax
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots == [pytest.approx([30, 10, 20]), pytest.approx([100] * 3)]
    (kept,) = [line for line in ax.lines if line.get_gid() == "ghost"]
    assert list(kept.get_xdata()) == pytest.approx([20, 100])
    assert [text.get_text() for text in ax.texts] == ["20", "100"]
    assert ax.get_xlim() == pictures.COSTS


def test_arms_have_the_colours_of_technique_and_baseline(ax):
    names = ["two processes", "one thread", "two threads", "two, not averaging"]
    pictures.draw_costs(ax, {name: [0.001] for name in names}, examples=1)
    colors = [line.get_color() for line in ax.lines if line.get_marker() == "|"]
    assert colors == [plots.TECHNIQUE, plots.BASELINE, plots.BASELINE, plots.QUIET]


def test_the_last_move_is_filled_and_those_before_are_hollow(ax):
    visited = [(1.0, paired_ratio([2.0, 2.2], [1.0, 1.0])), (5.0, Interval(99.0, 50.0, 200.0, 2))]
    assert pictures.draw_visited(ax, visited) is ax
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_fillstyle() for line in dots] == ["none", "full"]
    assert float(dots[0].get_ydata()[0]) == pytest.approx((2.0 * 2.2) ** 0.5)
    # What leaves the frame is drawn at its edge.
    assert float(dots[1].get_ydata()[0]) == pictures.RATIOS[1]


def test_drift_is_the_distance_over_the_length(ax):
    zero, one = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])
    assert pictures.measure_drift(zero, one) == pytest.approx(0.2)
    assert pictures.draw_drift(ax, {1: [zero, zero], 10: [zero, one]}) is ax
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0, 20])


def test_networks_that_do_not_drift_apart_fail_the_cell(capsys):
    same = torch.ones(3)
    with pytest.raises(RuntimeError, match="expected two networks that drift apart"):
        pictures.show_drift(lambda train, steps: [same, same], None, (1, 5))
    pictures.show_drift(None, None, (1,))
    assert capsys.readouterr().out == ""


def test_a_timeline_is_drawn_in_milliseconds(ax):
    assert pictures.draw_timelines(ax, [timeline(), timeline()], "title", end=0.01) is ax
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert len(bars) == 12 and bars[:4] == [
        pytest.approx(pair) for pair in ((0, 1), (1, 3), (6, 1), (4, 2))
    ]
    assert bars[4:6] == [pytest.approx((2, 3)), pytest.approx((4, 2))]
    assert ax.get_xlim() == pytest.approx((0, 10))


def test_timelines_share_one_axis_of_time(monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    pictures.show_timelines({5000: [timeline(early=False)], 1: [timeline(), timeline()]})
    (figure,) = shown
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "buckets of 5,000 kB: 2 sent, 0 of them early",
        "buckets of 1 kB: 2 sent, 1 of them early",
    ]
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    plt.close(figure)


def test_errors_are_coloured_by_whether_they_are_equal(ax):
    reports = {"same": EquivalenceReport(0.0, True), "not": EquivalenceReport(0.1, False)}
    assert pictures.draw_errors(ax, reports) is ax
    colors = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colors == [plots.BASELINE, plots.TECHNIQUE]
