// Draws a plan: a box for each step, filled by what is done of it, after the steps that it uses.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [184, 76];
/** Between steps that follow each other, and between those side by side. */
const [AHEAD, BESIDE] = [52, 18];
const MARGIN = 6;
/** Where a plan runs downwards, since there is no room to the right. */
const NARROW = 640;
/** Letters of a name or a text that fit into a box. */
const [NAME, TEXT] = [20, 27];

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

/**
 * Draws `steps` into an element. `standing` returns for a step its `state`, what part of it is
 * `done`, from 0 to 1, and a `note`; `choose` is told the step that somebody points at.
 */
export function draw(element, steps, standing, choose) {
  const isDown = element.clientWidth < NARROW;
  const [along, across] = isDown ? [HEIGHT, WIDTH] : [WIDTH, HEIGHT];
  const found = layers(steps);
  const most = Math.max(1, ...found.map((layer) => layer.length));
  const length = found.length * along + (found.length - 1) * AHEAD;
  const breadth = most * across + (most - 1) * BESIDE;
  const places = new Map();
  found.forEach((layer, depth) => {
    const free = breadth - layer.length * across - (layer.length - 1) * BESIDE;
    layer.forEach((step, n) => {
      const [ahead, beside] = [depth * (along + AHEAD), free / 2 + n * (across + BESIDE)];
      places.set(step.name, isDown ? [beside, ahead] : [ahead, beside]);
    });
  });
  const [width, height] = (isDown ? [breadth, length] : [length, breadth]).map((size) => size + 2 * MARGIN);
  const picture = svg("svg", {
    viewBox: `${-MARGIN} ${-MARGIN} ${width} ${height}`, width, height, role: "img", class: "plan",
  });
  picture.dataset.tLabel = "jobs.picture";
  for (const step of steps) {
    for (const used of step.after ?? []) {
      if (places.has(used)) picture.append(line(places.get(used), places.get(step.name), isDown, standing(used).state));
    }
  }
  for (const step of steps) picture.append(box(step, places.get(step.name), standing(step.name), choose));
  element.replaceChildren(picture);
}

function line([fromX, fromY], [toX, toY], isDown, state) {
  const way = isDown
    ? [[fromX + WIDTH / 2, fromY + HEIGHT], [toX + WIDTH / 2, toY]]
    : [[fromX + WIDTH, fromY + HEIGHT / 2], [toX, toY + HEIGHT / 2]];
  const [[x1, y1], [x2, y2]] = way;
  const bend = isDown ? [[x1, (y1 + y2) / 2], [x2, (y1 + y2) / 2]] : [[(x1 + x2) / 2, y1], [(x1 + x2) / 2, y2]];
  return svg("path", { class: `way ${state}`, d: `M${x1} ${y1}C${bend.map((at) => at.join(" ")).join(" ")} ${x2} ${y2}` });
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
