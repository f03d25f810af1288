import contextlib
import random

import numpy as np
import pytest
import torch

from nbkit.lab.knobs import KnobError, between, log
from nbkit.lab.live.fitting import Fitting, find_knobs
from nbkit.lab.live.picture import Picture

KNOBS = {"lr": log(0.01, 1).with_name("lr", float), "steps": between(1, 9).with_name("steps", int)}


@pytest.fixture
def picture():
    return Picture((2, 1), 50)


def draw(fig, *, steps=3):
    (line,) = fig.add_subplot().plot([0, 1], [0, 1])
    for step in range(steps):
        line.set_ydata([0, step])
        yield
    return f"{steps} steps"


def test_the_knobs_of_a_fit_are_its_parameters_in_its_order():
    def fit(fig, *, steps, lr):
        yield

    assert list(find_knobs(fit, KNOBS)) == ["steps", "lr"]


def plain(fig, *, lr):
    return "done"


def greedy(fig, **knobs):
    yield


def bare():
    yield


def misspelt(fig, *, lrr):
    yield


@pytest.mark.parametrize(
    "fit, error, text",
    [
        (plain, TypeError, "fit must be a generator function.*Write `yield` into its training"),
        (greedy, TypeError, r"fit must read `def greedy\(fig, \*, lr, ...\)`.*got .*\*\*knobs"),
        (bare, TypeError, r"fit must read `def bare\(fig, .*got `def bare\(\)`"),
        (misspelt, KnobError, "unknown parameter 'lrr'. Did you mean 'lr'?"),
    ],
)
def test_anything_else_is_refused_with_the_way_out(fit, error, text):
    with pytest.raises(error, match=text):
        find_knobs(fit, KNOBS)


def test_a_run_ends_with_its_line_of_text_and_its_picture(picture):
    run = Fitting(draw, {"steps": 3}, picture)
    assert run.train_for()
    assert run.result == "3 steps"
    assert run.seconds > 0
    assert picture.draw_png().startswith(b"\x89PNG")


def test_a_slice_ends_at_the_first_yield_after_its_time(picture):
    run = Fitting(draw, {"steps": 3}, picture)
    assert [run.train_for(0) for _ in range(4)] == [False, False, False, True]


def test_a_dropped_run_runs_its_finally_blocks(picture):
    seen = []

    def fit(fig):
        try:
            yield from draw(fig)
        finally:
            seen.append("closed")

    run = Fitting(fit, {}, picture)
    run.train_for(0)
    run.close()
    assert seen == ["closed"]


def randomness():
    """Draw one number from each of the three global random states."""
    return torch.rand(()).item(), np.random.random(), random.random()


def seed_everything(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("way_out", ["finished", "raised", "dropped"])
def test_the_notebooks_random_state_is_untouched_at_every_yield(picture, way_out):
    drawn = []

    def fit(fig):
        for _ in range(3):
            drawn.append(randomness())
            yield from draw(fig, steps=1)
        if way_out == "raised":
            raise RuntimeError
        return "done"

    seed_everything(5)
    expected = [randomness() for _ in range(4)]
    seed_everything(5)
    run = Fitting(fit, {}, picture, seed=0)
    found = []
    with contextlib.suppress(RuntimeError):
        while not run.train_for(0) and not (way_out == "dropped" and len(found) == 2):
            found.append(randomness())
    run.close()
    found.append(randomness())
    assert found == expected[: len(found)]
    seed_everything(0)
    assert drawn == [randomness() for _ in drawn]


@pytest.mark.parametrize("raises", [False, True])
def test_one_thread_inside_and_the_notebooks_number_between_two_slices(picture, raises):
    seen = []

    def fit(fig):
        fig.add_subplot()
        seen.append(torch.get_num_threads())
        yield
        if raises:
            raise RuntimeError
        return "done"

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run = Fitting(fit, {}, picture)
        run.train_for(0)
        between = torch.get_num_threads()
        with contextlib.suppress(RuntimeError):
            run.train_for()
        assert (seen, between, torch.get_num_threads()) == ([1], 3, 3)
    finally:
        torch.set_num_threads(before)


def test_prints_go_to_the_run(picture, capsys):
    def fit(fig):
        print("from fit")
        yield from draw(fig)
        return "done"

    run = Fitting(fit, {}, picture)
    run.train_for(0)
    print("from the notebook")
    run.train_for()
    assert run.printed.getvalue() == "from fit\n"
    assert capsys.readouterr().out == "from the notebook\n"


def test_drawing_with_pyplot_is_refused_and_its_figures_closed(picture):
    import matplotlib.pyplot as plt

    kept = plt.figure()
    before = plt.get_fignums()  # other tests may have left some, too

    def fit(fig):
        plt.figure()
        plt.plot([1, 2])
        yield
        return "done"

    with pytest.raises(RuntimeError, match=r"fit drew 1 figure\(s\) of pyplot; .*fig.add_subplot"):
        Fitting(fit, {}, picture).train_for()
    assert plt.get_fignums() == before
    plt.close(kept)


def test_drawing_nothing_is_refused(picture):
    def fit(fig):
        yield
        return "done"

    with pytest.raises(RuntimeError, match="fit drew nothing; it must draw on the figure"):
        Fitting(fit, {}, picture).train_for()


def test_a_forgotten_return_is_refused(picture):
    def fit(fig):
        fig.add_subplot()
        yield

    with pytest.raises(TypeError, match="fit must return one line of text, got None"):
        Fitting(fit, {}, picture).train_for()


def crowded(fig, *, scale):
    """Draw axes whose layout depends on the data, with a colour bar and twin axes."""
    left, right = fig.subplots(1, 2)
    left.plot([0, scale])
    left.set_ylabel("loss")
    left.twinx().plot([scale, 0])
    fig.colorbar(right.imshow([[0, scale], [1, 2]]), ax=right)
    yield
    left.plot([0, 100 * scale])
    return "done"


def last_picture(*, before, between):
    """Return a run's last picture, after other runs on its figure and other pictures within it."""
    picture = Picture((5, 2), 60)
    for scale in before:
        Fitting(crowded, {"scale": scale}, picture).train_for()
        picture.draw_png()
    run = Fitting(crowded, {"scale": 7}, picture)
    run.train_for(0)
    for _ in range(between):
        picture.draw_png(lay_out=False)
    run.train_for()
    return picture.draw_png()


def test_the_same_values_give_the_same_picture_whatever_was_drawn_before():
    alone = last_picture(before=[], between=0)
    assert last_picture(before=[1e5, 0.001], between=0) == alone
    assert last_picture(before=[1e5], between=3) == alone
    assert last_picture(before=[], between=3) == alone


def test_a_picture_between_keeps_the_layout_of_the_last_one():
    def bounds():
        return [pytest.approx(ax.get_position().bounds, abs=1e-9) for ax in picture.figure.axes]

    picture = Picture((5, 2), 60)
    Fitting(crowded, {"scale": 1e5}, picture).train_for()
    picture.draw_png()
    places = [ax.get_position().bounds for ax in picture.figure.axes]
    run = Fitting(crowded, {"scale": 7}, picture)
    run.train_for(0)
    picture.draw_png(lay_out=False)
    assert places == bounds()
    picture.draw_png()
    assert places != bounds()
