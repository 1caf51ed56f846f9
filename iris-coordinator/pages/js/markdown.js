// Turns what models write into elements.
//
// A model's text is a stranger's: what is made of it has no scripts, no styles, no pictures from
// elsewhere, no forms, and no names that the page itself uses.

import { Marked } from "../vendor/marked.esm.js";
import "../vendor/purify.min.js";

import { h, icon } from "./dom.js";
import { copy } from "./shell.js";

const marked = new Marked({ gfm: true, breaks: true, async: false });
const purify = globalThis.DOMPurify(globalThis);

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "kbd",
    "li", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["class", "colspan", "href", "rowspan", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

purify.addHook("afterSanitizeAttributes", (element) => {
  const language = /^language-[\w+#-]{1,20}$/;
  if (element.hasAttribute("class") && !(element.tagName === "CODE" && language.test(element.className))) {
    element.removeAttribute("class");
  }
  if (element.tagName === "A") {
    element.setAttribute("target", "_blank");
    element.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** Shows markdown in an element; `isWhole` says that nothing more comes. */
export function show(element, markdown, isWhole) {
  const fragment = purify.sanitize(marked.parse(markdown), ALLOWED);
  for (const table of fragment.querySelectorAll("table")) {
    const around = h("div", { class: "scroll", tabindex: "0" });
    table.replaceWith(around);
    around.append(table);
  }
  for (const block of fragment.querySelectorAll("pre > code")) frame(block);
  // The page has a heading of its own above.
  for (const heading of fragment.querySelectorAll("h1, h2")) {
    const lower = document.createElement("h3");
    lower.append(...heading.childNodes);
    heading.replaceWith(lower);
  }
  element.replaceChildren(fragment);
  if (isWhole && element.querySelector("pre code")) colour(element).catch(() => {});
}

function frame(code) {
  const language = code.className.replace("language-", "");
  const button = h("button", { type: "button", class: "quiet", label: "chat.copy.code" }, icon("copy"));
  button.addEventListener("click", () => copy(button, code.textContent));
  const head = h("div", { class: "code-head" }, h("span", { raw: true }, language), button);
  const pre = code.parentElement;
  pre.tabIndex = 0;
  pre.replaceWith(h("div", { class: "code" }, head, pre.cloneNode(false)));
  // The clone is empty; the code itself moves.
  head.nextSibling.append(code);
}

async function colour(element) {
  const { highlight } = await import("./highlight.js");
  for (const code of element.querySelectorAll("pre code")) highlight(code);
}
