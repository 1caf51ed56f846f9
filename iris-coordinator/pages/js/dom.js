// Makes elements out of values. Nothing here reads markup, so no text can become any.

const icons = new URL("../icons.svg", import.meta.url).href;
const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. `on*` members listen, `t`, `label` and `hint` are keys of texts, `raw` marks
 * what nobody translates; everything else is an attribute.
 */
export function h(tag, members, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(members ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "t") element.dataset.t = value;
    else if (name === "values") element.dataset.tValues = JSON.stringify(value);
    else if (name === "label") element.dataset.tLabel = value;
    else if (name === "hint") element.dataset.tHint = value;
    else if (name === "raw") element.setAttribute("translate", "no");
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false));
  return element;
}

/** Makes an element of a picture. */
export function svg(tag, members, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(members ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const icon = (name) =>
  svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `${icons}#${name}` }));

export const $ = (id) => document.getElementById(id);
