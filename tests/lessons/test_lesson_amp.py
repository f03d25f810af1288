"""What lesson amp trains and measures: positions, formats, rounded trainings, steps and maps."""

import math
import struct
import time

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from nbkit import Amp, underflow_report
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.models import mlp
from nbkit.lessons.amp import formats, lab, pictures, task
from nbkit.lessons.amp.exercise import ANSWERS, solve_scaled_step

pyplot = pytest.importorskip("matplotlib.pyplot")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def finish(fit):
    """The line of text that a fit function returns."""
    try:
        while True:
            next(fit)
    except StopIteration as end:
        return end.value


# ---- formats ----


@pytest.mark.parametrize("number", [0.1, -1.5, 1e-8, 65504.0, 70000.0, 6e-8, 1.0])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_bits_are_those_that_numpy_and_struct_have(number, precision):
    kind, unsigned, width = {"fp16": ("f2", "u2", 16), "fp32": ("f4", "u4", 32)}[precision]
    with numpy.errstate(over="ignore"):
        expected = numpy.array(number).astype(kind)
    stored = formats.store_number(number, precision)
    assert "".join(stored.bits) == f"{int(expected.view(unsigned)):0{width}b}"
    assert tuple(map(len, stored.bits)) == (1, *formats.FIELDS[precision])
    assert stored.value == expected


def test_bf16_is_the_upper_half_of_float32():
    for number in (1.0, -2.5, 257.0, 1e-8):
        whole = struct.unpack(">I", struct.pack(">f", number))[0]
        upper, lower = divmod(whole, 2**16)
        # Rounded to nearest, ties to even.
        upper += lower > 2**15 or (lower == 2**15 and upper % 2)
        assert "".join(formats.store_number(number, "bf16").bits) == f"{upper:016b}"


@pytest.mark.parametrize(
    ("number", "scale", "precision", "words"),
    [
        (0.5, 1.0, "fp16", "0.5, exact"),
        (257.0, 1.0, "bf16", "256, off by 0.39 %"),
        (1e-8, 1.0, "fp16", "0: lost"),
        (1e5, 1.0, "fp16", "infinite"),
        (0.5, 4.0, "fp16", "0.5, exact"),  # in the number's own unit again
        (0.0, 1.0, "fp16", "0: lost"),
    ],
)
def test_what_became_of_a_number_is_said_in_words(number, scale, precision, words):
    stored = formats.store_number(number * scale, precision)
    assert formats.describe_stored(stored, scale) == words


@pytest.mark.parametrize("scale", [1.0, 2.0**8, 2.0**30])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_shares_are_those_of_the_librarys_report(precision, scale):
    model = nn.Linear(100, 20, bias=False)
    generator = torch.Generator().manual_seed(0)
    values = 10 ** torch.empty(20, 100).uniform_(-12, 2, generator=generator)
    model.weight.grad = values
    lost = getattr(underflow_report(model, scales=[scale]).layers[0], precision)
    shares = formats.count_rounding(values, precision, scale)
    assert shares["zero"] == pytest.approx(lost.zero[0])
    assert shares["short"] == pytest.approx(lost.subnormal[0])
    assert shares["infinite"] == pytest.approx(lost.overflow[0])
    assert sum(shares.values()) == pytest.approx(1)


def test_nothing_is_lost_in_float32():
    assert formats.count_rounding(torch.tensor([1e-30, 1e30]), "fp32")["kept"] == 1


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_ranges_are_those_of_the_formats(precision, dtype):
    zero, short, top = formats.RANGES[precision]
    number = torch.tensor(1.0, dtype=torch.float64)
    assert (number * 2.0**zero).to(dtype) == 0
    assert (number * 1.01 * 2.0**zero).to(dtype) > 0
    assert 2.0**short == torch.finfo(dtype).tiny
    assert torch.finfo(dtype).max < 2.0**top == 2 ** math.ceil(math.log2(torch.finfo(dtype).max))


# ---- the live labs ----


@pytest.mark.parametrize(
    ("number", "scale", "start"),
    [
        (1e-8, 1.0, "goal 1 reached"),
        (1e-8, 2.0**4, "goal 2 reached"),
        (7e4, 1.0, "goal 3 reached"),
        (1.0, 2.0**40, "goal 3 reached"),
        (0.1, 1.0, "bf16: 0.100098"),
        (1e-44, 1.0, "bf16: 0: lost"),  # lost in both
    ],
)
def test_the_goals_of_the_first_lab(number, scale, start):
    assert lab.describe_number(number, scale).startswith(start)


def train_under_autocast(seed, pixel, precision, scale, steps):
    """The plain loop: torch's autocast, torch's Adam, and a scale that halves at a skip."""
    data, (model, optimizer) = task.locate_ink(digits(), pixel), task.make_finder(seed)
    amp = Amp(precision, "cpu", init_scale=scale, max_skips=steps + 1)
    losses = []
    for x, y in data.batches(lab.BATCH, seed=seed, steps=steps):
        optimizer.zero_grad()
        with amp.autocast():
            loss = mse_loss(pixel * model(x), y)
        amp.backward(loss)
        amp.step(optimizer)
        losses.append(float(loss.detach() / data.y_train.var(0).mean()))
    return losses, amp.skipped.total


@pytest.mark.parametrize(
    ("precision", "scale", "tolerance"),
    [("fp32", 1.0, 1e-4), ("bf16", 1.0, 0.05), ("fp16", 2.0**8, 0.01), ("fp16", 2.0**36, 0.01)],
)
def test_the_rounded_trainings_are_those_under_autocast(precision, scale, tolerance):
    """Losses agree up to rounding, and the same number of steps is skipped, seed by seed."""
    seeds, steps = (1003, 1001), 20
    runs, data = lab.start_runs(seeds), task.locate_ink(digits(), 0.003)
    for _ in lab.train_rounded(
        runs, data, seeds, pixel=0.003, precision=precision, scale=scale, steps=steps
    ):
        pass
    for column, seed in enumerate(seeds):
        losses, skipped = train_under_autocast(seed, 0.003, precision, scale, steps)
        ours = torch.stack(runs.losses)[:, column]
        torch.testing.assert_close(ours, torch.tensor(losses), rtol=tolerance, atol=0)
        assert int(runs.skipped[column]) == skipped
    assert (runs.skipped > 0).all() == (scale == 2.0**36)


def test_without_a_scale_both_lose_the_training():
    seeds = (1003, 1001)
    runs, data = lab.start_runs(seeds), task.locate_ink(digits(), 0.003)
    for _ in lab.train_rounded(runs, data, seeds, pixel=0.003, precision="fp16", steps=30):
        pass
    plain = [train_under_autocast(seed, 0.003, "fp16", 1.0, 30)[0][-5:] for seed in seeds]
    assert min(runs.read_ends()) > 0.7 and min(map(min, plain)) > 0.6


def test_a_skipped_step_changes_nothing_of_its_run_and_nothing_else():
    weights = torch.ones(2, 3)
    adam = lab.SkippingAdam(weights, lr=0.1)
    adam.take_step(torch.full((2, 3), 2.0), torch.tensor([True, False]))
    adam.take_step(torch.full((2, 3), 3.0), torch.tensor([True, True]))
    for row, gradients in enumerate(([2.0, 3.0], [3.0])):
        expected = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([expected], lr=0.1)
        for gradient in gradients:
            expected.grad = torch.full((3,), gradient)
            optimizer.step()
        torch.testing.assert_close(weights[row], expected.detach())


@pytest.mark.parametrize(
    ("log2_scale", "pixel", "precision", "start"),
    [
        (0, 0.003, "fp16", "yours ends higher"),
        (4, 0.003, "fp16", "yours ends higher"),  # by a few per cent: nearly won back
        (8, 0.003, "fp16", "goal 1 reached"),
        (40, 0.003, "fp16", "goal 2 reached"),
        (0, 1.0, "fp16", "goal 3 reached"),
        (0, 0.003, "bf16", "no difference"),
    ],
)
def test_the_goals_of_the_second_lab(log2_scale, pixel, precision, start):
    figure = pyplot.figure()
    values = {"log2_scale": log2_scale, "pixel": pixel, "precision": precision}
    said = finish(lab.draw_training(figure, **values, seeds=range(1000, 1006)))
    assert said.startswith(start)
    left, right = figure.axes
    assert left.get_xlim() == (pictures.LEFT, pictures.RIGHT)
    assert right.get_ylim() == (pictures.LOWEST, pictures.HIGHEST)
    pyplot.close(figure)


def test_the_first_lab_draws_both_pictures():
    figure = pyplot.figure()
    said = finish(lab.draw_number(figure, number=0.1, log2_scale=0))
    assert said == "bf16: 0.100098, off by 0.098 %; fp16: 0.0999756, off by 0.024 %"
    assert all(ax.has_data() for ax in figure.axes)
    pyplot.close(figure)


# ---- the ink ----


def test_the_centre_of_one_spot_is_where_the_spot_is():
    x = torch.zeros(2, 8, 8)
    x[0, 0, 7] = 0.5  # top right: its darkness does not matter
    x[1, 3, 2] = x[1, 4, 5] = 1.0  # two spots, halfway
    label = torch.zeros(2, dtype=torch.int64)
    data = task.locate_ink(Data(x.flatten(1), label, x.flatten(1)[:1], label[:1]), pixel=0.01)
    torch.testing.assert_close(data.y_train, torch.tensor([[-0.035, 0.035], [0.0, 0.0]]))
    torch.testing.assert_close(data.y_test, data.y_train[:1])


def test_small_gradients_are_the_point_of_the_task():
    """Most of them vanish in fp16, and none does with a loss scale, in bf16 or in pixels."""
    values = task.find_first_gradients(task.locate_ink(digits(), 0.003), 0.003)
    assert (values != 0).all()
    assert formats.count_rounding(values, "fp16")["zero"] > 0.8
    assert formats.count_rounding(values, "fp16", 2.0**16)["zero"] < 0.05
    assert formats.count_rounding(values, "bf16")["zero"] == 0
    values = task.find_first_gradients(task.locate_ink(digits(), 1.0), 1.0)
    assert formats.count_rounding(values, "fp16")["zero"] < 0.05


def test_the_exercise_amp_and_gradscaler_take_the_same_steps():
    def step_with_amp(loss, optimizer, amp):
        amp.backward(loss)
        return amp.step(optimizer).stepped, amp

    def step_always(loss, optimizer, scale):
        loss.backward()
        optimizer.step()
        return True, scale

    theirs = task.train_with(step_with_amp, Amp("fp16", "cpu", init_scale=2.0**40))
    assert task.train_with(solve_scaled_step, 2.0**40) == theirs
    assert 0 < theirs[0].count(False) < 30
    assert task.train_with(step_always, None)[1] != theirs[1]


# ---- steps and maps ----


def test_the_steps_of_both_precisions_train_their_own_model(monkeypatch):
    models = []
    monkeypatch.setattr(task, "mlp", lambda *a, **k: models.append(mlp(*a, **k)) or models[-1])
    steps = task.make_steps(8, 4, "cpu", times=3)
    before = [model[0].weight.detach().clone() for model in models]
    seen = []
    models[1].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    steps["bf16"]()
    assert seen == [torch.bfloat16] * 3
    assert torch.equal(models[0][0].weight, before[0])
    assert not torch.equal(models[1][0].weight, before[1])
    steps["fp32"]()
    assert not torch.equal(models[0][0].weight, before[0])


@pytest.mark.parametrize(("device", "clock"), [("cpu", time.process_time), ("cuda", None)])
def test_steps_are_timed_on_one_thread_by_its_own_time_but_for_a_gpu(monkeypatch, device, clock):
    seen = {}

    class Timed:
        def ratio(self, arm, to):
            return arm, to

    def time_it(arms, repeats, **keywords):
        seen.update(keywords, threads=torch.get_num_threads())
        return Timed()

    monkeypatch.setattr(task, "time_it", time_it)
    monkeypatch.setattr(task, "make_steps", lambda *sizes: {})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert task.time_one_size(8, 8, device) == ("fp32", "bf16")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen.get("clock") is clock
    assert seen["threads"] == (1 if device == "cpu" else 2)


def test_half_precision_needs_more_memory_where_the_batch_is_small():
    small, large = (
        task.measure_step_bytes("bf16", 64, size, "cpu")
        / task.measure_step_bytes("fp32", 64, size, "cpu")
        for size in (4, 1024)
    )
    assert small > 1 > large


def near(ratio):
    return Interval(ratio, 0.99 * ratio, 1.01 * ratio, 6)


@pytest.mark.parametrize(
    ("ratios", "native", "words"),
    [
        ((0.7, 0.2), False, ["faster in 0 of 2", "slower in 2", "falls", "makes it worse"]),
        ((0.7, 2.0), True, ["faster in 1 of 2", "slower in 1", "rises", "pays for the conv"]),
        ((0.7, 0.5), True, ["falls", "has instructions", "does not help"]),
        ((0.5, 0.9), False, ["rises", "not known to have instructions", "lose less"]),
    ],
)
def test_the_conclusion_of_the_map_is_that_of_what_was_measured(ratios, native, words):
    faster = {(64, 16): near(ratios[0]), (512, 512): near(ratios[1])}
    said = task.conclude_map(faster, {(64, 16): 1.1, (512, 512): 0.8}, native=native)
    for word in [*words, "Memory falls in 1 of 2 cells"]:
        assert word in said


def test_the_map_measures_every_cell():
    faster, smaller = task.map_sizes([(8, 4)], "cpu")
    assert faster[8, 4].estimate > 0 and smaller[8, 4] > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_smoke_run_has_a_map_of_four_cells(device):
    assert [len(sizes) for sizes in task.choose_sizes(device, "smoke")] == [2, 2]
    assert [len(sizes) for sizes in task.choose_sizes(device, "lesson")] == [3, 3]


def test_no_claim_is_decided_on_the_seeds_that_tune():
    for profile in ("smoke", "lesson", "full"):
        seeds, lrs, _ = task.choose_budget(profile)
        assert not set(task.TUNING) & {seed for each in seeds.values() for seed in each}
        assert set(lrs) <= set(task.GRID)


def test_the_answer_of_the_bug_hunt_is_the_only_loss_in_float64():
    output, y = torch.randn(6, 10), torch.arange(6)
    found = {name: loss(output, y).dtype for name, loss in task.list_suspects(y).items()}
    right = [name for name, dtype in found.items() if dtype == torch.float64]
    assert right == [ANSWERS["float64"].right]
    values = [float(loss(output, y)) for loss in task.list_suspects(y).values()]
    assert values == pytest.approx([values[0]] * 3)


# ---- pictures ----


def bars(ax):
    return {
        round(bar.get_x()): bar.get_height()
        for bar in ax.patches
        if round(bar.get_width(), 6) == 0.9
    }


def test_the_histogram_shows_every_gradient_and_what_becomes_of_it(ax):
    values = torch.tensor([2.0**-30, 2.0**-20, 2.0**-20, 2.0])
    assert pictures.draw_histogram(ax, values, "fp16") is ax
    assert bars(ax) == {-30: 25, -20: 50, 1: 25}
    assert texts(ax) == ["25 % become 0\n50 % lose digits\n25 % kept"]


def test_a_loss_scale_moves_the_histogram(ax):
    values = torch.tensor([2.0**-30, 2.0**-20, 2.0**-20, 2.0])
    pictures.draw_histogram(ax, values, "fp16", 2.0**15)
    assert bars(ax) == {-15: 25, -5: 50, 16: 25}
    assert texts(ax) == ["25 % lose digits\n50 % kept\n25 % infinite"]


def test_a_gradient_beyond_the_picture_is_drawn_at_its_edge(ax):
    pictures.draw_histogram(ax, torch.tensor([2.0**-100, 2.0**100]), "fp16")
    assert list(bars(ax)) == [pictures.LEFT, pictures.RIGHT - 1]


def test_no_bin_of_the_lesson_leaves_the_fixed_frame(ax):
    for pixel in (0.001, 0.003, 0.1, 1.0):
        values = task.find_first_gradients(task.locate_ink(digits(), pixel), pixel)
        ax.clear()
        pictures.draw_histogram(ax, values, "fp16")
        assert max(bars(ax).values()) < ax.get_ylim()[1]


def test_each_bit_is_a_box_that_is_full_where_it_is_1(ax):
    pictures.draw_bits(ax, 1.0)
    boxes = [patch for patch in ax.patches]
    assert len(boxes) == 32 + 16 + 16
    white = (1.0, 1.0, 1.0, 1.0)
    ones = sum(box.get_facecolor() != white for box in boxes)
    # The exponent of 1 is the bias: 127 in float32 and bf16, 15 in fp16.
    assert ones == (127).bit_count() + (127).bit_count() + (15).bit_count()
    assert [text for text in texts(ax) if ":" in text] == [
        "fp32: 1, exact",
        "bf16: 1, exact",
        "fp16: 1, exact",
    ]


def test_the_number_is_a_line_over_the_ranges_and_its_scaled_self_a_dashed_one(ax):
    pictures.draw_ranges(ax, 2.0**-30, 2.0**10)
    plain, scaled = ax.lines
    assert (plain.get_xdata()[0], scaled.get_xdata()[0]) == (-30, -20)
    assert (plain.get_linestyle(), scaled.get_linestyle()) == ("-", "--")
    full = [bar for bar in ax.patches if bar.get_facecolor() == to_rgba(pictures.KEPT)]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in full]
    assert ends == [(-126, 128), (-126, 128), (-14, 16)]


def to_rgba(color):
    from matplotlib.colors import to_rgba

    return to_rgba(color)


def test_curves_are_redrawn_on_fixed_axes_and_named(ax):
    for count in (1, 3):
        arms = {"float32": [torch.ones(2)] * count, "yours": [torch.full((2,), 0.5)] * count}
        pictures.draw_relative_losses(ax, arms, steps=3)
        assert ax.get_xlim() == (0, 1.4 * 3) and ax.get_ylim() == (0.02, 5.0)
    assert {"float32", "yours", "guessing"} <= set(texts(ax))
    colors = {line.get_color() for line in ax.lines}
    assert set(pictures.COLORS.values()) < colors


def test_the_shares_are_bars_with_their_numbers(ax):
    shares = {0.003: {"float32": 0.1, "bf16": 0.11, "fp16": 1.0}}
    pictures.draw_shares(ax, shares)
    assert [bar.get_width() for bar in ax.patches] == [0.1, 0.11, 1.0]
    assert [text.split() for text in texts(ax)] == [
        ["float32", "0.1"],
        ["bf16", "0.11"],
        ["fp16", "1"],
    ]


def test_a_ratio_has_the_colour_of_the_precision_that_wins_or_is_grey(ax):
    found = {(64, 16): Interval(0.7, 0.6, 0.8, 8), (64, 32): Interval(1.1, 0.9, 1.3, 8)}
    found |= {(128, 16): 1.5, (128, 32): 1.001}
    pictures.draw_ratio_grid(ax, found, better="above", title="")
    plots = pictures.plots
    expected = [plots.BASELINE, plots.QUIET, plots.TECHNIQUE, plots.QUIET]
    assert [patch.get_facecolor() for patch in ax.patches] == [to_rgba(each) for each in expected]
    assert texts(ax) == ["0.70", "1.10", "1.50", "1.00"]
    pictures.draw_ratio_grid(ax, found, better="below", title="")
    assert ax.patches[4].get_facecolor() == to_rgba(plots.TECHNIQUE)
