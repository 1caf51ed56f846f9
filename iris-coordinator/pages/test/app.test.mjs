// The app of the pages in Chromium: without a connection, what it tells and what it keeps; one's own
// nodes; and the API's description.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { test } from "node:test";

import { ask, chatting, facts, member, shot, until, visitor } from "./browser.mjs";

/** Stands before the coordinator, goes away when told to, and can look like its next version. */
async function relay() {
  const state = { from: null, to: null };
  const upstream = new URL(facts.url);
  const server = createServer((asked, answer) => {
    const path = state.to ? asked.url.replace(state.to, state.from) : asked.url;
    const headers = { ...asked.headers, host: upstream.host };
    delete headers["if-none-match"];
    const through = request({ host: upstream.hostname, port: upstream.port, path, method: asked.method, headers }, async (got) => {
      if (!state.to || !/text|manifest/.test(got.headers["content-type"] ?? "") || /event-stream/.test(got.headers["content-type"])) {
        answer.writeHead(got.statusCode, got.headers);
        got.pipe(answer);
        return;
      }
      const parts = [];
      for await (const part of got) parts.push(part);
      const body = Buffer.from(Buffer.concat(parts).toString().replaceAll(state.from, state.to));
      answer.writeHead(got.statusCode, { ...got.headers, "content-length": body.length });
      answer.end(body);
    });
    through.on("error", () => answer.destroy());
    answer.on("close", () => through.destroy());
    asked.pipe(through);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${server.address().port}`;
  const close = () => new Promise((done) => {
    server.close(done);
    server.closeAllConnections();
  });
  return { url, state, close };
}

const controlled = (page) => page.evaluate(() => navigator.serviceWorker.ready.then(() => undefined));

/** Returns everything that the browser keeps for the pages: addresses and texts. */
const kept = (page) =>
  page.evaluate(async () => {
    const found = [];
    for (const name of await caches.keys()) {
      const room = await caches.open(name);
      for (const asked of await room.keys()) found.push({ room: name, path: new URL(asked.url).pathname, text: await (await room.match(asked)).text() });
    }
    return found;
  });

test("the app opens without a connection, and keeps pages alone: no answer of the coordinator, and no key", async () => {
  const between = await relay();
  const { page, context } = await member({ at: between.url });
  await controlled(page);
  for (const place of ["/dashboard", "/account#keys", "/account#use", "/account#nodes", "/docs", "/chat"]) {
    await page.goto(`${between.url}${place}`);
    await page.waitForLoadState("networkidle", { timeout: 2000 }).catch(() => {});
  }
  assert.ok(await page.evaluate(() => navigator.serviceWorker.controller !== null));
  await page.waitForSelector("#model option", { state: "attached" });
  assert.match(await ask(page, "What is the capital of France?"), /Paris/);
  const files = await kept(page);
  assert.ok(files.length > 20, `${files.length} files`);
  const allowed = /^\/(pages\/[0-9a-f]{16}\/.*|account|chat|dashboard|docs|jobs|operator)$/;
  assert.deepEqual(files.map(({ path }) => path).filter((path) => !allowed.test(path)), []);
  const session = await page.evaluate(() => Object.values(sessionStorage).join(" "));
  const { account, access } = JSON.parse(session);
  for (const secret of [facts.digits, facts.key, account, access, "France is Paris"]) {
    assert.ok(files.every(({ text }) => !text.includes(secret)), `it keeps ${secret}`);
  }
  await between.close();
  await page.reload();
  await page.waitForSelector("#question");
  await page.click(".talk-name");
  assert.match(await page.locator(".theirs .body").innerText(), /Paris/);
  await page.fill("#question", "Are you there?");
  await page.press("#question", "Enter");
  await page.waitForSelector(".fault [data-t='error.unreachable']");
  await page.goto(`${between.url}/docs`);
  await page.waitForSelector(".fault");
  await page.evaluate(() => dispatchEvent(new Event("offline")));
  await context.setOffline(true);
  await page.goto(`${between.url}/account`);
  await page.waitForSelector(".away");
  await shot(page, "offline");
  await context.close();
});

test("a new version takes the place of the old one, and leaves nothing of it", async () => {
  const between = await relay();
  const { page, context, complaints } = await visitor();
  await page.goto(`${between.url}/chat`);
  await controlled(page);
  await page.reload();
  const version = await page.evaluate(() => document.querySelector("link[rel=icon]").href.split("/").at(-2));
  between.state.from = version;
  between.state.to = "f".repeat(16);
  await page.reload();
  // Whoever is connected has the new page at once.
  assert.equal(await page.evaluate(() => document.querySelector("link[rel=icon]").href.split("/").at(-2)), between.state.to);
  await until(page, () => navigator.serviceWorker.getRegistration().then((one) => one.waiting !== null));
  const rooms = () => page.evaluate(() => caches.keys());
  assert.deepEqual((await rooms()).sort(), [`iris-pages-${version}`, `iris-pages-${between.state.to}`].sort());
  // The new worker begins when no page of the old one is left.
  await page.goto("about:blank");
  const next = await context.newPage();
  await page.close();
  await next.goto(`${between.url}/chat`);
  await until(next, (room) => caches.keys().then((rooms) => rooms.length === 1 && rooms[0] === room), `iris-pages-${between.state.to}`);
  assert.deepEqual(complaints, []);
  await between.close();
  await context.close();
});

test("the browser finds nothing against installing it, and its question is asked by a button", async () => {
  const { page, complaints, context } = await member();
  await controlled(page);
  const session = await context.newCDPSession(page);
  const { errors, url } = await session.send("Page.getAppManifest");
  assert.deepEqual(errors, []);
  assert.equal(new URL(url).pathname, "/app.webmanifest");
  const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
  assert.deepEqual(installabilityErrors.filter(({ errorId }) => errorId !== "in-incognito"), []);
  await page.goto(`${facts.url}/account#app`);
  await page.reload();
  await page.waitForSelector("[data-t='app.menu']");
  await page.evaluate(() => {
    const event = new Event("beforeinstallprompt", { cancelable: true });
    event.prompt = async () => (globalThis.asked = event.defaultPrevented);
    dispatchEvent(event);
  });
  await page.click("[data-t='app.install']");
  await page.waitForFunction(() => globalThis.asked === true);
  await page.waitForSelector("[data-t='app.menu']");
  assert.deepEqual(complaints, []);
  await context.close();
});

/** Asks the coordinator as a program does. */
const askAside = (model, content) =>
  fetch(`${facts.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${facts.key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content }] }),
  });

const SECRET = "What is the capital of Portugal?";

/** Makes a page believe that nobody looks at it. */
const hide = (page) =>
  page.evaluate(() => {
    Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
  });
const told = (page) =>
  page.evaluate(async () => {
    const worker = await navigator.serviceWorker.ready;
    return (await worker.getNotifications()).map(({ body, tag }) => ({ body, tag }));
  });

test("ends of tasks and nodes that come and go are told, on the page and by the system, once somebody asks for it", async () => {
  const { page, complaints, context } = await member();
  await context.grantPermissions(["notifications"], { origin: facts.url });
  await controlled(page);
  const watched = [];
  page.on("request", (asked) => asked.url().endsWith("/live") && watched.push(asked));
  await page.goto(`${facts.url}/account#app`);
  await page.reload();
  await page.waitForSelector("#news-tasks");
  assert.equal(watched.length, 0, "nobody asked for it");
  await page.selectOption("#news-long", "0");
  await page.check("#news-tasks");
  await page.check("#news-nodes");
  await page.waitForSelector("[data-t='news.permission.granted']");
  await page.waitForFunction(() => performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/account/nodes?limit=500")));
  assert.equal((await askAside(facts.engine, SECRET)).status, 200);
  await page.waitForSelector(".toast [data-t='news.task']");
  assert.ok((await page.locator(".toast").first().innerText()).includes(facts.engine));
  await hide(page);
  assert.equal((await askAside(facts.engine, SECRET)).status, 200);
  await until(page, () => navigator.serviceWorker.ready.then((one) => one.getNotifications()).then((all) => all.length > 0));
  const [task] = await told(page);
  assert.equal(task.tag, "tasks");
  assert.ok(task.body.includes(facts.engine) && !task.body.includes("Portugal"), task.body);

  const node = spawn(facts.visiting.program, [], { env: facts.visiting.environment, stdio: "ignore" });
  try {
    await until(page, async (name) => {
      const { access } = JSON.parse(sessionStorage.getItem("iris-session"));
      const { nodes } = await (await fetch("/account/nodes", { headers: { authorization: `Bearer ${access}` } })).json();
      return nodes.some(({ node }) => node?.name === name);
    }, facts.visiting.name);
    // A node that is new is known from the next look on, at the latest a minute later.
    await page.reload();
    await page.waitForSelector("#news-tasks");
    await page.waitForFunction(() => performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/account/nodes?limit=500")));
    await hide(page);
    node.kill("SIGTERM");
    await until(page, (name) => navigator.serviceWorker.ready.then((one) => one.getNotifications())
      .then((all) => all.some(({ body }) => body.includes(name))), facts.visiting.name);
  } finally {
    node.kill("SIGKILL");
  }

  // What it saw is in the log, and can be taken away.
  await page.waitForSelector(".log [data-t='log.node']");
  const log = await page.locator(".log").innerText();
  assert.ok(log.includes(facts.visiting.name) && log.includes(facts.engine), log);
  const take = async (key) => {
    const [file] = await Promise.all([page.waitForEvent("download"), page.click(`[data-t='${key}']`)]);
    return readFileSync(await file.path(), "utf8");
  };
  const entries = JSON.parse(await take("log.json"));
  assert.ok(entries.filter(({ kind, model }) => kind === "task" && model === facts.engine).length >= 2);
  assert.ok(entries.some(({ kind, name }) => kind === "node" && name === facts.visiting.name));
  const text = await take("log.text");
  assert.equal(text.split("\n").length, entries.length);
  for (const secret of ["Portugal", "Lisbon", facts.key, facts.digits]) {
    assert.ok(![JSON.stringify(entries), text].some((said) => said.includes(secret)), secret);
  }
  await page.click("[data-t='log.clear']");
  await page.waitForSelector(".log [data-t='log.none']");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("the log keeps the latest thousand entries, and errors without their words", async () => {
  const { page, complaints, context } = await chatting(facts.engine);
  await ask(page, SECRET);
  await page.goto(`${facts.url}/account#app`);
  await page.waitForSelector(".log [data-t='log.task']");
  assert.ok(!(await page.locator(".log").innerText()).includes("Portugal"));
  const count = await page.evaluate(async () => {
    const at = document.querySelector("link[rel=icon]").href.replace("favicon.svg", "js/log.js");
    const log = await import(at);
    for (let n = 0; n < 1100; n += 1) await log.note("error", { code: `e${n}`, page: "/chat" });
    const all = await log.entries();
    return { length: all.length, latest: all[0].code };
  });
  assert.ok(count.length <= 1000 && count.length >= 900, `${count.length} entries`);
  assert.equal(count.latest, "e1099");
  await page.evaluate(() => document.dispatchEvent(new CustomEvent("fault", { detail: { code: "nodes_failed", status: 502, message: "the prompt was: secret" } })));
  await page.waitForFunction(() => document.querySelector(".log li")?.innerText.includes("nodes_failed"));
  assert.ok(!(await page.locator(".log").innerText()).includes("secret"));
  assert.deepEqual(complaints, []);
  await context.close();
});

test("owners see their nodes with what each is at, why, and what it has done", async () => {
  const { page, complaints, context } = await member();
  await page.goto(`${facts.url}/account#nodes`);
  await page.reload();
  await page.waitForSelector(".own > li");
  const shown = await page.locator(".own > li h2").allInnerTexts();
  for (const name of ["engine", facts.attack]) assert.ok(shown.includes(name), `${name} is missing: ${shown}`);
  const engine = page.locator(".own > li", { has: page.locator("h2", { hasText: /^engine$/ }) });
  assert.equal(await engine.locator(".card-head .badge").getAttribute("data-t"), "node.is.ready");
  const said = await engine.innerText();
  for (const fact of [facts.engine, "Standing", "Points", "Connected since"]) assert.ok(said.includes(fact), `${fact}: ${said}`);
  await engine.locator("summary").first().click();
  assert.ok(await engine.locator(".hindrance").count() > 0);
  assert.ok((await page.locator(".tiles").innerText()).includes("Still to come"));
  const away = page.locator(".own > li", { has: page.locator("[data-t='node.is.not_connected']") });
  for (const one of await away.all()) assert.ok((await one.innerText()).includes("Start iris-node"));
  // An API key has no books, and sees the nodes all the same.
  const visit = await visitor();
  await visit.page.goto(`${facts.url}/account`);
  await visit.page.fill("input[name=key]", facts.key);
  await visit.page.press("input[name=key]", "Enter");
  await visit.page.waitForSelector("[role=tablist]");
  await visit.page.click("[role=tab] [data-t='tab.nodes']");
  await visit.page.waitForSelector(".own > li");
  assert.ok(!(await visit.page.locator(".tiles").innerText()).includes("Still to come"));
  assert.deepEqual([...complaints, ...visit.complaints], []);
  await visit.context.close();
  await context.close();
});

test("a sealed task's receipt is shown, checked in the browser, and saved", async () => {
  const { page, complaints, context } = await chatting(facts.engine);
  await page.selectOption("#mode", "sealed");
  assert.match(await ask(page, "What is the capital of Spain?"), /Madrid/);
  await page.goto(`${facts.url}/account#use`);
  // The books may lag behind.
  for (const end = Date.now() + 30_000; (await page.locator("[data-t='receipt.show']").count()) === 0;) {
    assert.ok(Date.now() < end, "there is no receipt");
    await page.reload();
    await page.waitForSelector("#tab .card");
  }
  await page.locator("[data-t='receipt.show']").first().click();
  await page.click("[data-t='receipt.check']");
  await page.waitForSelector(".badge.good[data-t='receipt.good']");
  const [file] = await Promise.all([page.waitForEvent("download"), page.click("[data-t='receipt.save']")]);
  const saved = JSON.parse(readFileSync(await file.path(), "utf8"));
  assert.deepEqual(Object.keys(saved).sort(), ["at", "client_task", "node", "receipt", "request", "task"]);
  // One that was altered is told.
  await page.route("**/receipts?limit=500", async (route) => {
    const answer = await route.fetch();
    const page = await answer.json();
    for (const one of page.receipts) one.receipt = `${one.receipt.slice(0, -10)}AAAAAAAAAA`;
    await route.fulfill({ json: page });
  });
  await page.reload();
  await page.locator("[data-t='receipt.show']").first().click();
  await page.click("[data-t='receipt.check']");
  await page.waitForSelector(".badge.bad[data-t='receipt.bad']");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("the API is found and read by keys alone, with an example for each operation", async () => {
  const { page, complaints, context } = await visitor();
  await page.goto(`${facts.url}/docs`);
  await page.waitForSelector(".operation");
  const description = await (await fetch(`${facts.url}/openapi.json`)).json();
  const all = Object.entries(description.paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`));
  assert.equal(await page.locator(".operation").count(), all.length);
  await page.keyboard.press("/");
  await page.keyboard.type("why get nodes");
  await page.waitForFunction(() => [...document.querySelectorAll(".operation")].filter((one) => !one.hidden).length < 4);
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "SUMMARY");
  await page.keyboard.press("Enter");
  const open = page.locator(".operation[open]");
  assert.match(await open.locator("pre").innerText(), /^curl http:\/\/127\.0\.0\.1:\d+\/\S+ \\\n {2}-H "Authorization: Bearer \$IRIS_KEY"$/);
  assert.match(page.url(), /#\w+$/);
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  await page.keyboard.press("Escape");
  await page.waitForFunction((count) => [...document.querySelectorAll(".operation")].filter((one) => !one.hidden).length === count, all.length);
  // Every one opens, and so does every schema below it.
  for (const operation of await page.locator(".operation").all()) await operation.evaluate((one) => (one.open = true));
  await page.waitForFunction((count) => document.querySelectorAll(".operation pre").length === count, all.length);
  const examples = await page.locator(".operation pre").allInnerTexts();
  for (const example of examples) {
    const body = example.match(/-d '(.*)'$/s)?.[1];
    if (body) assert.ok(typeof JSON.parse(body.replaceAll(String.raw`'\''`, "'")) === "object", example);
  }
  for (let depth = 0; depth < 3; depth += 1) {
    await page.evaluate(() => document.querySelectorAll(".members details:not([open])").forEach((one) => (one.open = true)));
    await page.waitForTimeout(100);
  }
  assert.ok(await page.locator(".members .members li").count() > 20);
  // A link to one operation opens it.
  await page.goto(`${facts.url}/docs#createInvitation`);
  await page.reload();
  await page.waitForSelector("#createInvitation[open] pre");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a small question is asked by thumb on a phone of 360 px", async () => {
  const { page, complaints, context } = await chatting(facts.engine, { viewport: { width: 360, height: 640 }, hasTouch: true, isMobile: true });
  const inView = async (selector) => {
    const box = await page.locator(selector).boundingBox();
    assert.ok(box && box.x >= 0 && box.y >= 0 && box.x + box.width <= 360 && box.y + box.height <= 640, `${selector}: ${JSON.stringify(box)}`);
    assert.ok(box.height >= 32 && box.width >= 32, `${selector} is too small for a thumb: ${JSON.stringify(box)}`);
  };
  for (const selector of ["#question", "#send", "#model", "#mode", "#attach", "#drawer"]) await inView(selector);
  await page.tap("#question");
  await page.fill("#question", "What is the capital of France?");
  await page.tap("#send");
  await page.waitForFunction(() => document.querySelector(".theirs .body")?.textContent.includes("Paris") && document.querySelector("#stop").hidden);
  for (const selector of ["#question", "#send"]) await inView(selector);
  await page.tap("#drawer");
  await page.waitForSelector(".talks.open .talk-name");
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
  await shot(page, "chat-drawer-phone");
  await page.tap(".talk-name");
  await page.waitForSelector(".talks:not(.open)", { state: "attached" });
  assert.deepEqual(complaints, []);
  await context.close();
});
