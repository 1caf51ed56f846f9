// Colours code. Loaded when there is some.

import hljs from "../vendor/highlight/core.min.js";
import bash from "../vendor/highlight/bash.min.js";
import css from "../vendor/highlight/css.min.js";
import javascript from "../vendor/highlight/javascript.min.js";
import json from "../vendor/highlight/json.min.js";
import python from "../vendor/highlight/python.min.js";
import rust from "../vendor/highlight/rust.min.js";
import sql from "../vendor/highlight/sql.min.js";
import xml from "../vendor/highlight/xml.min.js";

const languages = { bash, css, javascript, json, python, rust, sql, xml };
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);

/** Longest code that is coloured, in characters; more takes long. */
const LONGEST = 100_000;

/** Colours a block of code in place, if its language is known. */
export function highlight(code) {
  const name = code.className.replace("language-", "");
  if (!hljs.getLanguage(name) || code.textContent.length > LONGEST) return;
  const coloured = hljs.highlight(code.textContent, { language: name, ignoreIllegals: true }).value;
  // The library escapes everything but its own spans; that is checked once more.
  code.replaceChildren(globalThis.DOMPurify.sanitize(coloured, {
    ALLOWED_TAGS: ["span"],
    ALLOWED_ATTR: ["class"],
    RETURN_DOM_FRAGMENT: true,
  }));
}
