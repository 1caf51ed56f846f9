// The API, as the coordinator describes it in `/openapi.json`.

import { call } from "./api.js";
import { $, h, icon } from "./dom.js";
import { number } from "./i18n.js";
import { copy, fault } from "./shell.js";

/** How deep an example of a value goes. */
const DEPTH = 6;

let api = null;
/** Each operation: `{ element, words }`. */
let operations = [];

/** Follows a reference into the document, and what that refers to. */
function resolve(what) {
  let found = what ?? {};
  for (let step = 0; found.$ref && step < 10; step += 1) {
    found = found.$ref.slice(2).split("/").reduce((place, name) => place?.[name], api) ?? {};
  }
  return found;
}

const nameOf = (schema) => schema?.$ref?.split("/").pop();

/** Writes a type in a few words, such as `string` or `array of Node`. */
function typeOf(schema) {
  const { type, items, oneOf, anyOf, properties, enum: values, const: only, format } = resolve(schema);
  if (only !== undefined) return JSON.stringify(only);
  if (values) return values.map((value) => JSON.stringify(value)).join(" | ");
  if (properties) return nameOf(schema) ?? "object";
  if (oneOf ?? anyOf) return (oneOf ?? anyOf).map(typeOf).join(" | ");
  if (type === "array") return `array of ${typeOf(items)}`;
  const name = nameOf(schema);
  if (type === "object" || !type) return name ?? "object";
  return [Array.isArray(type) ? type.join(" | ") : type, format && `(${format})`].filter(Boolean).join(" ");
}

/** Makes an example of a value: what must be there, and what shows what it is for. */
function example(schema, depth = 0) {
  const found = resolve(schema);
  for (const value of [found.example, found.examples?.[0], found.default, found.const, found.enum?.[0]]) {
    if (value !== undefined) return value;
  }
  const one = found.oneOf?.[0] ?? found.anyOf?.[0];
  if (one && !found.properties) return example(one, depth);
  const parts = found.allOf?.map((part) => example(part, depth)) ?? [];
  if (parts.length > 0) return Object.assign({}, ...parts);
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "array") return depth < DEPTH && found.items ? [example(found.items, depth + 1)] : [];
  if (type === "object" || found.properties) {
    const required = new Set([...(found.required ?? []), ...(one?.required ?? [])]);
    const names = Object.keys(found.properties ?? {}).filter((name) => required.has(name));
    return depth < DEPTH ? Object.fromEntries(names.map((name) => [name, example(found.properties[name], depth + 1)])) : {};
  }
  if (type === "integer" || type === "number") return found.minimum ?? 1;
  if (type === "boolean") return true;
  return "…";
}

/** Writes what stands between backticks as code. */
const prose = (said) => said.split("`").map((part, place) => (place % 2 === 1 ? h("code", null, part) : part));

const json = (content) => content?.["application/json"]?.schema;

function curl({ method, path, operation }) {
  const body = resolve(operation.requestBody);
  const isOpen = operation.security?.length === 0;
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${location.origin}${path}`];
  if (!isOpen) lines.push(`-H "Authorization: Bearer $IRIS_KEY"`);
  if (json(body.content)) {
    lines.push(`-H "Content-Type: application/json"`);
    // A quote within would end the shell's own.
    lines.push(`-d '${JSON.stringify(example(json(body.content))).replaceAll("'", String.raw`'\''`)}'`);
  }
  return lines.join(" \\\n  ");
}

function code(said) {
  const copied = h("button", { type: "button", class: "quiet", label: "chat.copy.code" }, icon("copy"));
  copied.addEventListener("click", () => copy(copied, said));
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", { raw: true }, "curl"), copied),
    h("pre", { tabindex: "0", raw: true }, h("code", null, said)));
}

const isMany = (schema) => Object.keys(resolve(schema).properties ?? {}).length > 0;

/** Lists the members of an object; those that are objects open up. */
function members(schema, depth = 0) {
  const found = resolve(schema);
  const required = new Set(found.required ?? []);
  const rows = Object.entries(found.properties ?? {}).map(([name, member]) => {
    const inner = resolve(member).type === "array" ? resolve(member).items : member;
    return h("li", null,
      h("p", null, h("code", { raw: true }, name), " ", h("span", { class: "fine", raw: true }, typeOf(member)),
        required.has(name) && h("span", null, " ", h("span", { class: "badge", t: "docs.required" }))),
      (member.description ?? resolve(member).description) && h("p", { class: "fine", raw: true }, prose(member.description ?? resolve(member).description)),
      depth < DEPTH && isMany(inner) && h("details", null, h("summary", { t: "docs.members" }), lazily(() => members(inner, depth + 1))));
  });
  return h("ul", { class: "members" }, rows);
}

/** Makes a part when it is opened: schemas refer to one another. */
function lazily(make) {
  const place = h("div");
  queueMicrotask(() => place.parentElement?.addEventListener("toggle", () => {
    if (place.childElementCount === 0) place.append(make());
  }));
  return place;
}

function parameters(list) {
  const rows = list.map(resolve).map(({ name, in: place, required, description, schema }) => h("li", null,
    h("p", null, h("code", { raw: true }, name), " ", h("span", { class: "fine", raw: true }, `${place}, ${typeOf(schema)}`),
      required && h("span", null, " ", h("span", { class: "badge", t: "docs.required" }))),
    description && h("p", { class: "fine", raw: true }, prose(description))));
  return h("section", null, h("h3", { t: "docs.parameters" }), h("ul", { class: "members" }, rows));
}

function body(operation) {
  const schema = json(resolve(operation.requestBody).content);
  if (!schema) return null;
  return h("section", null, h("h3", null, h("span", { t: "docs.body" }), " ", h("span", { class: "fine", raw: true }, typeOf(schema))), members(schema));
}

function responses(operation) {
  const rows = Object.entries(operation.responses ?? {}).map(([status, answer]) => {
    const { description, content } = resolve(answer);
    const schema = json(content);
    return h("li", null,
      h("p", null, h("code", { raw: true }, status), " ", h("span", { raw: true }, prose(description ?? "")), " ",
        h("span", { class: "fine", raw: true }, Object.keys(content ?? {}).join(", "))),
      schema && isMany(schema) && h("details", null, h("summary", null, h("span", { raw: true }, typeOf(schema))), lazily(() => members(schema))));
  });
  return h("section", null, h("h3", { t: "docs.answers" }), h("ul", { class: "members" }, rows));
}

function operationElement(one) {
  const { method, path, operation } = one;
  const said = h("div", { class: "stack" });
  const element = h("details", { class: "card operation", id: operation.operationId },
    h("summary", null,
      h("span", { class: `badge method ${method}`, raw: true }, method.toUpperCase()), " ",
      h("code", { raw: true }, path), " ", h("span", { class: "fine", raw: true }, operation.summary ?? "")),
    said);
  element.addEventListener("toggle", () => {
    if (!element.open) return;
    history.replaceState(null, "", `#${operation.operationId}`);
    if (said.childElementCount > 0) return;
    said.append(...[
      operation.description && h("p", { raw: true }, prose(operation.description)),
      operation.parameters && parameters(operation.parameters),
      body(operation),
      responses(operation),
      code(curl(one)),
    ].filter(Boolean));
  });
  const words = [method, path, operation.operationId, operation.summary, operation.description, ...(operation.tags ?? [])].join(" ").toLowerCase();
  return { element, words };
}

function draw() {
  const groups = new Map((api.tags ?? []).map(({ name }) => [name, []]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = operation.tags?.[0] ?? "";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operationElement({ method, path, operation }));
    }
  }
  operations = [...groups.values()].flat();
  $("operations").replaceChildren(...[...groups].map(([tag, some]) =>
    h("section", { class: "stack group" }, h("h2", { raw: true }, tag), some.map(({ element }) => element))));
  find();
}

/** Shows the operations that have all the words that are looked for. */
function find() {
  const wanted = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { element, words } of operations) {
    element.hidden = !wanted.every((word) => words.includes(word));
    if (!element.hidden) count += 1;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = ![...group.querySelectorAll(".operation")].some((one) => !one.hidden);
  }
  $("found").replaceChildren(h("span", { t: count > 0 ? "docs.found" : "docs.found.none", values: { n: number(count), all: number(operations.length) } }));
}

/** Moves among the operations that are shown; above the first is the search. */
function move(step) {
  const shown = operations.filter(({ element }) => !element.hidden).map(({ element }) => element.firstElementChild);
  const here = shown.indexOf(document.activeElement);
  const next = here + step;
  if (next < 0) $("search").focus();
  else shown[Math.min(next, shown.length - 1)]?.focus();
}

$("search").addEventListener("input", find);
document.addEventListener("keydown", (event) => {
  const isWriting = event.target.matches?.("input, textarea, select, pre");
  const isHere = event.target.matches?.("#search, .operation > summary");
  if (event.key === "/" && !isWriting) $("search").focus();
  else if (event.key === "ArrowDown" && isHere) move(1);
  else if (event.key === "ArrowUp" && isHere && event.target !== $("search")) move(-1);
  else if (event.key === "Enter" && event.target === $("search")) move(1);
  else if (event.key === "Escape" && event.target === $("search")) {
    $("search").value = "";
    find();
  } else return;
  event.preventDefault();
});
document.addEventListener("language", () => api && find());

function show() {
  const wanted = operations.find(({ element }) => element.id === decodeURIComponent(location.hash.slice(1)))?.element;
  if (!wanted) return;
  wanted.open = true;
  wanted.scrollIntoView({ block: "start" });
}
addEventListener("hashchange", show);

try {
  api = await call("/openapi.json", { anonymous: true });
  draw();
  show();
} catch (error) {
  $("operations").replaceChildren(fault(error));
}
