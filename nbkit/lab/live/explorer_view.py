"""What an explorer shows on the page: its controls, a status line, the picture, an error."""

from __future__ import annotations

import base64
import html
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from nbkit.lab.knobs import Knob, Value
from nbkit.lab.live.controls import PageLabels, make_control
from nbkit.lab.live.fitting import Fitting
from nbkit.lab.live.headless_stops import format_value

# The box is alive only where there is a kernel. The same picture is stored once more, as an
# ordinary output below the box; where the box is alive, this rule hides that copy.
_HIDE_COPY = (
    "<style>.jp-OutputArea-child:has(.nbkit-explore) + .jp-OutputArea-child"
    " { display: none }</style>"
)
_WITHOUT_WIDGETS = "Sliders: run the notebook to move them."  # the box on a page without a kernel
_LAST_PRINTED = 4000  # characters of the output of fit that are shown


class Screen(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """Show controls above a status line, the picture, and below it what fit printed or raised.

    Args:
        controls: the widgets of the knobs.
        width: of the picture, in pixels.
    """

    def __init__(self, controls: Sequence[widgets.Widget], width: int) -> None:
        self.status, self.report, self.labels = widgets.HTML(), widgets.HTML(), PageLabels()
        self.status.add_class("nbkit-status")
        # With a fixed width the page jumps neither before the first picture nor between two.
        layout = {"width": f"{width}px", "max_width": "100%", "flex": "0 0 auto"}
        self.image = widgets.Image(format="png", layout=layout)
        hide_copy = widgets.HTML(_HIDE_COPY, layout={"display": "none"})
        shown = [self.status, self.image, self.report, self.labels, hide_copy]
        super().__init__([*controls, *shown])
        # The style sheet above and the script of the labels find the box by this class.
        self.add_class("nbkit-explore")

    def show_status(self, text: str) -> None:
        """Put one line of text above the picture; a screen reader reads it out."""
        self.status.value = html.escape(text)

    def show_printed(self, text: str) -> None:
        """Put what fit printed below the picture, in place of an earlier error."""
        self.report.value = f"<pre>{html.escape(text[-_LAST_PRINTED:])}</pre>" if text else ""

    def show_error(self, error: BaseException) -> None:
        """Put a traceback below the picture, until the next good run."""
        look = "color:#b00020; border-left:3px solid; padding-left:1em; white-space:pre-wrap"
        text = html.escape(_format_error(error))
        self.report.value = f'<pre role="alert" style="{look}">{text}</pre>'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**options) or {}
        return {**bundle, "text/plain": _WITHOUT_WIDGETS}


def _format_error(error: BaseException) -> str:
    """Format a traceback that begins at the learner's own line, without the lab's frames."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_globals.get("__name__", "").startswith("nbkit.lab."):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def describe_picture(run: Fitting) -> str:
    """Write the text of a picture: the values that it was made for, and the result."""
    values = [f"{name} = {format_value(value)}" for name, value in run.values.items()]
    return f"{', '.join(values)}: {run.result}"


def describe_end(run: Fitting, full: int | None) -> str:
    """Write the status line of a run that has come to an end.

    Args:
        run: the run.
        full: number of seeds of a complete run; None if fit takes no seeds.
    """
    if full is None:
        return f"{run.result} ({run.seconds:.2f} s)"
    if run.count == full:
        return f"{run.result} (final, n = {full}, {run.seconds:.2f} s)"
    return f"{run.result} (n = {run.count}; going on to n = {full} …)"


def make_controls(knobs: Mapping[str, Knob], values: Mapping[str, Value]) -> dict[str, Any]:
    """Make a widget for each knob; if one cannot have any, those before it are closed again.

    Raises:
        KnobError: if a knob has neither a range nor options.
    """
    made: dict[str, Any] = {}
    try:
        for name, knob in knobs.items():
            made[name] = make_control(knob, values[name])
    except BaseException:
        for widget in made.values():
            close_tree(widget)
        raise
    return made


def store_picture(png: bytes, alt: str, display_id: str, *, update: bool) -> None:
    """Store the picture as an ordinary output, for a page without a kernel.

    Args:
        png: the picture.
        alt: its text.
        display_id: id of the output.
        update: True replaces the output of that id; False adds one to the running cell.
    """
    from IPython.display import display

    data = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    metadata = {"image/png": {"alt": alt}}
    display(data, raw=True, metadata=metadata, display_id=display_id, update=update)


def close_tree(root: widgets.Widget) -> None:
    """Close a widget with every widget in it, including their layouts and styles.

    ipywidgets keeps each widget alive until it is closed, and closes no children.
    """
    waiting, seen = [root], set()
    while waiting:
        widget = waiting.pop()
        if widget in seen:
            continue
        seen.add(widget)
        # `keys` names every synchronised attribute: children, layout, style and others.
        for name in widget.keys:
            value = getattr(widget, name, None)
            several = value if isinstance(value, list | tuple) else [value]
            for part in several:
                if isinstance(part, widgets.Widget):
                    waiting.append(part)
        # Observers refer to the explorer, which would stay alive with them.
        widget.unobserve_all()
        widget.close()
