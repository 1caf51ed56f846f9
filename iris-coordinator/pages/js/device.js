// What belongs to this browser and to no account: the app, what it tells, and what it saw.

import { canInstall, canKeep, install, isInstalled } from "./app.js";
import { who } from "./api.js";
import { $, h } from "./dom.js";
import { duration, moment, number, text } from "./i18n.js";
import * as log from "./log.js";
import * as news from "./news.js";
import { button, save } from "./parts.js";
import { notice } from "./shell.js";

/** Entries of the log that are shown at a time. */
const SHOWN = 100;

const card = (title, ...children) => h("section", { class: "card stack" }, h("h2", { t: title }), ...children);

/** Returns what there is to set and to see. */
export const device = () => [installing(), ...(who() ? [telling()] : []), seen()];

// ----------------------------------------------------------------------------------------- the app

function installing() {
  return card("app.title", h("p", { class: "fine", t: "app.explained" }), h("div", { class: "stack", id: "installing" }, how()));
}

document.addEventListener("installable", () => $("installing")?.replaceChildren(...how()));

function how() {
  if (!canKeep) return [h("p", { t: "app.unsafe" })];
  if (isInstalled()) return [h("p", { t: "app.installed" })];
  if (canInstall()) return [h("div", { class: "row" }, button("app.install", "primary", install, "download"))];
  return [h("p", { t: "app.menu" })];
}

// ------------------------------------------------------------------------------------ notifications

function telling() {
  const wanted = news.settings();
  const choice = (name) => {
    const box = h("input", { type: "checkbox", id: `news-${name}` });
    box.checked = wanted[name];
    box.addEventListener("change", async () => {
      if (box.checked) await permitted();
      news.set({ ...news.settings(), [name]: box.checked });
      show();
    });
    return h("p", { class: "row tick" }, box, h("label", { for: `news-${name}`, t: `news.${name}` }));
  };
  const long = h("select", { id: "news-long" }, news.LONG.map((seconds) =>
    h("option", { value: seconds, ...(seconds === 0 ? { t: "news.every" } : { raw: true }) }, seconds === 0 ? "" : duration(seconds * 1000))));
  long.value = String(wanted.long);
  long.addEventListener("change", () => news.set({ ...news.settings(), long: Number(long.value) }));
  const state = h("div");
  const show = () => {
    const { tasks, nodes } = news.settings();
    const permission = canKeep ? globalThis.Notification?.permission ?? "none" : "none";
    state.replaceChildren(...(tasks || nodes ? [h("p", { class: "fine", t: `news.permission.${permission}` })] : []));
  };
  show();
  return card("news.title", h("p", { class: "fine", t: "news.explained" }), choice("tasks"),
    h("label", { class: "field short" }, h("span", { t: "news.long" }), long), choice("nodes"), state);
}

/** Asks for leave to show notifications; a page that is looked at needs none. */
async function permitted() {
  if (!canKeep || globalThis.Notification?.permission !== "default") return;
  await Notification.requestPermission().catch(() => {});
}

// ----------------------------------------------------------------------------------------- the log

/** Draws the log that is shown, if any is; many entries may come at a time. */
let redraw = () => {};
let due = null;
document.addEventListener("log", () => {
  due ??= setTimeout(() => {
    due = null;
    redraw();
  }, 300);
});

function seen() {
  const list = h("ol", { class: "log" });
  const draw = async () => {
    const all = await log.entries().catch(() => []);
    for (const one of tools.querySelectorAll("button")) one.disabled = all.length === 0;
    const rows = all.slice(0, SHOWN).map(row);
    if (all.length > SHOWN) rows.push(h("li", { class: "fine" }, h("span", { t: "log.more", values: { n: number(all.length - SHOWN) } })));
    list.replaceChildren(...(rows.length > 0 ? rows : [h("li", { class: "fine" }, h("span", { t: "log.none" }))]));
  };
  const clear = button("log.clear", "quiet", async () => {
    await log.clear();
    await draw();
  }, "trash");
  const tools = h("div", { class: "row" },
    button("log.json", "plain", async () => keep("json", JSON.stringify(await log.entries(), null, 2)), "download"),
    button("log.text", "plain", async () => keep("txt", (await log.entries()).map(line).join("\n")), "download"),
    clear);
  redraw = draw;
  draw();
  return card("log.title", h("p", { class: "fine", t: "log.explained", values: { most: number(log.MOST) } }), tools,
    h("div", { class: "scroll tall", tabindex: "0", role: "region", label: "log.title" }, list));
}

/** Returns an entry's kind and what it says, in words. */
function words(entry) {
  if (entry.kind === "task") return ["log.task", { model: entry.model, state: text(`task.${entry.state}`), time: duration(entry.took_ms ?? 0) }];
  if (entry.kind === "node") return ["log.node", { name: entry.name, state: text(`node.is.${entry.state}`) }];
  return ["log.error", { code: [entry.code, entry.where].filter(Boolean).join(" "), page: entry.page ?? "" }];
}

function row(entry) {
  const [key, values] = words(entry);
  const isBad = entry.kind === "error" || ["failed", "expired"].includes(entry.state);
  return h("li", null, h("time", { class: "fine", raw: true }, moment(entry.at / 1000)),
    h("span", { class: isBad ? "bad" : "", t: key, values }));
}

function keep(ending, said) {
  save(`iris-log.${ending}`, said, ending === "json" ? "application/json" : "text/plain");
  notice("log.saved");
}

const line = (entry) => `${new Date(entry.at).toISOString()} ${text(...words(entry))}`;
