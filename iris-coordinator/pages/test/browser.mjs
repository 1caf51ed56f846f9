// A browser for tests of the pages, and what people do in it first.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";

const path = process.env.IRIS_PAGES_FACTS;
if (!path) {
  console.log("!!! SKIPPED: the pages in Chromium. They need .ci/clients/pages.py.");
  process.exit(0);
}

export const facts = JSON.parse(readFileSync(path, "utf8"));
const { chromium } = await import(facts.playwright);
const quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
// Whoever is root cannot make the sandbox; what runs in it comes from this network alone.
const args = process.getuid?.() === 0 ? ["--no-sandbox", ...quiet] : quiet;
export const browser = await chromium.launch({ executablePath: facts.browser, args });
after(() => browser.close());
export const axe = readFileSync(facts.axe, "utf8");
export const WIDE = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };

/** Opens a browser of its own; whatever its pages complain about is in `complaints`. */
export async function visitor(settings = {}) {
  const context = await browser.newContext({ viewport: WIDE, locale: "en-US", bypassCSP: false, ...settings });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    // A refusal that a page handles is a line of the browser's own.
    const isRefusal = /Failed to load resource: the server responded with a status of 4\d\d/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isRefusal) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.exposeFunction("hacked", () => complaints.push("a stranger's script ran"));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  return { context, page, complaints };
}

/** Opens a browser in which the account is signed in, at the coordinator or at what stands before it. */
export async function member({ at = facts.url, ...settings } = {}) {
  const visit = await visitor(settings);
  const { page } = visit;
  await page.goto(`${at}/account`);
  await page.fill("input[name=digits]", facts.digits);
  await page.press("input[name=digits]", "Enter");
  await page.waitForSelector("[role=tablist]");
  return visit;
}

/** Opens the operator's page with a key, which is typed there and in no address. */
export async function operator(settings) {
  const visit = await visitor(settings);
  const { page } = visit;
  await page.goto(`${facts.url}/operator`);
  await page.fill("input[name=operator-key]", facts.operator);
  await page.press("input[name=operator-key]", "Enter");
  await page.waitForSelector("[role=tablist]");
  return visit;
}

/** Submits a durable task as a program does, and returns its id. */
export async function submit(body) {
  const answer = await fetch(`${facts.url}/inference`, {
    method: "POST",
    headers: { authorization: `Bearer ${facts.key}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const said = await answer.json();
  assert.equal(answer.status, 202, JSON.stringify(said));
  return said.id;
}

export async function chatting(model, settings) {
  const visit = await member(settings);
  await visit.page.goto(`${facts.url}/chat`);
  await visit.page.waitForFunction((model) => [...document.querySelectorAll("#model option")].some((o) => o.value === model), model);
  await visit.page.selectOption("#model", model);
  return visit;
}

/** Asks, and returns the text of the complete answer. */
export async function ask(page, question) {
  const before = await page.locator(".theirs").count();
  await page.fill("#question", question);
  await page.press("#question", "Enter");
  await page.waitForFunction((n) => document.querySelectorAll(".theirs").length > n && document.querySelector("#stop").hidden, before);
  return page.locator(".theirs").last().locator(".body").innerText();
}

/** Waits until something that a page tells, maybe by a promise, is so. */
export async function until(page, isSo, argument, limit = 30_000) {
  for (const end = Date.now() + limit; Date.now() < end; await page.waitForTimeout(50)) {
    if (await page.evaluate(isSo, argument)) return;
  }
  throw new Error(`not within ${limit} ms: ${isSo}`);
}

export const shot = (page, name, fullPage = false) => page.screenshot({ path: join(facts.shots, `${name}.png`), fullPage });
