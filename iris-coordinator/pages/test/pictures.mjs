// Takes the README's pictures; `.ci/clients/pictures.py` runs a network for it.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { ask, browser, chatting, facts, member } from "./browser.mjs";

const LARGEST = 120_000;
const SIZE = { width: 1280, height: 800 };
/** Milliseconds after which the charts have points to show. */
const WHILE = 200_000;

async function picture(page, name) {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 88 });
  const bytes = Buffer.from(data, "base64");
  if (bytes.length > LARGEST) throw new Error(`${name} has ${bytes.length} bytes`);
  writeFileSync(join(facts.shots, `${name}.webp`), bytes);
  console.log(`${name}: ${bytes.length} bytes`);
}

const board = await member({ viewport: SIZE, deviceScaleFactor: 1.25, colorScheme: "dark" });
await board.page.goto(`${facts.url}/dashboard`);
const began = Date.now();

const chat = await chatting(facts.engine, { viewport: SIZE, deviceScaleFactor: 1.25 });
await chat.page.selectOption("#mode", "single");
await ask(chat.page, "What is the capital of France?");
await chat.page.selectOption("#mode", "sealed");
await ask(chat.page, "What is the capital of Japan?");
await chat.page.click("#new");
await chat.page.selectOption("#mode", "subtasks");
await ask(chat.page, "1. What is the capital of Spain?\n2. What is the capital of Italy?\n3. What is the capital of Greece?");
await chat.page.locator(".work summary").first().click();
await chat.page.selectOption("#mode", "sealed");
await ask(chat.page, "Who are you?");
await picture(chat.page, "chat");
await chat.context.close();

await board.page.waitForTimeout(Math.max(0, WHILE - (Date.now() - began)));
await picture(board.page, "dashboard");
await board.context.close();
await browser.close();
