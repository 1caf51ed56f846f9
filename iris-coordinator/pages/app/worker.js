// Keeps the pages themselves, so that they open without a connection, and shows notifications.
//
// What is kept: files under this version's address, and the pages as everybody gets them. No other
// answer is looked at, so what the coordinator says to somebody is never kept here, and neither is
// a key. A new version is a new worker with a room of its own; it begins when the last page of the
// old one is closed, and clears the old one's room away.

const VERSION = "{{version}}";
const FILES = ["{{files}}"];
const PAGES = ["{{pages}}"];
const ROOM = `iris-pages-${VERSION}`;
const PLACE = `/pages/${VERSION}/`;
/** What only some need, and is kept once it was asked for. */
const LATER = /^(vendor|app)\//;

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(clear()));

async function install() {
  const room = await caches.open(ROOM);
  await room.addAll(FILES.filter((name) => !LATER.test(name)).map((name) => PLACE + name));
  await Promise.all(PAGES.map(async (path) => {
    const page = await fetch(path, { cache: "no-cache", credentials: "omit" });
    // The coordinator may have been replaced meanwhile; its new worker will be installed then.
    if (!page.ok || !(await page.clone().text()).includes(PLACE)) throw new Error(`${path} is of another version`);
    await room.put(path, page);
  }));
}

async function clear() {
  const rooms = await caches.keys();
  await Promise.all(rooms.filter((name) => name.startsWith("iris-pages-") && name !== ROOM).map((name) => caches.delete(name)));
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin) return;
  if (pathname.startsWith(PLACE)) event.respondWith(file(request));
  else if (request.mode === "navigate" && PAGES.includes(pathname)) event.respondWith(page(request, pathname));
});

async function file(request) {
  const room = await caches.open(ROOM);
  const kept = await room.match(request.url);
  if (kept) return kept;
  const answer = await fetch(request);
  if (answer.ok) await room.put(request.url, answer.clone());
  return answer;
}

/** The newest page, or the one that is kept where none can be had. */
async function page(request, path) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await (await caches.open(ROOM)).match(path);
    if (!kept) throw error;
    return kept;
  }
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const path = event.notification.data?.path ?? "/dashboard";
  event.waitUntil(show(new URL(path, location.origin)));
});

/** Shows a page: the one that is open already, or a new one. */
async function show(address) {
  const open = await clients.matchAll({ type: "window", includeUncontrolled: true });
  const there = open.find((one) => new URL(one.url).pathname === address.pathname);
  if (there) return there.focus();
  return clients.openWindow(address.href);
}
