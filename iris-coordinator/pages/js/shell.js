// What all pages share: the bar at the top, and how errors are told.

import { $, h, icon } from "./dom.js";
import { has, language, setLanguage, text, translate } from "./i18n.js";

const root = document.documentElement;

for (const place of document.querySelectorAll(".places a")) {
  const isHere = place.pathname === location.pathname || location.pathname.startsWith(`${place.pathname}/`);
  if (isHere) place.setAttribute("aria-current", "page");
}

/** Shows the way to the operator's page to whoever was let in there, for as long as the tab is open. */
export function showOperator(isLetIn) {
  $("operator-place").hidden = !isLetIn && location.pathname !== "/operator";
}
try {
  showOperator(sessionStorage.getItem("iris-operates") === "yes");
} catch {
  showOperator(false);
}

function showLanguage() {
  $("language").textContent = language() === "en" ? "ES" : "EN";
  const place = (document.querySelector(".places [aria-current] span") ?? document.querySelector("h1"))?.dataset.t;
  document.title = place ? `${text(place)} · Iris` : "Iris";
}

export const isDark = () =>
  (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

$("language").addEventListener("click", () => setLanguage(language() === "en" ? "es" : "en"));
document.addEventListener("language", showLanguage);

$("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("iris-theme", root.dataset.theme);
  } catch {
    // It holds for this page then.
  }
  document.dispatchEvent(new Event("theme"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  document.dispatchEvent(new Event("theme")));

translate();
showLanguage();
root.dataset.ready = "";

/** Says something for a few seconds. */
export function notice(key, values) {
  const toast = h("p", { class: "toast" }, h("span", { t: key, values }));
  $("toasts").append(toast);
  setTimeout(() => toast.remove(), 6000);
}

/** Shows an error: what it means here, and beneath it what the coordinator said. */
export function fault(error) {
  document.dispatchEvent(new CustomEvent("fault", { detail: error }));
  const key = has(`error.${error?.code}`) ? `error.${error.code}` : "error.other";
  const detail = error?.message ?? String(error);
  return h("div", { class: "fault", role: "alert" }, icon("warn"),
    h("div", null, h("p", { t: key }), h("p", { class: "fine", raw: true }, detail)));
}

/** Copies a text, and shows on the button that it was done. */
export async function copy(button, what) {
  try {
    await navigator.clipboard.writeText(what);
    const before = button.querySelector(".icon");
    const done = icon("check");
    before?.replaceWith(done);
    setTimeout(() => done.replaceWith(before), 1500);
  } catch {
    notice("copy.failed");
  }
}
