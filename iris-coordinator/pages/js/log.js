// What the pages saw: tasks that ended, nodes that came and went, errors. Kept in this browser and
// nowhere else, without anything that was asked or answered, and without keys.

import { done, store } from "./database.js";

const STORE = "log";
/** Entries that are kept; the oldest make room. */
export const MOST = 1000;
const news = "BroadcastChannel" in globalThis ? new BroadcastChannel("iris-log") : null;
/** The time of the latest entry: ids are in the order of their entries. */
let latest = 0;

/** Notes something of a kind (`task`, `node` or `error`) as facts; what has a `once` stands there once. */
export async function note(kind, facts, once) {
  latest = Math.max(latest + 1, Date.now());
  const id = once ?? `${latest}-${Math.random().toString(36).slice(2, 8)}`;
  try {
    const kept = await store(STORE, "readwrite");
    if (!kept) return;
    await done(kept.put({ id, at: latest, kind, ...facts }));
    await shorten();
    news?.postMessage("more");
    document.dispatchEvent(new Event("log"));
  } catch {
    // What cannot be noted has happened all the same.
  }
}

async function shorten() {
  const kept = await store(STORE, "readwrite");
  if ((await done(kept.count())) <= MOST) return;
  const rest = (await done(kept.getAll())).sort((a, b) => b.at - a.at).slice(MOST - MOST / 10);
  await Promise.all(rest.map(({ id }) => done(kept.delete(id))));
}

/** Returns all entries, the latest first. */
export async function entries() {
  const kept = await store(STORE, "readonly");
  const all = kept ? await done(kept.getAll()) : [];
  return all.sort((a, b) => b.at - a.at);
}

export async function clear() {
  const kept = await store(STORE, "readwrite");
  if (kept) await done(kept.clear());
  news?.postMessage("less");
  document.dispatchEvent(new Event("log"));
}

news?.addEventListener("message", () => document.dispatchEvent(new Event("log")));
