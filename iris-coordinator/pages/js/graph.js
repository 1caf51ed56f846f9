// Draws a plan: a box for each step, filled by what is done of it, after the steps that it uses.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [204, 76];
/** Between steps that follow each other, and between those side by side. */
const [AHEAD, BESIDE] = [52, 16];
const MARGIN = 6;
/** Where a plan runs downwards, since there is no room to the right, and room for its lines. */
const [NARROW, GUTTER] = [640, 44];
/** Letters of a name or a text that fit into a box. */
const [NAME, TEXT] = [23, 30];

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Returns the steps in layers: each comes after all that it uses. */
function layers(steps) {
  const depth = new Map();
  // A plan's steps come after what they use; what is said otherwise counts as a beginning.
  for (const { name, after = [] } of steps) {
    depth.set(name, 1 + Math.max(-1, ...after.map((used) => depth.get(used) ?? -1)));
  }
  const found = [];
  for (const step of steps) (found[depth.get(step.name)] ??= []).push(step);
  const place = new Map();
  for (const layer of found) {
    // What uses the same steps stands together, so that fewer lines cross.
    const middle = ({ after = [] }) => after.reduce((sum, used) => sum + (place.get(used) ?? 0), 0) / Math.max(1, after.length);
    layer.sort((a, b) => middle(a) - middle(b));
    layer.forEach((step, n) => place.set(step.name, n - (layer.length - 1) / 2));
  }
  return found;
}

/** Places layer after layer to the right; returns the picture's size and where each box is. */
function across(steps) {
  const found = layers(steps);
  const most = Math.max(1, ...found.map((layer) => layer.length));
  const tall = (count) => count * HEIGHT + (count - 1) * BESIDE;
  const places = new Map();
  found.forEach((layer, depth) => {
    const top = (tall(most) - tall(layer.length)) / 2;
    layer.forEach((step, n) => places.set(step.name, [depth * (WIDTH + AHEAD), top + n * (HEIGHT + BESIDE)]));
  });
  return { places, size: [found.length * WIDTH + (found.length - 1) * AHEAD, tall(most)] };
}

/** Places the steps one below the other, with room at their left for the lines. */
function below(steps) {
  const ordered = layers(steps).flat();
  const places = new Map(ordered.map(({ name }, n) => [name, [GUTTER, n * (HEIGHT + BESIDE)]]));
  return { places, size: [GUTTER + WIDTH, ordered.length * (HEIGHT + BESIDE) - BESIDE] };
}

/**
 * Draws `steps` into an element. `standing` returns for a step its `state`, what part of it is
 * `done`, from 0 to 1, and a `note`; `choose` is told the step that somebody points at.
 */
export function draw(element, steps, standing, choose) {
  const isNarrow = element.clientWidth < NARROW;
  const { places, size } = isNarrow ? below(steps) : across(steps);
  const [width, height] = size.map((side) => side + 2 * MARGIN);
  const picture = svg("svg", {
    viewBox: `${-MARGIN} ${-MARGIN} ${width} ${height}`, width, height, role: "img", class: "plan",
  });
  picture.dataset.tLabel = "jobs.picture";
  for (const step of steps) {
    for (const used of step.after ?? []) {
      if (!places.has(used)) continue;
      const d = (isNarrow ? beside : forward)(places.get(used), places.get(step.name));
      picture.append(svg("path", { class: `way ${standing(used).state}`, d }));
    }
  }
  for (const step of steps) picture.append(box(step, places.get(step.name), standing(step.name), choose));
  element.replaceChildren(picture);
}

/** The way from a step to one at its right. */
function forward([fromX, fromY], [toX, toY]) {
  const [x1, y1, x2, y2] = [fromX + WIDTH, fromY + HEIGHT / 2, toX, toY + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

/** The way from a step to one below it, which leads further out the longer it is. */
function beside([x, fromY], [, toY]) {
  const [y1, y2] = [fromY + HEIGHT / 2 + 8, toY + HEIGHT / 2 - 8];
  const out = x - Math.min(GUTTER * 1.3, 16 + (y2 - y1) / 12);
  return `M${x} ${y1}C${out} ${y1} ${out} ${y2} ${x} ${y2}`;
}

function box(step, [x, y], { state, done, note }, choose) {
  const text = (members, said) => svg("text", { x: 14, ...members }, said);
  const made = svg("g", { class: `box ${state}`, transform: `translate(${x} ${y})`, translate: "no" },
    svg("rect", { class: "edge", width: WIDTH, height: HEIGHT, rx: step.work === "join" ? HEIGHT / 2 : 12 }),
    svg("rect", { class: "bar", x: 14, y: HEIGHT - 14, width: WIDTH - 28, height: 4, rx: 2 }),
    svg("rect", { class: "done", x: 14, y: HEIGHT - 14, width: (WIDTH - 28) * Math.min(1, Math.max(0, done)), height: 4, rx: 2 }),
    text({ class: "name", y: 24 }, cut(step.name, note ? NAME - 5 : NAME)),
    text({ class: "text", y: 42 }, cut(step.text, TEXT)),
    svg("text", { class: "note", x: WIDTH - 14, y: 24, "text-anchor": "end" }, note),
    svg("title", {}, `${step.name}: ${step.text}`));
  made.addEventListener("click", () => choose(step.name));
  return made;
}
