// Small charts, drawn as SVG.

import { h, svg } from "./dom.js";
import { clock, text } from "./i18n.js";

const HEIGHT = 150;
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 6, 8, 20];

/** Returns a round number at or above `most`. */
function ceiling(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((times) => times * unit).find((round) => round >= most);
}

/**
 * Draws lines over time in an element: `points` are `{ at, values }`, `names` the keys of the
 * lines' texts, and `write` writes a value.
 */
export function draw(element, { points, names, write, label }) {
  const width = Math.max(200, element.clientWidth);
  const most = ceiling(Math.max(0, ...points.flatMap((p) => p.values.filter((v) => v !== undefined))));
  const [from, to] = [points[0]?.at ?? 0, points.at(-1)?.at ?? 1];
  const x = (at) => LEFT + ((at - from) / Math.max(1, to - from)) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  picture.dataset.tLabel = label;
  for (const part of [0, 0.5, 1]) {
    const value = most * part;
    picture.append(
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", translate: "no" }, write(value)),
    );
  }
  if (points.length > 1) {
    for (const [at, anchor] of [[from, "start"], [to, "end"]]) {
      picture.append(svg("text", { x: x(at), y: HEIGHT - 4, "text-anchor": anchor, translate: "no" }, clock(at)));
    }
  }
  names.forEach((_, line) => {
    const segments = [];
    let open = false;
    for (const { at, values } of points) {
      const value = values[line];
      if (value !== undefined) segments.push(`${open ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
      open = value !== undefined;
    }
    if (segments.length === 0) return;
    if (line === 0 && segments.length > 1 && !segments.slice(1).some((s) => s.startsWith("M"))) {
      const [first, last] = [points.find((p) => p.values[0] !== undefined), points.findLast((p) => p.values[0] !== undefined)];
      picture.append(svg("path", { class: "area", d: `${segments.join("")}L${x(last.at)} ${y(0)}L${x(first.at)} ${y(0)}Z` }));
    }
    picture.append(svg("path", { class: `series s${line}`, d: segments.join("") }));
  });
  const latest = points.findLast((point) => point.values.some((value) => value !== undefined));
  const key = names.map((name, line) => {
    const value = latest?.values[line];
    return h("span", null, h("i", { class: `s${line}` }), h("span", { t: name }), " ", h("b", { raw: true }, value === undefined ? "–" : write(value)));
  });
  const isEmpty = points.length < 2;
  element.replaceChildren(picture, h("p", { class: "key" }, key), ...(isEmpty ? [h("p", { class: "fine", t: "board.soon" })] : []));
  picture.setAttribute("aria-label", text(label));
}
