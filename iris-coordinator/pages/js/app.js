// What makes an app of the pages, on each of them: what keeps them, how they are installed, and
// what happens without a connection.

import { h, icon } from "./dom.js";
import { note } from "./log.js";
import { isDark } from "./shell.js";

/** Whether this browser can keep pages and show notifications: by https, or on this machine. */
export const canKeep = "serviceWorker" in navigator;
export const isInstalled = () =>
  matchMedia("(display-mode: standalone)").matches || navigator.standalone === true;

if (canKeep) navigator.serviceWorker.register("/worker.js", { updateViaCache: "none" }).catch(() => {});

/** The browser's own question, while it may be asked. */
let offer = null;
const offered = () => document.dispatchEvent(new Event("installable"));
addEventListener("beforeinstallprompt", (event) => {
  event.preventDefault();
  offer = event;
  offered();
});
addEventListener("appinstalled", () => {
  offer = null;
  offered();
});
export const canInstall = () => offer !== null;

/** Asks whether to install the app; the browser lets it be asked once. */
export async function install() {
  const asked = offer;
  offer = null;
  await asked?.prompt();
  offered();
}

const away = h("p", { class: "away", role: "status" }, icon("warn"), h("span", { t: "app.away" }));
const showAway = () => {
  if (navigator.onLine) away.remove();
  else document.querySelector(".bar").after(away);
};
addEventListener("online", showAway);
addEventListener("offline", showAway);
showAway();

const COLOURS = { light: "#ffffff", dark: "#1a1920" };
const showColour = () => {
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) {
    meta.content = document.documentElement.dataset.theme ? COLOURS[isDark() ? "dark" : "light"] : COLOURS[meta.media.includes("dark") ? "dark" : "light"];
  }
};
document.addEventListener("theme", showColour);
showColour();

// What a message says could repeat what was asked: only its name is noted.
document.addEventListener("fault", ({ detail }) => note("error", { code: detail?.code ?? "other", status: detail?.status, page: location.pathname }));
const broke = (where) => note("error", { code: "script", where, page: location.pathname });
addEventListener("error", ({ filename, lineno }) => broke(`${filename?.split("/").pop()}:${lineno}`));
addEventListener("unhandledrejection", ({ reason }) => broke(reason?.name ?? "promise"));

/** Few ask to be told of anything, and only they load what does that. */
async function listen() {
  const isWanted = (() => {
    try {
      return localStorage.getItem("iris-news") !== null;
    } catch {
      return false;
    }
  })();
  if (isWanted) (await import("./news.js")).begin();
}
document.addEventListener("session", listen);
addEventListener("storage", ({ key }) => key === "iris-news" && listen());
listen();
