// The texts of the pages, in the reader's language.

const LANGUAGES = ["en", "es"];
const root = document.documentElement;
/** The texts of the languages that were needed so far. */
const read = new Map();
/** The texts that pages have beside these: for each key one for each language. */
const more = {};

async function load(name) {
  if (!read.has(name)) read.set(name, (await import(`../i18n/${name}.js`)).default);
}
await load(root.lang);

export const language = () => root.lang;

/** Returns a text, with `{name}` replaced by the values. */
export function text(key, values = {}) {
  const found = read.get(root.lang)[key] ?? more[key]?.[LANGUAGES.indexOf(root.lang)] ?? key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export const has = (key) => key in read.get(root.lang) || key in more;

/** Takes in the texts of a page: for each key the English and the Spanish one. */
export function add(words) {
  Object.assign(more, words);
  // The frame of the page was filled in before, maybe.
  translate();
}

/** Fills in all texts below an element; those that come later fill themselves in. */
export function translate(top = document) {
  const each = (name, set) => {
    const selector = `[data-t${name}]`;
    const elements = [...top.querySelectorAll(selector)];
    if (top.matches?.(selector)) elements.push(top);
    for (const element of elements) set(element);
  };
  const values = (element) => JSON.parse(element.dataset.tValues ?? "{}");
  each("", (element) => {
    element.textContent = text(element.dataset.t, values(element));
  });
  each("-label", (element) => {
    const said = text(element.dataset.tLabel, values(element));
    element.setAttribute("aria-label", said);
    if (element.tagName === "BUTTON") element.title = said;
  });
  each("-hint", (element) => element.setAttribute("placeholder", text(element.dataset.tHint)));
}

export async function setLanguage(next) {
  await load(next);
  root.lang = next;
  try {
    localStorage.setItem("iris-language", next);
  } catch {
    // It holds for this page then.
  }
  translate();
  document.dispatchEvent(new Event("language"));
}

// Elements that are added are translated before they are painted.
new MutationObserver((changes) => {
  for (const { addedNodes } of changes) {
    for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) translate(node);
  }
}).observe(root, { childList: true, subtree: true });

const formats = new Map();
function format(Kind, options) {
  const key = `${root.lang} ${Kind.name} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Kind(root.lang, options));
  return formats.get(key);
}

export const number = (value, digits = 0) =>
  format(Intl.NumberFormat, { maximumFractionDigits: digits }).format(value);
export const compact = (value) =>
  format(Intl.NumberFormat, { notation: "compact", maximumFractionDigits: 1 }).format(value);
export const date = (seconds) =>
  format(Intl.DateTimeFormat, { dateStyle: "medium" }).format(seconds * 1000);
export const moment = (seconds) =>
  format(Intl.DateTimeFormat, { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
export const clock = (seconds) =>
  format(Intl.DateTimeFormat, { timeStyle: "short" }).format(seconds * 1000);

/** Writes milliseconds: `320 ms`, `4.1 s`, `3 min`. */
export function duration(millis) {
  if (millis < 1000) return text("time.ms", { n: number(millis) });
  if (millis < 100_000) return text("time.s", { n: number(millis / 1000, 1) });
  if (millis < 7_200_000) return text("time.min", { n: number(millis / 60_000) });
  return text("time.h", { n: number(millis / 3_600_000, 1) });
}
