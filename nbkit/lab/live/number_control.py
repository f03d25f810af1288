"""A slider with a box to type into, for a number in a range, linear or logarithmic.

ipywidgets' logarithmic slider stops at 0.112 and 0.251 and cannot be set to 1 if its range starts
at 0.25; it corrects what is typed without a word; a screen reader reads out the exponent. This one
stops at round values, keeps a typed one as it is, and says why it refuses one.
"""

from __future__ import annotations

import math

import anywidget
import traitlets

from nbkit.lab.knobs import Knob, Value

STEPS_PER_DECADE = 20  # 1, 1.1, 1.3, 1.4, 1.6, 1.8, 2, ...: these include 1, 2, 2.5, 4 and 5
MOST_POSITIONS = 1000  # of a linear slider, which a screen could hardly show more of


def list_positions(knob: Knob) -> list[float]:
    """List the values at which the slider of a knob stops, from its lowest to its highest.

    On a logarithmic range these are round: two significant digits, the same ones in each decade.

    >>> from nbkit.lab.knobs import log
    >>> list_positions(log(0.25, 0.5))
    [0.25, 0.28, 0.32, 0.35, 0.4, 0.45, 0.5]
    """
    assert knob.low is not None and knob.high is not None
    low, high = float(knob.low), float(knob.high)
    inner = _list_log_stops(low, high) if knob.scale == "log" else _list_linear_stops(knob)
    # Both ends can be reached, round or not; on a log range, the first stop may lie below the end.
    positions = {low, high}
    for stop in inner:
        value = float(round(stop)) if knob.type is int else stop
        if low < value < high:
            positions.add(value)
    return sorted(positions)


def _list_log_stops(low: float, high: float) -> list[float]:
    """List 10 ** (k / 20), rounded to two digits, around a range."""
    first = math.floor(STEPS_PER_DECADE * math.log10(low))
    last = math.ceil(STEPS_PER_DECADE * math.log10(high))
    return [float(f"{10 ** (k / STEPS_PER_DECADE):.2g}") for k in range(first, last + 1)]


def _list_linear_stops(knob: Knob) -> list[float]:
    """List the multiples of the knob's step above its lower end and below its upper one."""
    assert knob.low is not None and knob.high is not None
    span = knob.high - knob.low
    # The knob may name no step: then ints go by one, and floats have a hundred.
    step = knob.step or (1 if knob.type is int else span / 100)
    # Of very many positions, only every second, third, ... is kept.
    step *= math.ceil(span / step / MOST_POSITIONS)
    stops, above = [], step
    # A stop that differs from the upper end by rounding is that end.
    while above < span * (1 - 1e-9):
        # Ten digits repair what adding brings in: 0.30000000000000004.
        stops.append(float(f"{knob.low + above:.10g}"))
        above += step
    return stops


class NumberControl(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore] # anywidget has no types
    """Show a slider, and beside it its value in a box to type into.

    `value` is the number; `positions` are the stops of the slider. A number that is typed may lie
    between two stops. Text that is no number in the range is refused below the slider, and the
    value stays.
    """

    value = traitlets.CFloat().tag(sync=True)
    positions = traitlets.List(traitlets.CFloat()).tag(sync=True)
    whole = traitlets.Bool().tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    tooltip = traitlets.Unicode().tag(sync=True)

    _css = """
    .nbkit-number { display: flex; flex-wrap: wrap; align-items: center; gap: 0 0.6em;
        width: 34em; max-width: 100%; font-size: var(--jp-widgets-font-size, 13px); }
    .nbkit-number label { width: 8em; flex: none; text-align: right; white-space: nowrap; }
    .nbkit-number input[type=range] { flex: 1; min-width: 6em; margin: 0.5em 0; }
    .nbkit-number input[type=text] { width: 5.5em; flex: none; font: inherit; }
    .nbkit-number [role=alert] { flex-basis: 100%; padding-left: 8.6em; color: #b00020; }
    .nbkit-number [role=alert]:empty { display: none; }
    """

    # The range input counts stops, so the keyboard moves from one round value to the next one. Keys
    # are handled here, since a notebook takes the arrows away from the elements inside its cells;
    # the attribute keeps JupyterLab's own shortcuts from moving to another cell.
    _esm = """
    const add = (parent, tag, options) =>
      parent.appendChild(Object.assign(document.createElement(tag), options));
    export default {
      render({ model, el }) {
        const name = model.get("description");
        el.classList.add("nbkit-number");
        el.setAttribute("data-lm-suppress-shortcuts", "true");
        const label = add(el, "label", { textContent: name, title: model.get("tooltip") });
        const slider = add(el, "input", { type: "range", min: 0, step: 1 });
        const box = add(el, "input", { type: "text", inputMode: "decimal" });
        const problem = add(el, "span", {});
        slider.setAttribute("role", "slider");
        slider.setAttribute("aria-label", name);
        box.setAttribute("aria-label", name + ", type a value");
        problem.setAttribute("role", "alert");

        const nearest = (value) => {
          const stops = model.get("positions");
          const distance = (stop) => Math.abs(stop - value);
          return stops.reduce((a, stop, i) => distance(stop) < distance(stops[a]) ? i : a, 0);
        };
        const show = () => {
          const value = model.get("value");
          slider.max = model.get("positions").length - 1;
          slider.value = nearest(value);
          slider.setAttribute("aria-valuetext", String(value));
          box.value = String(value);
          problem.textContent = "";
        };
        const choose = (value) => {
          model.set("value", value);
          model.save_changes();
          show();
        };
        const read = () => {
          const stops = model.get("positions"), low = stops[0], high = stops[stops.length - 1];
          const value = box.value.trim() === "" ? NaN : Number(box.value);
          const fits = value >= low && value <= high
            && (!model.get("whole") || Number.isInteger(value));
          if (fits) return choose(value);
          const kind = model.get("whole") ? "a whole number" : "a number";
          problem.textContent =
            `${name} must be ${kind} from ${low} to ${high}, got "${box.value}": it stays ` +
            `${model.get("value")}.`;
        };
        const chooseStop = (stop) => choose(model.get("positions")[stop]);
        const press = (event) => {
          const at = Number(slider.value), end = Number(slider.max);
          const stops = {
            ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
            PageUp: at + 10, PageDown: at - 10, Home: 0, End: end,
          };
          if (!(event.key in stops) || event.ctrlKey || event.altKey || event.metaKey) return;
          event.preventDefault();
          event.stopPropagation();
          chooseStop(Math.min(Math.max(stops[event.key], 0), end));
        };
        slider.addEventListener("input", () => chooseStop(slider.value));
        slider.addEventListener("keydown", press);
        box.addEventListener("change", read);
        box.addEventListener("keydown", (event) => { if (event.key === "Enter") read(); });
        model.on("change:value", show);
        model.on("change:positions", show);
        show();
        return () => { model.off("change:value", show); model.off("change:positions", show); };
      },
    };
    """


def make_number_control(knob: Knob, value: Value) -> NumberControl:
    """Make the slider of a knob that has a range."""
    return NumberControl(
        value=float(value),
        positions=list_positions(knob),
        whole=knob.type is int,
        description=knob.name,
        tooltip=knob.help or knob.describe_values(),
    )
