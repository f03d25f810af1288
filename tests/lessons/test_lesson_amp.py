"""What 05_amp needs of its own: positions, formats, fair steps, pictures, the recorded verdicts."""

import math
import time

import pytest
import torch
from torch import nn

from nbkit import Amp, underflow_report
from nbkit.amp import StepReport
from nbkit.course import ledger
from nbkit.course.record import Record
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lessons.amp import pictures, task

pyplot = pytest.importorskip("matplotlib.pyplot")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_centre_of_one_spot_is_where_the_spot_is():
    x = torch.zeros(2, 8, 8)
    x[0, 0, 7] = 0.5  # top right: its darkness does not matter
    x[1, 3, 2] = x[1, 4, 5] = 1.0  # two spots, halfway
    label = torch.zeros(2, dtype=torch.int64)
    data = task.locate_ink(Data(x.flatten(1), label, x.flatten(1)[:1], label[:1]), pixel=0.01)
    torch.testing.assert_close(data.y_train, torch.tensor([[-0.035, 0.035], [0.0, 0.0]]))
    torch.testing.assert_close(data.y_test, data.y_train[:1])


def test_a_mixed_model_computes_in_half_precision_and_answers_in_float32():
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64), torch.randn(8, 64)
    y = task.AutocastModel(model, Amp("bf16", "cpu"))(x)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected.float())
    assert not torch.equal(y, model(x))
    y.sum().backward()
    assert model.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("device", "clock"), [("cpu", time.process_time), ("cuda", None)])
def test_steps_are_timed_on_one_thread_by_its_own_time_but_for_a_gpu(monkeypatch, device, clock):
    seen = {}

    def time_it(arms, repeats, **keywords):
        seen.update(keywords, repeats=repeats, threads=torch.get_num_threads())

    monkeypatch.setattr(task, "time_it", time_it)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        task.time_steps({}, device, repeats=7, max_warmup=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen.get("clock") is clock
    assert (seen["repeats"], seen["max_warmup"]) == (7, 3)
    assert seen["threads"] == (1 if device == "cpu" else 2)


def test_half_precision_needs_more_memory_where_the_batch_is_small():
    small, large = (
        task.measure_step_bytes("bf16", 64, size, "cpu")
        / task.measure_step_bytes("fp32", 64, size, "cpu")
        for size in (4, 1024)
    )
    assert small > 1 > large


@pytest.mark.parametrize("scale", [1.0, 2.0**8, 2.0**30])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_shares_are_those_of_the_librarys_report(precision, scale):
    model = nn.Linear(100, 20, bias=False)
    generator = torch.Generator().manual_seed(0)
    model.weight.grad = 10 ** torch.empty(20, 100).uniform_(-12, 2, generator=generator)
    model.weight.grad[0] = 0
    lost = getattr(underflow_report(model, scales=[scale]).layers[0], precision)
    values = task.collect_gradients(model)
    assert len(values) == 1900
    shares = task.count_rounding(values, precision, scale)
    assert shares["zero"] == pytest.approx(lost.zero[0])
    assert shares["short"] == pytest.approx(lost.subnormal[0])
    assert shares["infinite"] == pytest.approx(lost.overflow[0])
    assert sum(shares.values()) == pytest.approx(1)


def test_nothing_is_lost_in_float32():
    assert task.count_rounding(torch.tensor([1e-30, 1e30]), "fp32")["kept"] == 1


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_ranges_are_those_of_the_formats(precision, dtype):
    zero, short, top = pictures.RANGES[precision]
    number = torch.tensor(1.0, dtype=torch.float64)
    assert (number * 2.0**zero).to(dtype) == 0
    assert (number * 1.01 * 2.0**zero).to(dtype) > 0
    assert 2.0**short == torch.finfo(dtype).tiny
    assert torch.finfo(dtype).max < 2.0**top == 2 ** math.ceil(math.log2(torch.finfo(dtype).max))


def test_the_histogram_shows_every_gradient_and_what_becomes_of_it(ax):
    values = torch.tensor([2.0**-30, 2.0**-20, 2.0**-20, 2.0])
    assert pictures.draw_histogram(ax, values, "fp16") is ax
    heights = {
        round(bar.get_x()): bar.get_height()
        for bar in ax.patches
        if round(bar.get_width(), 6) == 0.9
    }
    assert heights[-30] == 25 and heights[-20] == 50 and heights[1] == 25
    assert sum(heights.values()) == 100
    assert texts(ax) == ["25 % become 0\n50 % lose digits\n25 % kept"]
    pictures.draw_histogram(ax, values, "fp16", 2.0**15)  # it is drawn anew
    assert texts(ax) == ["25 % lose digits\n50 % kept\n25 % infinite"]
    pictures.draw_histogram(ax, values, "bf16")
    assert texts(ax) == ["100 % kept"]


def test_a_gradient_beyond_the_picture_is_drawn_at_its_edge(ax):
    pictures.draw_histogram(ax, torch.tensor([2.0**-100, 2.0**100]), "fp16")
    heights = [bar.get_height() for bar in ax.patches if round(bar.get_width(), 6) == 0.9]
    assert heights[0] == heights[-1] == 50


def test_the_formats_are_bars_over_one_axis(ax):
    pictures.draw_formats(ax, torch.tensor([2.0**-30, 2.0**-20]))
    full = [
        bar
        for bar in ax.patches
        if bar.get_facecolor()[:3] == pytest.approx((0, 158 / 255, 115 / 255))
    ]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in full] == [
        (-126, 128),
        (-126, 128),
        (-14, 16),
    ]


def test_two_kinds_of_noise_stand_under_one_scale(ax):
    one = Interval(0.93, 0.89, 0.95, 300, over="test examples")
    pictures.draw_two_noises(ax, [-0.01, 0.01], Interval(0.0, -0.002, 0.002, 2), one, margin=0.01)
    test, seeds, _, each = ax.lines[:4]
    assert list(test.get_xdata()) == pytest.approx([-4, 2])
    assert list(seeds.get_xdata()) == pytest.approx([-0.2, 0.2])
    assert list(each.get_xdata()) == [-1, 1]
    margins = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"]
    assert margins == [-1, 1]


def test_curves_are_redrawn_and_named_in_a_legend(ax):
    for _ in range(2):
        pictures.draw_relative_losses(
            ax, {"float32": [torch.ones(3)] * 2, "yours": [torch.ones(3)] * 2}
        )
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["float32", "yours"]


@pytest.mark.parametrize(("skipped", "words"), [(2, ["skipped", "made"]), (0, ["made"])])
def test_skipped_steps_are_told_from_those_made(ax, skipped, words):
    reports = [StepReport(None, (1.0, 8.0))] * skipped + [StepReport(None, (0.0, 4.0))]
    pictures.draw_skips(ax, reports)
    lost, made = ax.lines
    assert list(lost.get_xdata()) == list(range(1, skipped + 1))
    assert (list(made.get_xdata()), list(made.get_ydata())) == ([skipped + 1], [4.0])
    assert texts(ax) == words


def test_an_arm_has_a_value_a_scale_or_a_row_a_seed(ax):
    pictures.draw_against_scale(ax, [1, 2], {"one": [0.5, 0.1], "two": [[1, 2], [3, 4]]}, ylabel="")
    assert [line.get_ydata().tolist() for line in ax.lines[2:4]] == [[1, 2], [3, 4]]
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.5, 0.1])


def test_a_ratio_is_green_where_it_wins_and_grey_where_it_cannot_be_told(ax):
    found = {(64, 16): Interval(0.7, 0.6, 0.8, 8), (64, 32): Interval(1.1, 0.9, 1.3, 8)}
    found |= {(128, 16): 1.5, (128, 32): 1.001}
    pictures.draw_ratio_grid(ax, found, better="above", title="")
    colors = [patch.get_facecolor() for patch in ax.patches]
    assert len(set(colors)) == 3
    assert colors[1] == colors[3]
    assert texts(ax) == ["0.70", "1.10", "1.50", "1.00"]
    pictures.draw_ratio_grid(ax, found, better="below", title="")
    assert ax.patches[4].get_facecolor() == colors[2]


def a_record(gpu, effect=1.7, interval=(1.6, None)):
    hardware = "nvidia-h200" if gpu else "cpu"
    verdict = {
        "claim": "amp-speed",
        "verdict": "SUPPORTED" if effect else "SKIPPED",
        "effect": effect,
        "interval": list(interval),
        "n": 20,
        "over": "timings",
        "reason": "needs cuda",
    }
    machine = {"hardware": hardware, "gpu": "NVIDIA H200" if gpu else None}
    record = Record("amp", {}, "0.1.0", "", "2026-11-30T10:00:00+00:00", machine)
    record.verdicts = [verdict]
    record.close()
    return record


def test_without_a_recorded_gpu_the_lesson_says_so(tmp_path):
    assert "No run of this lesson on a GPU has been recorded" in task.show_recorded_verdicts(
        "amp", tmp_path
    )
    ledger.keep_record(a_record(gpu=False), tmp_path)
    assert "No run of this lesson on a GPU has been recorded" in task.show_recorded_verdicts(
        "amp", tmp_path
    )


def test_recorded_verdicts_of_gpus_are_shown_with_hardware_and_date(tmp_path):
    ledger.keep_record(a_record(gpu=False), tmp_path)
    ledger.keep_record(a_record(gpu=True), tmp_path)
    *_, row = task.show_recorded_verdicts("amp", tmp_path).splitlines()
    assert row == (
        "| `amp-speed` | SUPPORTED | 1.7 [1.6, ∞], n = 20 timings | NVIDIA H200 | 2026-11-30 |"
    )
    assert "No run" in task.show_recorded_verdicts("clipping", tmp_path)
    ledger.keep_record(a_record(gpu=True, effect=None), tmp_path)
    assert "| SKIPPED | needs cuda |" in task.show_recorded_verdicts("amp", tmp_path)


def test_by_default_the_ledger_that_ships_is_read():
    assert task.show_recorded_verdicts("amp") == task.show_recorded_verdicts(
        "amp", ledger.ledger_dir()
    )


def test_small_gradients_are_the_point_of_the_task():
    """Most of them vanish in fp16, and none does with a loss scale or in bf16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    model.append(nn.Linear(32, 2))
    data = task.locate_ink(digits(), pixel=0.003)
    nn.functional.mse_loss(0.003 * model(data.x_train[:64]), data.y_train[:64]).backward()
    values = task.collect_gradients(model)
    assert task.count_rounding(values, "fp16")["zero"] > 0.8
    assert task.count_rounding(values, "fp16", 2.0**16)["zero"] < 0.05
    assert task.count_rounding(values, "bf16")["zero"] == 0
