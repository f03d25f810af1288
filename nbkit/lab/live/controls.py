"""A knob as a widget that works by keyboard and with a screen reader."""

from __future__ import annotations

import anywidget
import ipywidgets as widgets
import traitlets

from nbkit.lab.curve_knob import CurveKnob
from nbkit.lab.knobs import Knob, KnobError, Value
from nbkit.lab.live.curve_control import CurveControl
from nbkit.lab.live.number_control import make_number_control

# Wide enough for the name of any knob in one line; never wider than the cell.
_LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "32em", "max_width": "100%"}}


def make_control(knob: Knob, value: Value) -> widgets.Widget:
    """Make the widget of a knob: checkbox, list, slider or curve, labelled with the knob's name.

    Raises:
        KnobError: if the knob is text or a number without a range or options to choose from.
    """
    if isinstance(knob, CurveKnob):
        return CurveControl(knob, value)
    options = {
        "description": knob.name,
        "tooltip": knob.help or knob.describe_values(),
        "value": value,
        **_LOOK,
    }
    if knob.type is bool:
        return widgets.Checkbox(**options)
    if knob.options:
        return widgets.Dropdown(options=knob.options, **options)
    if knob.low is None or knob.high is None:
        raise KnobError(f"{knob.name} has neither a range nor options, so it has no slider.")
    return make_number_control(knob, value)


def read_control(knob: Knob, widget: widgets.Widget) -> Value:
    """Read the value that a control shows, as its knob validates it.

    Raises:
        KnobError: if a program has set the control to a value that its knob does not allow.
    """
    value = widget.value
    if knob.type is bool or knob.low is None or knob.high is None:
        return knob.read_value(value)
    # The page has one kind of number; an int comes back as 3.0.
    if knob.type is int:
        return knob.read_value(round(value) if value == round(value) else value)
    # Ten digits repair what a computed value adds up to: 0.30000000000000004.
    rounded = float(f"{value:.10g}")
    return knob.read_value(rounded if knob.low <= rounded <= knob.high else value)


class PageLabels(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore] # anywidget has no types
    """Give the picture around it a text, and the status line its role, for a screen reader.

    The widget itself is invisible. `alt` is the picture's text: the values that it was made for,
    and the result.
    """

    alt = traitlets.Unicode().tag(sync=True)

    # The picture may be drawn anew, so an observer repeats the labelling after each change. A frame
    # is awaited, since this widget is rendered before the box that contains it.
    _esm = """
    const set = (node, name, value) => {
      if (node && node.getAttribute(name) !== value) node.setAttribute(name, value);
    };
    const label = (box, alt) => {
      set(box.querySelector(".nbkit-status"), "role", "status");
      set(box.querySelector("img.widget-image"), "alt", alt);
    };
    export default {
      render({ model, el }) {
        let observer;
        let frame = requestAnimationFrame(function attach() {
          const box = el.closest(".nbkit-explore");
          if (!box) return (frame = requestAnimationFrame(attach));
          const update = () => label(box, model.get("alt"));
          observer = new MutationObserver(update);
          observer.observe(box, { subtree: true, childList: true });
          model.on("change:alt", update);
          update();
        });
        return () => { cancelAnimationFrame(frame); observer?.disconnect(); };
      },
    };
    """
