"""What an explorer shows on the page: its controls, a status line, the picture, an error."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from nbkit.lab.live.controls import Names

# The box is alive only where there is a kernel. The same picture is stored once more, as an
# ordinary output below the box; where the box is alive, this rule hides that copy.
_HIDE_COPY = (
    "<style>.jp-OutputArea-child:has(.nbkit-explore) + .jp-OutputArea-child"
    " { display: none }</style>"
)
_WITHOUT = "Sliders: run the notebook to move them."  # where there are no widgets
_LAST_PRINTED = 4000  # characters


class Screen(widgets.VBox):
    """Controls above a status line, the picture, and below it what fit printed or raised."""

    def __init__(self, controls: Sequence[widgets.Widget], width: int) -> None:
        self.status, self.report, self.names = widgets.HTML(), widgets.HTML(), Names()
        self.status.add_class("nbkit-status")
        # A fixed width: the page does not jump before the first picture, nor between two.
        layout = {"width": f"{width}px", "max_width": "100%", "flex": "0 0 auto"}
        self.image = widgets.Image(format="png", layout=layout)
        hide_copy = widgets.HTML(_HIDE_COPY, layout={"display": "none"})
        shown = [self.status, self.image, self.report, self.names, hide_copy]
        super().__init__([*controls, *shown])
        self.add_class("nbkit-explore")

    def say(self, text: str) -> None:
        """Put one line of text above the picture; a screen reader reads it out."""
        self.status.value = html.escape(text)

    def show_printed(self, text: str) -> None:
        """Put what fit printed below the picture; an earlier error goes."""
        self.report.value = f"<pre>{html.escape(text[-_LAST_PRINTED:])}</pre>" if text else ""

    def show_error(self, text: str) -> None:
        """Put a traceback below the picture, until the next good run."""
        look = "color:#b00020; border-left:3px solid; padding-left:1em; white-space:pre-wrap"
        self.report.value = f'<pre role="alert" style="{look}">{html.escape(text)}</pre>'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {**(super()._repr_mimebundle_(**options) or {}), "text/plain": _WITHOUT}


def close_tree(root: widgets.Widget) -> None:
    """Close a widget with every widget in it, their layouts and styles too."""
    waiting, seen = [root], set()
    while waiting:
        widget = waiting.pop()
        if widget in seen:
            continue
        seen.add(widget)
        for name in widget.keys:
            value = getattr(widget, name, None)
            several = value if isinstance(value, list | tuple) else [value]
            waiting.extend(part for part in several if isinstance(part, widgets.Widget))
        widget.unobserve_all()
        widget.close()
