"""The figure of a live lab, and its PNG: drawn quickly, and the same after any earlier drawing."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nbkit.lab.live.ghosts import Ghosts, has_content, hide_empty_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture:
    """Hold the figure that fit functions draw on, cleared for each run.

    All runs share one figure: a new one for each would pile up until the garbage is collected.

    Args:
        figsize: inches.
        dpi: dots per inch.
    """

    def __init__(self, figsize: tuple[float, float], dpi: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=figsize, dpi=dpi)
        # A canvas without pyplot, which would show or keep the figure itself.
        self._canvas = FigureCanvasAgg(self.figure)
        self.ghosts = Ghosts()
        self._births: dict[Any, Any] = {}  # where fit put each of the axes
        self._places: list[Any] = []  # where they were in the last picture that was laid out

    def clear_figure(self) -> None:
        """Empty the figure for the next run."""
        self._births.clear()
        self.figure.clear()
        self.figure.set_layout_engine("constrained")

    def release_memory(self) -> None:
        """Empty the figure and free its pixels; another picture may still be drawn."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.clear_figure()
        self.ghosts.forget_runs()
        self._places = []
        # The canvas before holds the pixels of the last picture.
        self._canvas = FigureCanvasAgg(self.figure)

    def has_content(self) -> bool:
        """Return whether any of the axes shows something yet."""
        return any(map(has_content, self.figure.axes))

    def draw_png(self, *, lay_out: bool = True) -> bytes:
        """Draw the figure as it is now.

        Args:
            lay_out: False puts the axes where they were in the last picture that was laid out,
                which halves the time of drawing and keeps them from jumping.

        Axes without data are left out, and the lines of the run before lie under the new ones.
        """
        with self.ghosts.draw_under(self.figure), hide_empty_axes(self.figure):
            self._draw_axes(lay_out)
        return self._encode_pixels()

    def _draw_axes(self, lay_out: bool) -> None:
        """Lay the axes out anew, or put them where they were, and draw them."""
        axes = self.figure.axes
        for ax in axes:
            self._births.setdefault(ax, ax.get_position(original=True))
        if lay_out or len(axes) != len(self._places):
            self.figure.set_layout_engine("constrained")
            # A layout depends on where it starts: here, always where fit put the axes.
            _place_axes(self._births.items())
            self._redraw()
            self._places = [ax.get_position() for ax in axes]
        else:
            self.figure.set_layout_engine("none")
            _place_axes(zip(axes, self._places, strict=True))
            self._redraw()

    def _redraw(self) -> None:
        """Draw the figure onto the canvas."""
        self._canvas.draw()

    def _encode_pixels(self) -> bytes:
        """Encode the canvas as a PNG."""
        from PIL import Image

        size = self._canvas.get_width_height()
        rgba = self._canvas.buffer_rgba()
        pixels = Image.frombuffer("RGBA", size, rgba, "raw", "RGBA", 0, 1)
        buffer = io.BytesIO()
        # Lightly compressed, this takes a third of savefig's time.
        pixels.convert("RGB").save(buffer, "png", compress_level=1)
        return buffer.getvalue()


def _place_axes(places: Iterable[tuple[Any, Any]]) -> None:
    """Put axes at positions, and leave them to the layout engine."""
    for ax, position in places:
        ax.set_position(position)
        # set_position takes the axes out of the layout.
        ax.set_in_layout(True)
