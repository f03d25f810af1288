// A curve to draw: the heights of equally distant points, from 0 to 1. A drag changes the points
// that it passes, and the kernel hears of it when the button is let go.

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BASE] = [44, 612, 12, 132]; // in units of the view box, 640 x 172
const INK = "var(--jp-ui-font-color1, #222)";
const SOFT = "var(--jp-ui-font-color2, #666)";
const LINE = "#D55E00"; // the colour of the technique
const STEP = 0.05; // of one press of an arrow key

const make = (parent, tag, attributes, text, space) => {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const draw = (parent, tag, attributes, text) => make(parent, tag, attributes, text, SVG);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const rounded = (height) => Math.round(clamp(height, 0, 1) * 100) / 100;
const percent = (share) => `${Math.round(100 * share)} %`;

// Draw what does not move: the frame and its ticks.
function drawFrame(svg) {
  const text = { "font-size": 12, fill: SOFT };
  for (const height of [0, 0.5, 1]) {
    const y = BASE - height * (BASE - TOP);
    draw(svg, "line", { x1: LEFT, x2: RIGHT, y1: y, y2: y, stroke: SOFT, "stroke-opacity": 0.35 });
    draw(svg, "text", { ...text, x: LEFT - 8, y: y + 4, "text-anchor": "end" }, String(height));
  }
  for (const share of [0, 0.25, 0.5, 0.75, 1])
    draw(svg, "text", {
      ...text, x: LEFT + share * (RIGHT - LEFT), y: BASE + 17, "text-anchor": "middle",
    }, percent(share));
  draw(svg, "text", { ...text, x: (LEFT + RIGHT) / 2, y: BASE + 32, "text-anchor": "middle" },
    "share of the training: draw with the mouse, or use the arrow keys");
}

function render({ model, el }) {
  const name = model.get("description"), presets = model.get("presets");
  let heights = [...model.get("heights")], chosen = 0, last;
  const end = heights.length - 1;
  const x = (place) => LEFT + (place / end) * (RIGHT - LEFT);
  const y = (height) => BASE - height * (BASE - TOP);

  el.classList.add("nbkit-curve");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // the arrow keys belong to the curve
  const row = make(el, "div", { role: "group", "aria-label": `${name}, ready-made curves`,
    style: "display: flex; gap: 0.5em; align-items: center; font-size: 13px" });
  make(row, "span", { title: model.get("tooltip"),
    style: "width: 8em; flex: none; text-align: right" }, name);
  const buttons = Object.keys(presets).map((word) =>
    make(row, "button", { type: "button", class: "jupyter-button", style: "width: auto" }, word));
  const svg = draw(el, "svg", {
    viewBox: "0 0 640 172", role: "application", tabindex: 0,
    "aria-label": `${name}: left and right choose a point, up and down move it`,
    style: "display: block; width: 100%; max-width: 640px; touch-action: none; cursor: crosshair",
  });
  drawFrame(svg);
  // Read out at each change; not a role of its own, as the lab has one status line.
  const spoken = make(el, "span", { "aria-live": "polite",
    style: "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)" });
  const line = draw(svg, "polyline", {
    fill: "none", stroke: LINE, "stroke-width": 3, "stroke-linejoin": "round" });
  const mark = draw(svg, "circle", { r: 5, fill: "none", stroke: INK, "stroke-width": 2 });

  const show = () => {
    line.setAttribute("points", heights.map((height, k) => `${x(k)},${y(height)}`).join(" "));
    mark.setAttribute("cx", x(chosen));
    mark.setAttribute("cy", y(heights[chosen]));
    spoken.textContent = `${heights[chosen]} at ${percent(chosen / end)}`;
    const value = model.get("value");
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.textContent === value));
  };
  const send = (text) => {
    model.set("value", text);
    model.save_changes();
  };
  const sendHeights = () => send(heights.join(" "));
  const take = () => {
    if (last) return; // somebody is drawing: what is drawn comes next
    heights = [...model.get("heights")];
    show();
  };

  // ---- the mouse and a finger ----

  const find = (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) * 640) / box.width;
    const up = ((event.clientY - box.top) * 172) / box.height;
    return [clamp(Math.round((end * (at - LEFT)) / (RIGHT - LEFT)), 0, end),
            rounded((BASE - up) / (BASE - TOP))];
  };
  // A quick drag jumps over points: those between the last two places lie on a straight line.
  const drawTo = ([place, height]) => {
    const [from, old] = last ?? [place, height];
    const way = Math.max(1, Math.abs(place - from));
    for (let k = 0; k <= way; k++) {
      const share = k / way;
      heights[Math.round(from + (place - from) * share)] = rounded(old + (height - old) * share);
    }
    heights[place] = height;
    [last, chosen] = [[place, height], place];
    show();
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    svg.setPointerCapture(event.pointerId);
    last = undefined;
    drawTo(find(event));
  });
  svg.addEventListener("pointermove", (event) => last && drawTo(find(event)));
  for (const kind of ["pointerup", "pointercancel"])
    svg.addEventListener(kind, () => {
      if (last) sendHeights();
      last = undefined;
    });

  // ---- the keyboard ----

  svg.addEventListener("keydown", (event) => {
    const sideways = { ArrowRight: 1, ArrowLeft: -1, Home: -end, End: end }[event.key];
    const upwards = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: 0.25, PageDown: -0.25 }[event.key];
    if (sideways === undefined && upwards === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (sideways !== undefined) {
      chosen = clamp(chosen + sideways, 0, end);
      return show();
    }
    const height = rounded(heights[chosen] + upwards);
    // With Shift, all later points get the same height.
    for (let k = chosen; k <= (event.shiftKey ? end : chosen); k++) heights[k] = height;
    show();
    sendHeights();
  });

  buttons.forEach((button) => button.addEventListener("click", () => send(button.textContent)));
  model.on("change:heights", take);
  model.on("change:value", show);
  show();
  return () => {
    model.off("change:heights", take);
    model.off("change:value", show);
  };
}

export default { render };
