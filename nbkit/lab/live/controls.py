"""A knob as a widget that works by keyboard and with a screen reader.

ipywidgets' sliders work by keyboard, but have no accessible name, and a screen reader reads out a
logarithmic one as its exponent ("-2" for 0.01). `PageLabels` repairs both in the page.
"""

from __future__ import annotations

import math
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from nbkit.lab.knobs import Knob, KnobError, Value

STEPS_PER_DECADE = 20
# Wide enough for the name of any knob in one line; never wider than the cell.
_LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "32em", "max_width": "100%"}}


def make_control(knob: Knob, value: Value) -> widgets.ValueWidget:
    """Make the widget of a knob: checkbox, list or slider, labelled with the knob's name.

    Raises:
        KnobError: if the knob is text or a number without a range or options to choose from.
    """
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
    if knob.scale == "log":
        return _make_log_slider(knob, knob.low, knob.high, options)
    if knob.type is int:
        return widgets.IntSlider(min=knob.low, max=knob.high, step=knob.step or 1, **options)
    # The knob may name no step; then there are a hundred.
    step = knob.step or (knob.high - knob.low) / 100
    # As many decimals as the step has: 0.05 is shown with two.
    decimals = max(0, math.ceil(-math.log10(step)))
    form = f".{decimals}f"
    return widgets.FloatSlider(
        min=knob.low, max=knob.high, step=step, readout_format=form, **options
    )


def read_control(knob: Knob, widget: widgets.ValueWidget) -> Value:
    """Read the value that a control shows, as its knob validates it.

    A logarithmic slider gives the three digits that it displays: the run uses what you read.
    """
    value = widget.value
    if knob.type is bool or knob.low is None or knob.high is None:
        return knob.read_value(value)
    if knob.type is int:
        # A logarithmic slider has fractions between two whole numbers.
        return knob.read_value(round(value))
    # Ten digits repair what a linear slider adds up to: 0.30000000000000004.
    digits = 3 if knob.scale == "log" else 10
    rounded = float(f"{value:.{digits}g}")
    # Within the range, since 10 ** log10(high) may be above high.
    return knob.read_value(min(max(rounded, knob.low), knob.high))


def _make_log_slider(
    knob: Knob, low: float, high: float, options: dict[str, Any]
) -> widgets.FloatLogSlider:
    """Make a logarithmic slider from low to high; it shows ints as ints, floats by three digits."""
    form = "d" if knob.type is int else ".3g"
    # This widget takes its ends as exponents of ten, but its value as it is.
    return widgets.FloatLogSlider(
        min=math.log10(low),
        max=math.log10(high),
        step=1 / STEPS_PER_DECADE,
        readout_format=form,
        **options,
    )


class PageLabels(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore] # anywidget has no types
    """Give the sliders and the picture around it names and values for a screen reader.

    The widget itself is invisible. `alt` is the picture's text: the values that it was made for,
    and the result.
    """

    alt = traitlets.Unicode().tag(sync=True)

    # The sliders are drawn anew now and then, so an observer repeats the labelling after each
    # change. A frame is awaited, since this widget is rendered before the box that contains it.
    _esm = """
    const set = (node, name, value) => {
      if (node && node.getAttribute(name) !== value) node.setAttribute(name, value);
    };
    const label = (box, alt) => {
      for (const slider of box.querySelectorAll(".widget-slider")) {
        const name = slider.querySelector(".widget-label")?.textContent ?? "";
        const readout = slider.querySelector(".widget-readout");
        const handle = slider.querySelector("[role=slider]");
        set(handle, "aria-label", name);
        set(handle, "aria-valuetext", readout?.textContent ?? "");
        set(readout, "role", "textbox");
        set(readout, "aria-label", name + ", type a value");
      }
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
          observer.observe(box, {
            subtree: true, childList: true, characterData: true,
            attributes: true, attributeFilter: ["aria-valuetext"],
          });
          model.on("change:alt", update);
          update();
        });
        return () => { cancelAnimationFrame(frame); observer?.disconnect(); };
      },
    };
    """
