"""A knob as a widget that keyboard and screen reader can work: what it looks like, what it says.

ipywidgets' sliders work by keyboard, but have no accessible name, and a logarithmic one is read out
as its exponent ("-2" for 0.01). `Names` repairs both in the page.
"""

from __future__ import annotations

import math

import anywidget
import ipywidgets as widgets
import traitlets

from nbkit.lab.knobs import Knob, KnobError, Value

STEPS_PER_DECADE = 20
_LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "32em", "max_width": "100%"}}


def control(knob: Knob, value: Value) -> widgets.ValueWidget:
    """The widget of a knob: checkbox, list or slider, labelled with the knob's name.

    Raises:
        KnobError: if the knob is text or a number without a range or options to choose from.
    """
    say = {
        "description": knob.name,
        "tooltip": knob.help or knob.describe_values(),
        "value": value,
        **_LOOK,
    }
    if knob.type is bool:
        return widgets.Checkbox(**say)
    if knob.options:
        return widgets.Dropdown(options=knob.options, **say)
    if knob.low is None or knob.high is None:
        raise KnobError(f"{knob.name} has neither a range nor options, so it has no slider.")
    if knob.scale == "log":
        return _log_slider(knob, say)
    if knob.type is int:
        return widgets.IntSlider(min=knob.low, max=knob.high, step=knob.step or 1, **say)
    step = knob.step or (knob.high - knob.low) / 100
    decimals = max(0, math.ceil(-math.log10(step)))
    form = f".{decimals}f"
    return widgets.FloatSlider(min=knob.low, max=knob.high, step=step, readout_format=form, **say)


def read(knob: Knob, widget: widgets.ValueWidget) -> Value:
    """The value that a control shows, as its knob reads it.

    A logarithmic slider gives the three digits that it displays: what you read is what is run.
    """
    value = widget.value
    if knob.type is bool or knob.low is None or knob.high is None:
        return knob.read_value(value)
    if knob.type is int:
        return knob.read_value(round(value))
    digits = 3 if knob.scale == "log" else 10  # a linear one computes 0.30000000000000004
    rounded = float(f"{value:.{digits}g}")
    return knob.read_value(
        min(max(rounded, knob.low), knob.high)
    )  # 10 ** log10(high) may be above high


def _log_slider(knob: Knob, say: dict) -> widgets.FloatLogSlider:
    low, high = math.log10(knob.low), math.log10(knob.high)  # type: ignore[arg-type]
    form = "d" if knob.type is int else ".3g"
    return widgets.FloatLogSlider(
        min=low, max=high, step=1 / STEPS_PER_DECADE, readout_format=form, **say
    )


class Names(anywidget.AnyWidget):
    """Nothing to see: gives the sliders around it a name, and says what they and the picture show.

    `alt` is the picture's text: the values it was made for, and what came out.
    """

    alt = traitlets.Unicode().tag(sync=True)

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
