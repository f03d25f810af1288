// The form of a prediction: an axis with a mark to drag, a confidence, and a button that commits
// both. Until the mark has been moved there is no answer, and nothing can be committed.

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TRAY, MARK, BASE] = [16, 624, 18, 62, 78]; // in units of the view box, 640 wide
const INK = "var(--jp-ui-font-color1, #222)";
const SOFT = "var(--jp-ui-font-color2, #666)";

const make = (parent, tag, attributes, text, space) => {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text; // never as HTML: it comes from a file
  parent.append(node);
  return node;
};
const draw = (parent, tag, attributes, text) => make(parent, tag, attributes, text, SVG);
const placed = (part) => LEFT + part * (RIGHT - LEFT);

// Draw what does not move: where the claim holds, its margins, the line and its ticks.
function drawAxis(svg, axis) {
  const text = { "font-size": 12, "text-anchor": "middle", fill: SOFT };
  const [from, to] = axis.holds.map(placed);
  draw(svg, "rect", {
    x: from, y: MARK - 16, width: to - from, height: BASE - MARK + 16,
    fill: "currentColor", "fill-opacity": 0.09,
  });
  draw(svg, "text", { ...text, x: (from + to) / 2, y: MARK - 21 }, "the claim holds here");
  draw(svg, "line", { x1: LEFT, x2: RIGHT, y1: BASE, y2: BASE, stroke: INK });
  for (const margin of axis.margins.map(placed))
    draw(svg, "line", {
      x1: margin, x2: margin, y1: MARK - 16, y2: BASE + 5, stroke: INK, "stroke-width": 2,
    });
  for (const [part, label] of axis.ticks) {
    const x = placed(part);
    draw(svg, "line", { x1: x, x2: x, y1: BASE, y2: BASE + 5, stroke: INK });
    draw(svg, "text", { ...text, x, y: BASE + 19 }, label);
  }
}

// Draw the mark: a hollow diamond, as on the verdict cards, with its value above it.
function drawMark(svg) {
  const group = draw(svg, "g", { class: "nbkit-mark", cursor: "grab" });
  draw(group, "path", {
    d: "M0 -11 L11 0 L0 11 L-11 0 Z", fill: "var(--jp-layout-color0, #fff)", stroke: INK,
    "stroke-width": 2.5,
  });
  const label = draw(group, "text", { y: 5, "font-size": 13, fill: INK });
  return (index, axis) => {
    const x = index < 0 ? LEFT : placed(index / (axis.values.length - 1));
    group.setAttribute("transform", `translate(${x} ${index < 0 ? TRAY : MARK})`);
    const atRight = x > (LEFT + RIGHT) / 2;
    label.setAttribute("text-anchor", atRight ? "end" : "start");
    label.setAttribute("x", atRight ? -16 : 16);
    label.textContent =
      index < 0 ? "no answer yet: drag this mark to the size that you expect"
                : `you: ${axis.labels[index]}`;
  };
}

// Read how far a key moves something with `last` steps, and keep the key from the front end, which
// has commands for the arrow keys. undefined: the key moves nothing.
function takeKey(event, last) {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10,
                  PageDown: -10, Home: -last, End: last }[event.key];
  if (steps !== undefined) {
    event.preventDefault();
    event.stopPropagation();
  }
  return steps;
}

// Let the mouse, a finger and the arrow keys move the mark; `move` takes the new index.
function listen(svg, axis, index, move, isLocked) {
  const last = axis.values.length - 1;
  const clamp = (to) => Math.min(last, Math.max(0, to));
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * 640) / box.width;
    move(clamp(Math.round((last * (x - LEFT)) / (RIGHT - LEFT))));
  };
  let dragging = false;
  svg.addEventListener("pointerdown", (event) => {
    if (isLocked() || event.button) return;
    dragging = true;
    svg.setPointerCapture(event.pointerId);
    // A press on the mark picks it up where it is; a press on the axis puts it there.
    if (!event.target.closest(".nbkit-mark")) follow(event);
  });
  svg.addEventListener("pointermove", (event) => dragging && follow(event));
  for (const name of ["pointerup", "pointercancel"])
    svg.addEventListener(name, () => (dragging = false));
  svg.addEventListener("keydown", (event) => {
    const steps = takeKey(event, last);
    if (steps === undefined || isLocked()) return;
    // The first key brings the mark to the middle of the axis.
    move(index() < 0 && Math.abs(steps) < last ? Math.round(last / 2) : clamp(index() + steps));
  });
}

function render({ model, el }) {
  const axis = model.get("axis");
  el.classList.add("nbkit-prediction");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // the arrow keys belong to the mark
  make(el, "p", { style: "margin: 0" }, axis.sentence);
  make(el, "p", { style: `margin: 0; color: ${SOFT}` }, `${axis.metric}; margin: ${axis.bound}`);
  const svg = draw(el, "svg", {
    viewBox: "0 0 640 102", role: "slider", tabindex: 0, "aria-label": `you expect: ${axis.metric}`,
    "aria-valuemin": axis.values[0], "aria-valuemax": axis.values.at(-1),
    style: "display: block; width: 100%; max-width: 640px; touch-action: none; overflow: visible",
  });
  drawAxis(svg, axis);
  const placeMark = drawMark(svg);

  const row = make(el, "label", { style: "display: flex; gap: 1em; align-items: center" });
  make(row, "span", {}, "How sure are you of the side of the margin?");
  const sure = make(row, "input", { type: "range", min: 50, max: 99, value: 50 });
  const percent = make(row, "output", { style: "min-width: 8em" });
  const button = make(el, "button", { type: "button", class: "jupyter-button" }, "Commit");
  const status = make(el, "p", { role: "status", style: "margin: 0.3em 0" });

  const update = () => {
    const index = model.get("index"), locked = model.get("locked");
    placeMark(index, axis);
    svg.setAttribute("aria-valuetext", index < 0 ? "no answer yet" : axis.labels[index]);
    if (index >= 0) svg.setAttribute("aria-valuenow", axis.values[index]);
    svg.setAttribute("aria-disabled", locked);
    percent.textContent = `${sure.value} %${sure.value === "50" ? " (a coin)" : ""}`;
    sure.setAttribute("aria-valuetext", percent.textContent);
    button.disabled = locked || index < 0;
    sure.disabled = locked;
    status.textContent = model.get("status");
  };
  const move = (to) => {
    model.set("index", to);
    model.save_changes();
  };
  listen(svg, axis, () => model.get("index"), move, () => model.get("locked"));
  sure.addEventListener("input", update);
  sure.addEventListener("keydown", (event) => {
    sure.value = Number(sure.value) + (takeKey(event, 49) ?? 0); // the input keeps to its range
    update();
  });
  button.addEventListener("click", () =>
    model.send({ kind: "commit", index: model.get("index"), confidence: Number(sure.value) }));
  const names = ["change:index", "change:locked", "change:status"];
  for (const name of names) model.on(name, update);
  update();
  return () => names.forEach((name) => model.off(name, update));
}

export default { render };
