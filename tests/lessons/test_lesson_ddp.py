"""What 07_ddp stands on: timings that add up, two processes that wait, two nodes, the pictures."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import pytest
import torch
from ranks import PATIENCE
from torch import nn

from nbkit.base.equivalence import EquivalenceReport
from nbkit.course.kernel.execute import execute_notebook, find_fault
from nbkit.ddp import LaunchError, all_mean, rank
from nbkit.lab import plots
from nbkit.lab.data import digits
from nbkit.lab.shipped import lessons_dir
from nbkit.lessons.ddp import task as ddp
from nbkit.lessons.ddp.pictures import (
    draw_costs,
    draw_errors,
    draw_lives,
    draw_pairs,
    draw_timed_losses,
)
from nbkit.lessons.ddp.timings import Case, losses_of, time_cases, update_seconds

matplotlib.use("agg")


# ---- timings ----


@pytest.mark.parametrize(
    ("case", "windows"),
    [
        (Case(16), 16),
        (Case(16, "last", micro_batches=8), 2),
        (Case(512, width=512), 2),
        (Case(512, width=512, micro_batches=8), 1),
    ],
)
def test_a_case_is_repeated_until_a_clock_can_read_it(case, windows):
    assert case.windows == windows


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="way must be among alone, every, .* got 'sometimes'"):
        Case(16, "sometimes")


def timings():
    return {
        Case(16, "alone"): [10.0, 11.0],
        Case(16, "never"): [3.0, 3.0],
        Case(16, "update"): [1.0, 1.0],
        Case(16): [6.0, 3.5],  # less than its parts: noise
    }


@pytest.mark.parametrize(("no_sync", "averages"), [(True, 1), (False, 4)])
def test_an_update_is_put_together_from_its_parts(no_sync, averages):
    parts = update_seconds(timings(), 16, 4, no_sync, 1000)
    assert parts == {
        "alone": [10.0, 11.0],
        "computing": [12.0, 12.0],
        "averaging": [2.0 * averages, 0.0],
        "updating": [1.0, 1.0],
    }


def test_the_curves_are_trained_once():
    def spent():
        steps = 0
        curve = losses_of(640, 0.1, range(2))
        while True:
            try:
                next(curve)
            except StopIteration as end:
                return steps, end.value
            steps += 1

    (steps, losses), (again, same) = spent(), spent()
    assert (steps, again) == (10, 0)
    assert losses.shape == (2, 10) and same is losses and bool((losses[:, -1] < 2.3).all())


# ---- two processes that wait: one start for all that goes right ----


def counted():
    """How often DDP averages in one window of each way."""
    from ranks import count_averages

    from nbkit.lessons.ddp import timings as ddp_timings

    found = {}
    for way in ("every", "last", "never"):
        case, averages = Case(4, way, micro_batches=3), []
        model, optimizer = ddp_timings._choose_net({}, case)
        before = [p.detach().clone() for p in model.parameters()]
        model.register_comm_hook(averages, count_averages)
        x, y = torch.randn(4, 64), torch.zeros(4, dtype=torch.long)
        ddp_timings._run_window(case, model, optimizer, x, y)
        pairs = zip(before, model.parameters(), strict=True)
        found[way] = (len(averages), not all(torch.equal(a, b) for a, b in pairs))
    return found


def buckets():
    """How many messages the lesson's deep network sends in a backward, by the size of a bucket."""
    from ranks import count_averages

    from nbkit.lessons.ddp import timings as ddp_timings

    sent = {}
    for kb in (1, 1000):
        case, averages = Case(4, bucket_kb=kb, width=64, depth=8), []
        model, optimizer = ddp_timings._choose_net({}, case)
        model.register_comm_hook(averages, count_averages)
        for _ in range(2):  # after the first, DDP orders its buckets anew
            averages.clear()
            x, y = torch.randn(4, 64), torch.zeros(4, dtype=torch.long)
            ddp_timings._run_window(case, model, optimizer, x, y)
        sent[kb] = len(averages)
    return sent


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()


def several(n):
    data = digits()
    report = ddp.weighted_report(net, (data.x_train[:n].double(), data.y_train[:n]))
    cases = [Case(4, way) for way in ("alone", "never", "update")] + [Case(4, bucket_kb=1)]
    threads = torch.get_num_threads()
    times = time_cases(cases, rounds=2)
    kept = threads == torch.get_num_threads()
    return report, times, cases, counted(), kept


@pytest.fixture(scope="module")
def waiting():
    ranks = ddp.Ranks()
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def found(waiting):
    return waiting(several, 43)


def test_the_same_two_processes_answer_again_and_again(waiting):
    import os

    first, second = waiting(os.getpid), waiting(os.getpid)
    assert first == second and len({*first, os.getpid()}) == 3
    assert waiting(all_mean, torch.ones(1)) == [torch.ones(1)] * 2
    assert waiting(rank) == [0, 1]


def test_weighted_parts_are_the_whole_batch(found):
    report, *_ = found[0]
    assert report.equivalent and report.error < 1e-12


def test_both_ranks_have_each_case_in_each_round_and_the_slower_rank_counts(found):
    (_, first, cases, _, kept), (_, second, *_) = found
    assert first == second and list(first) == cases and kept
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in first.values())


def test_a_window_averages_as_often_as_its_way_says(found):
    for *_, counts, _ in found:
        assert counts == {"every": (3, True), "last": (1, True), "never": (0, False)}


def test_the_smallest_buckets_send_the_deep_network_layer_by_layer(waiting):
    assert waiting(buckets) == [{1: 9, 1000: 1}] * 2  # eight hidden layers and the output's


def raises():
    raise KeyError("planted")


def test_what_a_rank_raises_is_raised_here_and_ends_both():
    ranks = ddp.Ranks()
    for _ in range(2):
        with pytest.raises(LaunchError, match="KeyError: 'planted'"):
            ranks(raises)
    ranks.close()


def notes_its_number_and_stays(folder):
    number = os.getpid()
    Path(folder, f"part_{number}").touch()
    Path(folder, f"part_{number}").rename(Path(folder, f"rank_{number}"))
    time.sleep(1000)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_interrupt_ends_the_ranks_in_the_midst_of_a_call(tmp_path, monkeypatch):
    ranks = ddp.Ranks()

    def interrupted(seconds):
        time.sleep(seconds)
        if len(list(tmp_path.glob("rank_*"))) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ddp, "time", SimpleNamespace(sleep=interrupted))
        ranks(notes_its_number_and_stays, str(tmp_path))
    numbers = [int(path.name.removeprefix("rank_")) for path in tmp_path.glob("rank_*")]
    wait_until(lambda: not any(map(is_alive, numbers)))
    assert ranks(rank) == [0, 1]  # two new ones
    ranks.close()


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


def test_closed_processes_say_so():
    ranks = ddp.Ranks()
    ranks(rank)
    ranks.close()
    with pytest.raises((RuntimeError, FileNotFoundError)):
        ranks(rank)


# ---- killed ranks, several nodes ----


def test_the_diary_keeps_each_attempt(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    ddp.write_diary(str(tmp_path), 1, [2.5])
    ddp.write_diary(str(tmp_path), 1, [2.5, 2.0])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ddp.write_diary(str(tmp_path), 1, [2.5])
    assert ddp.read_diary(str(tmp_path)) == [([1, 2], [2.5, 2.0]), ([1], [2.5])]


def test_rank_1_dies_in_the_first_attempt_only(tmp_path, monkeypatch):
    killed = []
    monkeypatch.setattr(ddp, "rank", lambda: 1)
    monkeypatch.setattr(ddp.os, "kill", lambda pid, number: killed.append(number))
    for attempt, losses in [("0", [1.0]), ("0", [1.0, 1.0]), ("1", [1.0, 1.0])]:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        ddp.write_diary(str(tmp_path), 2, losses)
    assert killed == [9] and not list(tmp_path.iterdir())


def test_a_script_runs_by_itself(tmp_path):
    script = ddp.as_script(net, last="print(sum(p.numel() for p in net().parameters()))")
    script = script.replace("import torch\n", "import torch\nfrom torch import nn\n", 1)
    (tmp_path / "script.py").write_text(script)
    (said,) = ddp.run_side_by_side([[sys.executable, str(tmp_path / "script.py")]], PATIENCE)
    assert int(said) == sum(p.numel() for p in net().parameters())


def test_commands_run_at_the_same_time_and_a_failure_is_quoted():
    port = ddp.free_port()
    assert 1024 < port < 65536
    talk = f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept(); print(1)"
    call = (
        f"import socket, time\nfor _ in range(600):\n try:\n  "
        f"socket.create_connection(('127.0.0.1', {port})); break\n except OSError:\n  "
        f"time.sleep(0.1)\nprint(2)"
    )
    commands = [[sys.executable, "-c", program] for program in (talk, call)]
    assert ddp.run_side_by_side(commands, PATIENCE) == ["1\n", "2\n"]
    with pytest.raises(RuntimeError, match="(?s)failed. It said: .*KeyError: 'planted'"):
        ddp.run_side_by_side([[sys.executable, "-c", "{}['planted']"]], PATIENCE)
    sleeps, start = [sys.executable, "-c", "import time; time.sleep(1000)"], time.monotonic()
    with pytest.raises(RuntimeError, match="took more than 0.2 s"):
        ddp.run_side_by_side([sleeps, sleeps], 0.2)
    assert time.monotonic() - start < PATIENCE


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
    assert "This machine cannot start two processes" in text and "attempts" not in text
    claims = [o.get("metadata", {}).get("nbkit", {}) for o in told]
    verdicts = [one["verdict"] for one in claims if one.get("kind") == "verdict"]
    assert verdicts == ["SKIPPED"] * 4


# ---- pictures ----


def test_costs_stand_side_by_side(ax):
    parts = update_seconds(timings(), 16, 2, True, 1000)
    assert draw_costs(ax, parts, 2, 16) is ax
    scale = 1e6 / 32
    widths = [bar.get_width() / scale for bar in ax.patches]
    assert widths == pytest.approx([10.5, 3.0, 0.5, 0.5])
    assert [bar.get_x() / scale for bar in ax.patches] == pytest.approx([0, 0, 3.0, 3.5])


def test_the_race_runs_on_the_measured_clock(ax):
    losses = {"one process": torch.ones(2, 4), "two": torch.full((2, 2), 2.0)}
    assert draw_timed_losses(ax, losses, [[0.1, 0.1], [0.3, 0.3]]) is ax
    ends = [float(line.get_xdata()[-1]) for line in ax.lines if line.get_marker() == "o"]
    assert ends == pytest.approx([400.0, 600.0])
    assert [text.get_text() for text in ax.texts if text.get_text()] == list(losses)


def test_pairs_join_the_two_arms_of_a_round(ax):
    assert draw_pairs(ax, "speed", ("two", "one"), [[0.001, 0.002], [0.003, 0.004]]) is ax
    joined = [list(line.get_ydata()) for line in ax.lines[:2]]
    assert joined == [[3.0, 1.0], [4.0, 2.0]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["one", "two"]


def test_errors_are_coloured_by_their_verdict(ax):
    reports = {"same": EquivalenceReport(0.0, True), "not": EquivalenceReport(0.1, False)}
    assert draw_errors(ax, reports) is ax
    colors = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colors == [plots.BEST, plots.TECHNIQUE]


def test_lives_show_where_the_first_one_ended(ax):
    attempts = [([1, 2, 3], [3.0, 2.0, 1.5]), ([3, 4], [1.5, 1.0])]
    assert draw_lives(ax, attempts, [3.0, 2.0, 1.5, 1.0], every=2) is ax
    assert [text.get_text() for text in ax.texts] == ["rank 1 killed at step 3"]
    assert [list(line.get_xdata()) for line in ax.lines] == [
        [1, 2, 3, 4],
        [1, 2, 3],
        [3],
        [3, 4],
        [2, 4],
    ]
