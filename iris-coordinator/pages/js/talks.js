// Conversations, kept in this browser and nowhere else.

import { done, store } from "./database.js";

const STORE = "talks";
/** Holds them where a browser keeps nothing. */
const memory = new Map();

/** Returns all conversations, the latest first. */
export async function all() {
  const kept = await store(STORE, "readonly");
  const talks = kept ? await done(kept.getAll()) : [...memory.values()];
  return talks.sort((a, b) => b.updated - a.updated);
}

export async function save(talk) {
  const kept = await store(STORE, "readwrite");
  if (kept) await done(kept.put(talk));
  else memory.set(talk.id, talk);
}

export async function remove(id) {
  const kept = await store(STORE, "readwrite");
  if (kept) await done(kept.delete(id));
  else memory.delete(id);
}
