// Parts that pages are put together from.

import { h, icon } from "./dom.js";
import { moment } from "./i18n.js";
import { fault } from "./shell.js";

export const button = (key, kind, act, picture) => {
  const made = h("button", { type: "button", class: kind }, picture && icon(picture), h("span", { t: key }));
  if (act) made.addEventListener("click", () => act(made));
  return made;
};

export const field = (key, members, fine) => {
  const input = h("input", members);
  const label = h("label", { class: "field" }, h("span", { t: key }), input, fine && h("span", { class: "fine", t: fine }));
  return { label, input };
};

export const card = (title, ...children) => h("section", { class: "card" }, h("h2", { t: title }), ...children);

/** A form that says what went wrong, and cannot be sent twice at a time. */
export function form(action, fields, submit, ...more) {
  const send = h("button", { type: "submit", class: "primary" }, h("span", { t: action }));
  const problem = h("div", { "aria-live": "assertive" });
  const made = h("form", { novalidate: true }, fields, problem, h("div", { class: "row" }, send, ...more));
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    problem.replaceChildren();
    try {
      await submit();
    } catch (error) {
      problem.replaceChildren(fault(error));
    } finally {
      send.disabled = false;
    }
  });
  return made;
}

/** Lists what is known of something; what is not known is left out. */
export const facts = (entries) =>
  h("dl", { class: "facts" }, entries.filter(([, value]) => value !== undefined && value !== null).flatMap(([key, value]) =>
    [h("dt", { t: key }), h("dd", typeof value === "string" ? { raw: true } : null, value)]));

/** A table of rows under the texts of `head`, each a key or a key and a class; `label` names it. */
export const table = (label, head, rows, kind) =>
  h("div", { class: "scroll", tabindex: "0", role: "region", label },
    h("table", { class: kind },
      h("thead", null, h("tr", null, head.map((one) => {
        const [key, kind] = [one].flat();
        return h("th", { scope: "col", t: key, class: kind });
      }))),
      h("tbody", null, rows)));

/** Says when something was, to the second for those who point at it. */
export const when = (seconds) => h("time", { raw: true, datetime: new Date(seconds * 1000).toISOString() }, moment(seconds));

/**
 * Asks before something is done that cannot be taken back. `act` gets the values of `fields`, and
 * what it throws is shown in the question; resolves to whether it was done.
 */
export function certain({ title, text, values, fields = [], action, act }) {
  return new Promise((resolve) => {
    const made = fields.map(({ key, fine, ...members }) => field(key, members, fine));
    const leave = button("parts.leave", "plain", () => dialog.close());
    const go = form(action, made.map(({ label }) => label), async () => {
      await act(...made.map(({ input }) => input.value.trim()));
      isDone = true;
      dialog.close();
    }, leave);
    go.querySelector("[type=submit]").className = "danger";
    // Whoever holds a key down has not decided.
    leave.autofocus = made.length === 0;
    let isDone = false;
    const heading = h("h2", { t: title, values, id: "certain-title" });
    const dialog = h("dialog", { class: "certain", "aria-labelledby": "certain-title" }, heading, text && h("p", { t: text, values }), go);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(isDone);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Hands a file over to the browser's own way of keeping it. */
export function save(name, contents, type) {
  const address = URL.createObjectURL(new Blob([contents], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
