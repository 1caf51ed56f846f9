// Conversations, kept in this browser and nowhere else.

const NAME = "iris";
const STORE = "talks";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const opened = new Promise((resolve) => {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  } catch {
    resolve(null);
  }
});
/** Holds them where a browser keeps nothing. */
const memory = new Map();

const store = async (mode) => (await opened)?.transaction(STORE, mode).objectStore(STORE);

/** Returns all conversations, the latest first. */
export async function all() {
  const kept = await store("readonly");
  const talks = kept ? await done(kept.getAll()) : [...memory.values()];
  return talks.sort((a, b) => b.updated - a.updated);
}

export async function save(talk) {
  const kept = await store("readwrite");
  if (kept) await done(kept.put(talk));
  else memory.set(talk.id, talk);
}

export async function remove(id) {
  const kept = await store("readwrite");
  if (kept) await done(kept.delete(id));
  else memory.delete(id);
}
