// What is kept in this browser: conversations and the log, each a store of one database.

const NAME = "iris";
const STORES = ["talks", "log"];

const opened = new Promise((resolve) => {
  try {
    const request = indexedDB.open(NAME, 2);
    request.onupgradeneeded = () => {
      for (const name of STORES) {
        if (!request.result.objectStoreNames.contains(name)) request.result.createObjectStore(name, { keyPath: "id" });
      }
    };
    request.onsuccess = () => {
      // A page of a later version need not wait for this one to be closed.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => resolve(null);
    request.onblocked = () => resolve(null);
  } catch {
    resolve(null);
  }
});

export const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** Returns a store, or nothing where the browser keeps nothing. */
export const store = async (name, mode) => (await opened)?.transaction(name, mode).objectStore(name);
