"""Keep the medians of the previous run under those of the new one, and hide axes without data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbkit.lab.knobs import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The gids of lines that become a ghost: plots.seeds gives the first one, a fit may give the other.
KEPT = ("median", "ghost")
GREY = "#8A8A8A"
# For each of the axes, the points of its lines.
Lines = list[list[tuple[Any, Any]]]


class Ghosts:
    """Hold the lines of the last run that came to an end, and draw them under another run's.

    A run of the same values, such as the one with all seeds after one with a few, is no other run:
    both have the same ghost, that of the values before.
    """

    def __init__(self) -> None:
        self._last: tuple[dict[str, Value], Lines] | None = None
        self._shown: Lines = []

    def start_run(self, values: Mapping[str, Value]) -> None:
        """Show the lines of the last run while this one is drawn, if it had other values."""
        if self._last is not None and self._last[0] != values:
            self._shown = self._last[1]

    def finish_run(self, values: Mapping[str, Value], figure: Figure) -> None:
        """Keep the lines of a run that has come to an end."""
        self._last = dict(values), read_lines(figure)

    def forget_runs(self) -> None:
        """Keep no lines."""
        self._last, self._shown = None, []

    @contextlib.contextmanager
    def draw_under(self, figure: Figure) -> Iterator[None]:
        """Put the ghosts on the figure inside; afterwards its axes are as fit left them."""
        added = []
        # If a fit draws fewer axes than the last one did, the rest has no ghost.
        for ax, lines in zip(figure.axes, self._shown, strict=False):
            for x, y in lines:
                added.append(_add_ghost(ax, x, y))
        try:
            yield
        finally:
            for ghost in added:
                ghost.remove()


def read_lines(figure: Figure) -> Lines:
    """Read the points of all lines that may become ghosts."""
    found: Lines = []
    for ax in figure.axes:
        lines = []
        for line in ax.lines:
            if line.get_gid() in KEPT:
                # Copies: fit may go on to use its arrays.
                lines.append((_copy_points(line.get_xdata()), _copy_points(line.get_ydata())))
        found.append(lines)
    return found


def _copy_points(points: Any) -> Any:
    """Copy the coordinates of a line, an array of numbers."""
    return points.copy()


def _add_ghost(ax: Axes, x: Any, y: Any) -> Any:
    """Add a thin grey dashed line under the others, which changes neither limits nor layout."""
    from matplotlib.lines import Line2D

    ghost = Line2D(x, y, color=GREY, linewidth=1, linestyle="--", zorder=1)
    ghost.set_in_layout(False)
    # add_line would let the axes grow to the ghost; add_artist leaves the limits alone.
    return ax.add_artist(ghost)


@contextlib.contextmanager
def hide_empty_axes(figure: Figure) -> Iterator[None]:
    """Hide the axes that have no data yet inside; afterwards they are as before."""
    hidden = []
    for ax in figure.axes:
        if ax.get_visible() and not has_content(ax):
            ax.set_visible(False)
            hidden.append(ax)
    try:
        yield
    finally:
        for ax in hidden:
            ax.set_visible(True)


def has_content(ax: Axes) -> bool:
    """Return whether axes show anything: points, bars, an image, or a text."""
    if ax.collections or ax.images or ax.patches or ax.texts or ax.tables:
        return True
    # A line across the frame, such as that of chance, is no data: one of its coordinates counts in
    # fractions of the frame.
    for line in ax.lines:
        in_data = line.get_transform().contains_branch_seperately(ax.transData)
        points: Any = line.get_xdata()
        if in_data == (True, True) and len(points):
            return True
    return False
