// Tells of long tasks that ended and of one's own nodes, while a page or the installed app is open.
//
// It begins when somebody asks for it on `/account`. Of all tabs one alone listens.

import { call, open, who } from "./api.js";
import { duration, text } from "./i18n.js";
import { note } from "./log.js";
import { stateOf } from "./nodestate.js";
import { notice } from "./shell.js";
import { events } from "./events.js";

const PLACE = "iris-news";
/** Seconds that a task takes at least to be worth a word. */
export const LONG = [0, 10, 60, 300];
const USUAL = { tasks: false, nodes: false, long: 10 };
/** Milliseconds between two looks at one's nodes, at least. */
const PAUSE = 2000;

/** What this browser is to tell: ends of `tasks` that took `long` seconds, states of `nodes`. */
export function settings() {
  try {
    return { ...USUAL, ...JSON.parse(localStorage.getItem(PLACE)) };
  } catch {
    return { ...USUAL };
  }
}

export function set(next) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(next));
  } catch {
    notice("news.unkept");
  }
  begin();
}

let running = null;

/** Listens if it is wanted and somebody is signed in; ends what listened before. */
export function begin() {
  running?.abort();
  const { tasks, nodes } = settings();
  if (!who() || !(tasks || nodes)) return;
  const { signal } = (running = new AbortController());
  const listen = () => watch(signal).catch(() => {});
  if (navigator.locks) navigator.locks.request(PLACE, { signal }, listen).catch(() => {});
  else listen();
}

async function watch(signal) {
  const known = new Map();
  for (let pause = 1000; !signal.aborted; pause = Math.min(pause * 2, 60_000)) {
    try {
      const answer = await open("/live", { signal });
      await look(known);
      for await (const data of events(answer)) {
        pause = 1000;
        await take(JSON.parse(data), known);
      }
    } catch (error) {
      if (signal.aborted || [401, 403, 404].includes(error.status)) return;
    }
    await wait(pause);
  }
}

const wait = (millis) => new Promise((done) => setTimeout(done, millis));

async function take(said, known) {
  if (said.type === "tasks") {
    for (const event of said.events) if (event.event === "over") await ended(event);
  }
  if (said.type !== "network") return;
  const isMine = said.nodes?.some(({ id }) => known.has(id)) || said.gone?.some((id) => known.has(id));
  // What no list of nodes tells, such as a broken connection, is looked for now and then.
  if (isMine || said.minute) await look(known);
}

async function ended({ task, model, state, took_ms, node, sealed }) {
  await note("task", { task, model, state, took_ms, node, sealed }, `task:${task}`);
  const { tasks, long } = settings();
  if (!tasks || state === "cancelled" || took_ms < long * 1000) return;
  // Who looks at the answer need not be told that it is there.
  if (location.pathname === "/chat" && document.visibilityState === "visible") return;
  await tell("news.task", { model, state: text(`task.${state}`), time: duration(took_ms) }, "/account#use", "tasks");
}

/** When it was last looked, by a clock that nobody sets. */
let looked = -PAUSE;

/** Looks at one's nodes, and tells which of them have changed. */
async function look(known) {
  if (!settings().nodes) return;
  await wait(looked + PAUSE - performance.now());
  looked = performance.now();
  const { nodes } = await call("/account/nodes?limit=500");
  for (const own of nodes) {
    const { id, name } = own.why;
    const before = known.get(id);
    const now = { state: stateOf(own), name: name ?? before?.name ?? id.slice(0, 12) };
    known.set(id, now);
    if (!before || before.state === now.state) continue;
    await note("node", { node: id, name: now.name, state: now.state, before: before.state });
    await tell("news.node", { name: now.name, state: text(`node.is.${now.state}`) }, "/account#nodes", `node:${id}`);
  }
}

/** Says something: on the page to who looks at it, else as a notification of the system. */
async function tell(key, values, path, tag) {
  if (document.visibilityState === "visible") return notice(key, values);
  if (globalThis.Notification?.permission !== "granted") return;
  const worker = await navigator.serviceWorker?.getRegistration();
  const icon = new URL("../app/icon-192.png", import.meta.url).href;
  const shown = { body: text(key, values), tag, icon, lang: document.documentElement.lang, data: { path } };
  await worker?.showNotification("Iris", shown);
}
