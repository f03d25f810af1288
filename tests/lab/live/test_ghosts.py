import math

import pytest
import torch
from matplotlib.figure import Figure

from nbkit.lab import plots
from nbkit.lab.live.ghosts import Ghosts, has_content, hide_empty_axes


def draw(values, figure=None):
    """A figure with two axes: curves of seeds on the first, a marked line on the second."""
    figure = figure or Figure()
    figure.clear()
    left, right = figure.subplots(1, 2)
    plots.seeds(left, torch.tensor([values, values]), label="a", color=plots.TECHNIQUE)
    right.plot([0, 1], [7 * values[0], 8], gid="ghost")
    right.plot([0, 1], [0, 0])
    return figure


def ghosts_on(ghosts, figure):
    with ghosts.draw_under(figure):
        return [
            [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "--"]
            for ax in figure.axes
        ]


def run(ghosts, figure, **values):
    """One run from its start to its end; return the ghosts under it."""
    ghosts.start_run(values)
    draw([values["lr"], 2.0], figure)
    under = ghosts_on(ghosts, figure)
    ghosts.finish_run(values, figure)
    return under


def test_the_first_run_has_no_ghost_and_the_next_ones_have_that_of_the_run_before():
    ghosts, figure = Ghosts(), Figure()
    assert run(ghosts, figure, lr=1.0) == [[], []]
    assert run(ghosts, figure, lr=3.0) == [[[1.0, 2.0]], [[7.0, 8.0]]]
    assert run(ghosts, figure, lr=5.0) == [[[3.0, 2.0]], [[21.0, 8.0]]]


def test_a_run_of_the_same_values_keeps_the_ghost():
    """A preliminary run and the full one of the same values are compared with the values before."""
    ghosts, figure = Ghosts(), Figure()
    run(ghosts, figure, lr=1.0)
    first = run(ghosts, figure, lr=3.0)
    assert run(ghosts, figure, lr=3.0) == first == [[[1.0, 2.0]], [[7.0, 8.0]]]


def test_a_run_that_was_dropped_is_no_ghost():
    ghosts, figure = Ghosts(), Figure()
    run(ghosts, figure, lr=1.0)
    ghosts.start_run({"lr": 9.0})
    assert run(ghosts, figure, lr=3.0)[0] == [[1.0, 2.0]]


def test_a_ghost_changes_neither_limits_nor_lines_and_lies_under_the_others():
    ghosts, figure = Ghosts(), Figure()
    run(ghosts, figure, lr=1e6)
    ghosts.start_run({"lr": 1.0})
    draw([1.0, 2.0], figure)
    ax = figure.axes[0]
    before = ax.get_ylim(), len(ax.lines)
    with ghosts.draw_under(figure):
        (ghost,) = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert ghost.get_zorder() < min(line.get_zorder() for line in ax.lines if line != ghost)
        assert ax.get_ylim() == before[0] and not ghost.get_in_layout()
        figure.canvas.draw()
        assert ax.get_ylim() == before[0]
    assert (ax.get_ylim(), len(ax.lines)) == before


def test_ghosts_go_when_drawing_fails():
    ghosts, figure = Ghosts(), Figure()
    run(ghosts, figure, lr=1.0)
    ghosts.start_run({"lr": 2.0})
    with pytest.raises(KeyboardInterrupt), ghosts.draw_under(figure):
        raise KeyboardInterrupt
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]


def test_a_figure_with_fewer_axes_has_fewer_ghosts():
    ghosts, figure = Ghosts(), Figure()
    run(ghosts, figure, lr=1.0)
    ghosts.start_run({"lr": 2.0})
    figure.clear()
    figure.add_subplot().plot([0, 1])
    assert ghosts_on(ghosts, figure) == [[[1.0, 2.0]]]


CONTENTS = {
    "points": lambda ax: ax.plot([1], [1]),
    "bars": lambda ax: ax.bar([1], [1]),
    "image": lambda ax: ax.imshow([[1]]),
    "dots": lambda ax: ax.scatter([1], [1]),
    "text": lambda ax: ax.text(0.5, 0.5, "no suggestion"),
}
EMPTY = {
    "nothing": lambda ax: None,
    "a line without points": lambda ax: ax.plot([], []),
    "a line for chance": lambda ax: ax.axhline(math.log(10)),
}


@pytest.mark.parametrize("name", [*CONTENTS, *EMPTY])
def test_only_axes_without_content_are_hidden(name):
    figure = Figure()
    ax = figure.add_subplot()
    {**CONTENTS, **EMPTY}[name](ax)
    assert has_content(ax) == (name in CONTENTS)
    with hide_empty_axes(figure):
        assert ax.get_visible() == (name in CONTENTS)
    assert ax.get_visible()


def test_axes_that_fit_has_hidden_stay_hidden():
    figure = Figure()
    ax = figure.add_subplot()
    ax.set_visible(False)
    with hide_empty_axes(figure):
        pass
    assert not ax.get_visible()
