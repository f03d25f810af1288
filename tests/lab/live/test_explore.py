import asyncio
import functools
import gc
import html
import os
import signal
import threading
import time
import weakref

import ipywidgets as widgets
import pytest
import torch
from matplotlib.figure import Figure

from nbkit.lab.knobs import KnobError, between, flag, log
from nbkit.lab.live.explorer import explore
from nbkit.lab.live.fitting import Fitting

KNOBS = {
    "lr": log(0.001, 1, stops=[0.01, 0.1]).with_name("lr", float),
    "steps": between(1, 10_000, stops=[2]).with_name("steps", int),
    "fails": flag().with_name("fails", bool),
}
START = {"lr": 0.1, "steps": 3, "fails": False}
SMALL = {"figsize": (1.0, 1.0), "dpi": 40}


def in_a_loop(test):
    """Run an async test as in a kernel: the loop goes on between the moves."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), timeout=60))

    return run


async def settled(ui):
    """Wait until no move is left to be run."""
    await asyncio.sleep(0)
    while ui._task is not None and not ui._task.done():
        await asyncio.sleep(0.001)


@pytest.fixture
def fit():
    """Note each call, draw a line through lr, and yield `steps` times."""

    def fit(fig, *, lr, steps, fails):
        fit.seen.append((lr, steps))
        fig.add_subplot().plot([0, lr])
        for _ in range(steps):
            yield
        if fails:
            raise ArithmeticError("diverged")
        return f"lr {lr}"

    fit.seen = []
    return fit


@in_a_loop
async def test_the_first_run_is_made_at_once_and_shown(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    assert fit.seen == [(0.1, 3)]
    assert ui.values == START
    assert (ui.result, ui.error, ui.finished, ui.pictures) == ("lr 0.1", None, 1, 1)
    assert ui.screen.image.value == ui.png
    assert ui.screen.status.value.startswith("lr 0.1 (")


def test_what_the_first_run_raises_is_the_cells_error(fit):
    with pytest.raises(ArithmeticError, match="diverged"):
        explore(fit, KNOBS, {**START, "fails": True}, **SMALL)


def test_a_start_that_is_out_of_range_stops_before_any_training(fit):
    with pytest.raises(KnobError, match="lr must be a float from 0.001 to 1, got 5"):
        explore(fit, KNOBS, {**START, "lr": 5}, **SMALL)
    assert fit.seen == []


def test_a_plain_function_is_refused():
    with pytest.raises(TypeError, match="fit must be a generator function"):
        explore(lambda fig, lr: "done", KNOBS, START)


@in_a_loop
async def test_a_move_retrains_and_redraws(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    before = ui.png
    ui.controls["lr"].value = 0.5
    await settled(ui)
    assert fit.seen[1:] == [(0.5, 3)]
    assert ui.result == "lr 0.5"
    assert ui.screen.image.value == ui.png != before


def endless(started):
    """Make a fit that trains for ever unless steps is 1, and notes when it is dropped."""

    def fit(fig, *, steps):
        fig.add_subplot().plot([0, steps])
        started.append(steps)
        try:
            while steps != 1:
                yield
        except GeneratorExit:
            started.append("dropped")
            raise
        yield
        return f"{steps} steps"

    return fit


@in_a_loop
async def test_a_newer_value_drops_the_run_but_shows_how_far_it_came():
    started = []
    ui = explore(endless(started), KNOBS, {"steps": 1}, every=0.0, **SMALL)
    ui.controls["steps"].value = 7
    while ui.pictures < 4:  # the picture moves while it trains
        await asyncio.sleep(0)
    assert ui.screen.status.value == "training …"
    ui.controls["steps"].value = 1
    await settled(ui)
    assert started == [1, 7, "dropped", 1]
    assert (ui.finished, ui.dropped) == (2, 1)
    assert ui.result == "1 steps"


@in_a_loop
async def test_a_run_that_is_no_longer_wanted_is_shown_once_before_it_is_dropped(monkeypatch):
    monkeypatch.setattr("nbkit.lab.live.newest_first.FIRST_PICTURE", 0.5)
    started = []
    ui = explore(endless(started), KNOBS, {"steps": 1}, every=0.5, **SMALL)
    ui.controls["steps"].value = 7
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert started == [1, 7]
    ui.controls["steps"].value = 1
    await settled(ui)
    assert started == [1, 7, "dropped", 1]
    assert ui.pictures == 3


@pytest.mark.parametrize("pause", [None, 0.002])
@in_a_loop
async def test_a_storm_leaves_no_backlog_and_ends_with_the_last_value(fit, pause):
    def slow(fig, *, lr):
        for _ in fit(fig, lr=lr, steps=20, fails=False):
            time.sleep(0.002)
            yield
        return f"lr {lr}"

    ui = explore(slow, KNOBS, START, every=0.02, **SMALL)
    fit.seen.clear()
    for move in range(100):
        ui.controls["lr"].value = 0.01 * (move + 1)
        if pause is not None:
            await asyncio.sleep(pause)
    late = len(fit.seen)
    await settled(ui)
    assert len(fit.seen) <= late + 1, "moves were queued"
    assert fit.seen[-1] == (1.0, 20)
    assert ui.result == "lr 1.0"
    assert ui.finished + ui.dropped == 1 + len(fit.seen)
    last = ui.png
    ui.run()
    assert ui.png == last


@in_a_loop
async def test_moves_from_another_thread_train_in_the_loops_own(fit):
    """By default, JupyterLab delivers a slider's messages in another thread."""
    threads = set()

    def noting(fig, *, lr, steps, fails):
        threads.add(threading.current_thread())
        return (yield from fit(fig, lr=lr, steps=steps, fails=fails))

    ui = explore(noting, KNOBS, START, **SMALL)

    def move():
        for value in (0.2, 0.3, 0.4):
            ui.controls["lr"].value = value

    asyncio.get_running_loop().set_debug(True)  # refuses calls from another thread
    await asyncio.to_thread(move)
    await settled(ui)
    assert ui.result == "lr 0.4"
    assert threads == {threading.main_thread()}


@in_a_loop
async def test_an_exception_shows_the_readers_lines_until_the_next_good_run(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    ui.controls["fails"].value = True
    await settled(ui)
    assert isinstance(ui.error, ArithmeticError)
    shown = html.unescape(ui.screen.report.value)
    assert 'role="alert"' in shown and "ArithmeticError: diverged" in shown
    assert 'raise ArithmeticError("diverged")' in shown
    assert "nbkit/lab" not in shown
    assert ui.screen.status.value == "ArithmeticError: this run did not finish"

    ui.controls["fails"].value = False
    await settled(ui)
    assert ui.error is None
    assert ui.screen.report.value == ""


@in_a_loop
async def test_leaving_python_is_an_error_and_not_the_end_of_the_kernel():
    def fit(fig, *, fails):
        fig.add_subplot()
        yield
        if fails:
            raise SystemExit(0)
        return "done"

    ui = explore(fit, KNOBS, START, **SMALL)
    ui.controls["fails"].value = True
    await settled(ui)
    assert isinstance(ui.error, SystemExit)


@in_a_loop
async def test_prints_are_shown_under_the_picture_as_text():
    def fit(fig, *, lr):
        fig.add_subplot()
        print(f"<b>{lr}</b>")
        yield
        return "done"

    ui = explore(fit, KNOBS, START, **SMALL)
    assert ui.screen.report.value == "<pre>&lt;b&gt;0.1&lt;/b&gt;\n</pre>"


@in_a_loop
async def test_the_notebooks_random_numbers_are_the_same_with_and_without_moves(fit):
    torch.manual_seed(3)
    expected = torch.rand(20)
    torch.manual_seed(3)
    ui = explore(fit, KNOBS, {**START, "steps": 500}, every=0.01, **SMALL)
    found = []
    for move in range(20):
        ui.controls["lr"].value = 0.01 * (move + 1)
        await asyncio.sleep(0.003)
        found.append(torch.rand(()))
    await settled(ui)
    assert torch.equal(torch.stack(found), expected)


@in_a_loop
async def test_run_sets_the_sliders_without_a_second_run(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    assert ui.run(lr=0.02, steps=5) == "lr 0.02"
    assert ui.controls["lr"].value == 0.02
    await settled(ui)
    assert fit.seen == [(0.1, 3), (0.02, 5)]
    with pytest.raises(KnobError, match="unknown parameter 'lrr'"):
        ui.run(lrr=0.1)
    with pytest.raises(KnobError, match="steps must be an int from 1 to 10000, got 0"):
        ui.run(lr=0.5, steps=0)
    assert ui.values["lr"] == 0.02


@in_a_loop
async def test_what_run_raises_is_raised_and_shown(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    with pytest.raises(ArithmeticError, match="diverged"):
        ui.run(fails=True)
    assert isinstance(ui.error, ArithmeticError)
    assert ui.screen.status.value == "ArithmeticError: this run did not finish"
    ui.controls["fails"].value = False
    await settled(ui)
    assert ui.result == "lr 0.1"
    assert ui.error is None


@in_a_loop
async def test_run_in_a_cell_drops_the_run_that_a_slider_has_started():
    started = []
    ui = explore(endless(started), KNOBS, {"steps": 1}, **SMALL)
    ui.controls["steps"].value = 7
    while len(started) < 2:
        await asyncio.sleep(0)
    ui.run(steps=1)
    await settled(ui)
    assert started == [1, 7, 1, "dropped"]
    assert ui.result == "1 steps"
    assert ui.values == {"steps": 1}


def test_without_a_loop_a_move_runs_at_once(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    ui.controls["lr"].value = 0.5
    assert ui.result == "lr 0.5"


@pytest.mark.parametrize("when", ["in a slice", "between two slices"])
@in_a_loop
async def test_the_stop_button_stops_the_run_and_the_moves_that_wait(when, monkeypatch):
    started = []
    ui = explore(endless(started), KNOBS, {"steps": 1}, **SMALL)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ui.controls["steps"].value = 7
        while len(started) < 2:
            await asyncio.sleep(0)
        if when == "in a slice":
            monkeypatch.setattr(
                Fitting, "train_for", lambda *_: os.kill(os.getpid(), signal.SIGINT)
            )
        else:
            os.kill(os.getpid(), signal.SIGINT)
        ui.controls["steps"].value = 9
        await settled(ui)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ui.screen.status.value == "stopped"
    assert 9 not in started


@in_a_loop
async def test_a_hundred_moves_leave_nothing_behind(fit):
    def alive():
        gc.collect()
        kinds = [type(thing) for thing in gc.get_objects()]
        widget_count = sum(issubclass(kind, widgets.Widget) for kind in kinds)
        return kinds.count(Figure), kinds.count(Fitting), widget_count

    ui = explore(fit, KNOBS, START, every=0.0, **SMALL)
    ui.controls["lr"].value = 0.5
    await settled(ui)
    before = alive()
    for move in range(100):
        ui.controls["lr"].value = 0.005 * (move + 1)
        if move % 5 == 0:
            await settled(ui)
    await settled(ui)
    assert ui.finished > 20
    assert alive() == before


@in_a_loop
async def test_the_picture_says_which_values_it_was_made_for(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    assert ui.screen.labels.alt == "lr = 0.1, steps = 3, fails = False: lr 0.1"
    ui.controls["fails"].value = True
    await settled(ui)
    assert ui.screen.labels.alt == "lr = 0.1, steps = 3, fails = False: lr 0.1"


@in_a_loop
async def test_a_run_looks_for_garbage_among_its_own_objects_only(fit):
    def seen(fig, *, lr):
        fig.add_subplot()
        frozen.append(gc.get_freeze_count())
        yield
        return "done"

    frozen = []
    ui = explore(seen, KNOBS, START, **SMALL)
    ui.controls["lr"].value = 0.01
    await settled(ui)
    assert frozen[0] == 0 and frozen[1] > 10_000  # torch alone is more
    assert gc.get_freeze_count() == 0


@in_a_loop
async def test_what_somebody_has_frozen_stays_frozen(fit):
    ui = explore(fit, KNOBS, START, **SMALL)
    gc.freeze()
    try:
        ui.controls["lr"].value = 0.01
        await settled(ui)
        assert ui.result == "lr 0.01"
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@in_a_loop
async def test_what_runs_have_left_over_goes_when_nothing_moves(monkeypatch):
    class Ring:
        def __init__(self):
            self.itself = self

    def leaves_a_ring(fig, *, lr):
        fig.add_subplot()
        rings.append(weakref.ref(Ring()))
        yield
        return "done"

    monkeypatch.setattr("nbkit.lab.live.gc_pause.IDLE", 0.05)
    rings = []
    ui = explore(leaves_a_ring, KNOBS, START, **SMALL)
    for lr in (0.01, 0.1):
        ui.controls["lr"].value = lr
        await settled(ui)
    gc.disable()  # only what the lab itself collects
    try:
        await asyncio.sleep(0.2)
    finally:
        gc.enable()
    assert len(rings) == 3 and not any(ring() for ring in rings)


def seeded(seen):
    """Make a fit that takes seeds, notes how many, and draws a median that ends at lr."""

    def fit(fig, *, lr, seeds):
        seen.append((lr, len(seeds)))
        (line,) = fig.add_subplot().plot([], [], gid="median")
        for step in range(10):
            line.set_data([0, step + 1], [0, lr])
            yield
        return f"lr {lr}"

    return fit


def choose(monkeypatch, count):
    """Let the pace of this machine be such that a move is first run with so many seeds."""
    monkeypatch.setattr("nbkit.lab.live.pace.Pace.choose_count", lambda _: count)


@in_a_loop
async def test_a_move_is_run_with_few_seeds_and_then_with_all(monkeypatch):
    seen = []
    ui = explore(seeded(seen), KNOBS, {"lr": 0.1}, seeds=8, **SMALL)
    assert seen == [(0.1, 8)]
    assert ui.screen.status.value.startswith("lr 0.1 (final, n = 8, ")
    choose(monkeypatch, 5)
    told = []
    ui.screen.status.observe(lambda change: told.append(change.new), "value")
    ui.controls["lr"].value = 0.5
    await settled(ui)
    assert seen[1:] == [(0.5, 5), (0.5, 8)]
    assert told[:2] == ["training …", "lr 0.5 (n = 5; going on to n = 8 …)"]
    assert told[-1].startswith("lr 0.5 (final, n = 8, ")
    assert "seeds" not in ui.screen.labels.alt


@in_a_loop
async def test_a_machine_that_is_quick_enough_trains_all_seeds_at_once(monkeypatch):
    seen = []
    ui = explore(seeded(seen), KNOBS, {"lr": 0.1}, seeds=8, **SMALL)
    choose(monkeypatch, 8)
    ui.controls["lr"].value = 0.5
    await settled(ui)
    assert seen[1:] == [(0.5, 8)]


@in_a_loop
async def test_going_on_to_all_seeds_shows_no_picture_of_its_beginning(monkeypatch):
    ui = explore(seeded([]), KNOBS, {"lr": 0.1}, seeds=8, every=0.0, **SMALL)
    choose(monkeypatch, 3)
    monkeypatch.setattr("nbkit.lab.live.newest_first.SLICE", 0.0)
    ui.controls["lr"].value = 0.5
    while ui.finished == 1:
        await asyncio.sleep(0)
    preliminary = ui.pictures
    await settled(ui)
    assert ui.finished == 3 and ui.pictures == preliminary + 1


@in_a_loop
async def test_a_new_move_drops_the_run_with_all_seeds_at_once(monkeypatch):
    seen = []
    ui = explore(seeded(seen), KNOBS, {"lr": 0.1}, seeds=8, **SMALL)
    choose(monkeypatch, 3)
    monkeypatch.setattr("nbkit.lab.live.newest_first.SLICE", 0.0)
    ui.controls["lr"].value = 0.5
    while (0.5, 8) not in seen:
        await asyncio.sleep(0)
    ui.controls["lr"].value = 0.7
    await settled(ui)
    assert seen[1:] == [(0.5, 3), (0.5, 8), (0.7, 3), (0.7, 8)]
    assert ui.dropped == 1 and ui.result == "lr 0.7"


@in_a_loop
async def test_a_run_that_turns_out_too_slow_is_begun_again_with_fewer_seeds(monkeypatch):
    """The first values are quick; from the others on, every seed costs time."""
    seen, slow = [], {"is": 0.0}

    def fit(fig, *, lr, seeds):
        seen.append((lr, len(seeds)))
        fig.add_subplot().plot([0, lr])
        for _ in range(20):
            time.sleep(slow["is"] * len(seeds))
            yield
        return "done"

    ui = explore(fit, KNOBS, {"lr": 0.1}, seeds=16, **SMALL)
    slow["is"] = 0.02  # all of it: 6.4 s
    ui.controls["lr"].value = 0.5
    while ui.finished == 1:
        await asyncio.sleep(0.001)
    assert seen[1] == (0.5, 16) and seen[2][1] < 16
    ui.close()
    await settled(ui)


@in_a_loop
async def test_the_first_picture_of_a_new_run_has_the_ghost_of_the_one_before(monkeypatch):
    drawn = []

    def note(picture):
        (ax,) = picture.figure.axes
        drawn.append([list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "--"])

    monkeypatch.setattr("nbkit.lab.live.picture.Picture._redraw", note)
    monkeypatch.setattr("nbkit.lab.live.picture.Picture._encode_pixels", lambda _: b"")
    ui = explore(seeded([]), KNOBS, {"lr": 0.1}, seeds=8, every=0.0, **SMALL)
    assert drawn == [[]]
    choose(monkeypatch, 3)
    ui.controls["lr"].value = 0.5
    await settled(ui)
    # The run with few seeds and the one with all are compared with the same one before.
    assert set(map(str, drawn[1:])) == {str([[0, 0.1]])}
    ui.run(lr=0.7)
    assert drawn[-1] == [[0, 0.5]]


@in_a_loop
async def test_axes_without_data_are_not_shown_before_they_have_some():
    def fit(fig, *, lr):
        fig.add_subplot()
        yield
        waiting.append(ui.pictures)
        fig.axes[0].plot([0, lr])
        yield
        return "done"

    waiting = []
    ui = explore(seeded([]), KNOBS, {"lr": 0.1}, seeds=3, every=0.0, **SMALL)
    ui.fit, ui.seeds, ui._pace = fit, None, None
    before = ui.pictures
    ui.controls["lr"].value = 0.5
    await settled(ui)
    assert waiting == [before]


def test_what_is_said_about_seeds_must_fit():
    def without(fig, *, lr):
        yield

    for seeds, error, text in [
        (None, TypeError, r"fit takes `seeds`, .*write `explore\(fit, seeds=8\)`"),
        (0, ValueError, "seeds must be a whole number from 1 on, such as 8, got 0"),
        (2.5, ValueError, "got 2.5"),
    ]:
        with pytest.raises(error, match=text):
            explore(seeded([]), KNOBS, {"lr": 0.1}, seeds=seeds, **SMALL)
    with pytest.raises(TypeError, match="seeds=8 is given, but fit does not take them"):
        explore(without, KNOBS, {"lr": 0.1}, seeds=8, **SMALL)
